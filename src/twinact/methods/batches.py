"""Draws the batch of each step: exemplars, noise and times follow from the seed and the step's number alone."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.data.exemplars import Exemplars
from twinact.methods.method import Batch


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one purpose in one step; equal arguments give equal numbers on every machine."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_batch(
    backbone: Backbone,
    latents: Float[Tensor, "n c h w"],
    captions: tuple[str, ...],
    config: LearnConfig,
    step: int,
    masks: Float[Tensor, "n 1 h w"] | None = None,
) -> Batch:
    """The batch of a step: exemplars in shuffled rounds, each round every one once, with partner, noise and time.

    Args:
        backbone: Gives the times.
        latents: Latents of all exemplars.
        captions: Theirs.
        config: `seed`, `batch_size`, `steps` and `noise_bias` are used.
        step: From 0.
        masks: As `latent_masks` gives them.
    """
    count, size = len(latents), config.batch_size
    positions = range(step * size, (step + 1) * size)
    rounds = {position // count for position in positions}
    orders = {i: torch.randperm(count, generator=step_generator(config.seed, i, "order")).tolist() for i in rounds}
    chosen = torch.tensor([orders[position // count][position % count] for position in positions])  # (b,)
    generator = step_generator(config.seed, step, "batch")
    # Any of the others, all alike likely; the only exemplar is its own partner.
    shift = torch.randint(1, count, (size,), generator=generator) if count > 1 else torch.zeros(size, dtype=torch.long)
    partners = (chosen + shift) % count
    noise = torch.randn((size, *latents.shape[1:]), generator=generator).to(latents)
    return Batch(
        latents=latents[chosen.to(latents.device)],
        captions=tuple(captions[index] for index in chosen.tolist()),
        partners=latents[partners.to(latents.device)],
        noise=noise,
        t=backbone.noising.sample_t(size, generator, config.noise_bias),
        mask=None if masks is None else masks[chosen.to(masks.device)],
        numbers=chosen,
        partner_captions=tuple(captions[index] for index in partners.tolist()),
        progress=step / max(1, config.steps),
    )


def latent_masks(exemplars: Exemplars, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"] | None:
    """The masks of exemplars where their latents are: the mean over the pixels of each place; None without masks."""
    pixels = exemplars.mask_pixels
    return None if pixels is None else F.interpolate(pixels, latents.shape[2:], mode="area").to(latents.device)
