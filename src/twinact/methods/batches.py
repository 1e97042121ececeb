"""Draws the batch of each step: exemplars, noise and times follow from the seed and the step's number alone."""

import hashlib

import torch
from torch.nn import functional as F

from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.data.exemplars import Exemplars
from twinact.data.shapes import Together, by_shape, together
from twinact.methods.method import Batch


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one purpose in one step; equal arguments give equal numbers on every machine."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_batch(
    backbone: Backbone,
    latents: Together,
    captions: tuple[str, ...],
    config: LearnConfig,
    step: int,
    masks: Together | None = None,
) -> Batch:
    """The batch of a step: exemplars in shuffled rounds, each round every one once, with partner, noise and time.

    Where exemplars differ in shape, a step has those of one shape, which has its turn as often as its share of the
    exemplars asks for; partners are of that shape, too.

    Args:
        backbone: Gives the times.
        latents: Latents of all exemplars.
        captions: Theirs.
        config: `seed`, `batch_size`, `steps` and `noise_bias` are used.
        step: From 0.
        masks: As `latent_masks` gives them.
    """
    own, turn, purpose = _turn(latents, config.seed, step)
    count, size = len(own), config.batch_size
    positions = range(turn * size, (turn + 1) * size)
    rounds = {position // count for position in positions}
    orders = {i: torch.randperm(count, generator=step_generator(config.seed, i, purpose)).tolist() for i in rounds}
    places = torch.tensor([orders[position // count][position % count] for position in positions])  # (b,)
    generator = step_generator(config.seed, step, "batch")
    # Any of the others, all alike likely; the only exemplar is its own partner.
    shift = torch.randint(1, count, (size,), generator=generator) if count > 1 else torch.zeros(size, dtype=torch.long)
    chosen = [own[place] for place in places.tolist()]
    partners = [own[place] for place in ((places + shift) % count).tolist()]
    clean = torch.stack([latents[number] for number in chosen])
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    return Batch(
        latents=clean,
        captions=tuple(captions[number] for number in chosen),
        partners=torch.stack([latents[number] for number in partners]),
        noise=noise,
        t=backbone.noising.sample_t(size, generator, config.noise_bias),
        mask=None if masks is None else torch.stack([masks[number] for number in chosen]),
        numbers=torch.tensor(chosen),
        partner_captions=tuple(captions[number] for number in partners),
        progress=step / max(1, config.steps),
    )


def _turn(latents: Together, seed: int, step: int) -> tuple[list[int], int, str]:
    """Whose turn it is in a step: exemplars of one shape, how many turns they have had, and what shuffles them.

    In as many steps as there are exemplars, every shape has one turn for each of its own.
    """
    groups = by_shape(latents)
    if len(groups) == 1:
        return list(range(len(latents))), step, "order"
    cycle, place = divmod(step, len(latents))
    order = torch.randperm(len(latents), generator=step_generator(seed, cycle, "shapes")).tolist()
    own = next(numbers for numbers in groups.values() if order[place] in numbers)
    return own, cycle * len(own) + sum(number in own for number in order[:place]), f"order/{own[0]}"


def latent_masks(exemplars: Exemplars, latents: Together) -> Together | None:
    """The masks of exemplars where their latents are: the mean over the pixels of each place; None without masks."""
    pixels = exemplars.mask_pixels
    if pixels is None:
        return None
    return together(
        [
            F.interpolate(mask[None], own.shape[1:], mode="area")[0].to(own.device)
            for mask, own in zip(pixels, latents, strict=True)
        ]
    )
