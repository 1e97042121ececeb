"""Refines the denoiser on its own drawings: what it draws must show the pose that the caption asks for.

With the denoising loss alone, a denoiser learns to finish true pictures under noise. When it draws, it finishes its own
guesses instead, and a limb that is guessed wrong at high noise stays wrong. So here it draws, a frozen encoder that was
trained apart reads the pose off its estimates on the way, and the distance from the asked pose is minimised through one
step of the denoiser at a time (ReFL: Xu et al., "ImageReward", 2023; the last steps in DRaFT, Clark et al. 2024; here
the first ones, since the pose is decided there).

Words that leave a choice ("scratching the head", with either hand) would be drawn as both at once: under pure noise the
mean of the two is the best estimate. So what counts is the distance from the nearest of the poses that they allow
(winner takes all, as in multiple choice learning: Guzmán-Rivera et al., 2012).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from twinact.backbones.memory import bf16_if_native
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe
from twinact.nano.text import token_ids
from twinact.nano.unet import Denoising, build_scheduler, learn_along
from twinact.nano.wishes import Wishes
from twinact.readers import LatentActionEncoder
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import degrade, joint_positions, segment_directions

_EVERY = 4  # which step draws; the others see true pictures alone
# The first steps of a drawing, which decide the pose. Now and then the others are read instead.
_FIRST, _OTHERS_EVERY = 4, 8
# Estimates are read a little blurred and noisy, so that no change of them that only the encoder sees helps.
_MAX_BLUR, _MAX_NOISE = 0.3, 0.15


class _Asked(NamedTuple):
    """What a step draws: ids (b, l) of the words and of those mixed in, and how much (b,); directions
    (b, poses, segments, 2) of the poses that they may mean, with weights (b, segments); and the noise (b, c, h, w) to
    begin with. Words that mean fewer poses than others repeat their first.
    """

    ids: Tensor
    second: Tensor
    share: Tensor
    poses: Tensor
    weights: Tensor
    noise: Tensor


class _Asking(Dataset):
    """What every step asks for that draws, by its number alone."""

    def __init__(self, recipe: Recipe, tokenizer: CLIPTokenizer) -> None:
        self.recipe, self.tokenizer, self.wishes = recipe, tokenizer, Wishes(recipe)

    def __getitem__(self, step: int) -> _Asked:
        recipe, side = self.recipe, self.recipe.image_size // 8
        wished = self.wishes.of(step, recipe.drawings)
        most = max(len(wish.poses) for wish in wished)
        poses = [torch.cat([w.poses, w.poses[:1].expand(most - len(w.poses), -1, -1)]) for w in wished]
        ids, second = (
            token_ids(self.tokenizer, words, recipe.max_tokens)
            for words in ([wish.words for wish in wished], [wish.second for wish in wished])
        )
        share, weights = torch.tensor([w.share for w in wished]), torch.stack([w.weights for w in wished])
        generator = torch.Generator().manual_seed(recipe.seed + step)
        noise = torch.randn(len(wished), recipe.latent_channels, side, side, generator=generator)
        return _Asked(ids, second, share, torch.stack(poses), weights, noise)


def pose_distance(
    found: Float[Tensor, "steps b segments 2"],
    wanted: Float[Tensor, "b poses segments 2"],
    weights: Float[Tensor, "b segments"],
    slack: float,
) -> Float[Tensor, " b"]:
    """Weighted mean distance of segments' directions, beyond the slack, from those of the nearest pose.

    It is one pose for all steps of a drawing, or they would pull it in different ways.
    """
    # The root of zero has no slope.
    distance = (found[:, :, None] - wanted).square().sum(-1).add(1e-8).sqrt()  # (steps, b, poses, segments)
    beyond = F.relu(distance - slack) * weights[:, None]
    return (beyond.mean(0).sum(2) / weights.sum(1, keepdim=True)).amin(1)


def refine_unet(
    recipe: Recipe,
    denoising: Denoising,
    unet: UNet2DConditionModel,
    encoder: LatentActionEncoder,
    tokenizer: CLIPTokenizer,
    folder: Path,
    workers: int,
    report: Callable[[str], None],
) -> None:
    """Train `unet` further, on poses of its own drawings and, so that it forgets nothing, on true pictures.

    The layers of the text tower learn along, since words of several phrases at once are what is understood least.

    Directions of segments within `recipe.pose_slack` of what is asked are right enough: what a caption leaves unsaid
    varies by as much.
    """
    text, device, fit = denoising.text, denoising.device, recipe.refine
    encoder = encoder.requires_grad_(False).eval().to(device)
    learn_along(text)
    unet.to(device).set_attn_processor(AttnProcessor())
    scheduler = build_scheduler()
    asking = _Asking(recipe, tokenizer)

    def batches(step: int) -> Iterator[tuple[dict[str, Tensor], _Asked | None]]:
        drawing = range(-(-step // _EVERY) * _EVERY, fit.steps, _EVERY)
        asked = iter(DataLoader(asking, batch_size=None, sampler=drawing, num_workers=workers))
        for number in range(step, fit.steps):
            true = denoising.batch(number)
            yield true, _Asked(*(x.to(device) for x in next(asked))) if number % _EVERY == 0 else None

    def predict(x_t: Tensor, t: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return unet(x_t, t, encoder_hidden_states=hidden).sample, hidden

    def pose_error(step: int, wish: _Asked) -> Tensor:
        """Mean `pose_distance` of a step's drawings, over those of their steps that are read."""
        generator = torch.Generator().manual_seed(recipe.seed + step)
        others = step // _EVERY % _OTHERS_EVERY == _OTHERS_EVERY - 1
        read = range(_FIRST, recipe.drawing_steps) if others else range(_FIRST)
        scheduler.set_timesteps(recipe.drawing_steps)  # forgets the drawing before
        x, found = wish.noise, []
        with bf16_if_native(device):
            told = denoising.read({"ids": wish.ids, "second": wish.second, "share": wish.share})
            with torch.no_grad():
                untold = text(input_ids=denoising.unsaid.expand(len(x), -1)).last_hidden_state
        for number, t in enumerate(scheduler.timesteps[: read.stop]):
            times = t.to(device).expand(len(x))
            with bf16_if_native(device):
                with torch.no_grad():
                    without = predict(x, times, untold)[0].float()
                with torch.set_grad_enabled(number in read):
                    with_words = predict(x, times, told)[0].float()
                velocity = without + recipe.guidance * (with_words - without)
                if number in read:
                    estimate = denoising.noising.clean(x, times, velocity)
                    heat = encoder(degrade(estimate, generator, _MAX_BLUR, _MAX_NOISE))
                    found.append(segment_directions(joint_positions(heat), SEGMENTS))
            x = scheduler.step(velocity.detach(), t, x).prev_sample
        return pose_distance(torch.stack(found), wish.poses, wish.weights, recipe.pose_slack).mean()

    def loss(step: int, seen: tuple[dict[str, Tensor], _Asked | None]) -> dict[str, Tensor]:
        true, wish = seen
        error, _ = denoising.loss(step, true, predict)
        if wish is None:
            return {"loss": error, "denoising": error}
        pose = pose_error(step, wish)
        return {"loss": error + recipe.pose_weight * pose, "denoising": error, "pose": pose}

    fit_module(nn.ModuleDict({"unet": unet, "text": text}), batches, loss, fit, folder, report)
    text.requires_grad_(False)
    unet.set_default_attn_processor()
