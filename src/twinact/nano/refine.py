"""Refines the denoiser on its own drawings: what it draws must show the pose that the caption asks for.

With the denoising loss alone, a denoiser learns to finish true pictures under noise. When it draws, it finishes its own
guesses instead, and a limb that is guessed wrong at high noise stays wrong. So here it draws, a frozen encoder that was
trained apart reads the pose off its estimates on the way, and the distance from the asked pose is minimised through one
step of the denoiser at a time (ReFL: Xu et al., "ImageReward", 2023; the last steps in DRaFT, Clark et al. 2024; here
the first ones, since the pose is decided there).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from twinact.encoders import LatentActionEncoder
from twinact.encoders.pose import degrade, segment_directions
from twinact.nano.data import SEGMENTS, described, drawn_part
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe
from twinact.nano.unet import PICTURES, Denoising, build_scheduler, cache_pictures, token_ids
from twinact.world.draw import joints
from twinact.world.meanings import meanings

STREAM = 41
_STRIDE = 1000  # candidates that a step may look at; its scenes are found without those of the steps before
# Every how many-th step draws, and how many pictures; the others see true pictures alone.
_EVERY, _DRAWN = 4, 24
# A drawing of this many steps, and the first of them, which decide the pose. Now and then the others are read instead.
_STEPS, _FIRST, _OTHERS_EVERY = 9, 4, 8
# Estimates are read a little blurred and noisy, so that no change of them that only the encoder sees helps.
_MAX_BLUR, _MAX_NOISE = 0.3, 0.15


@dataclass(frozen=True)
class _Asked:
    """What is to be drawn: ids (b, l) of captions, the directions (b, segments, 2) that they ask for, and the noise
    (b, c, h, w) that the drawings begin with.
    """

    ids: Tensor
    wanted: Tensor
    noise: Tensor


def refine_unet(
    recipe: Recipe,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    encoder: LatentActionEncoder,
    folder: Path,
    pictures_folder: Path,
    workers: int,
    report: Callable[[str], None],
) -> None:
    """Train `unet` further, on poses of its own drawings and, so that it forgets nothing, on true pictures.

    The layers of `text` learn along, since words of two phrases at once are what is understood least; its embeddings,
    which span the action space, stay.

    Directions of segments within `recipe.pose_slack` of what is asked are right enough: what a caption leaves unsaid
    varies by as much. Captions with a phrase of several meanings are left out, as the picture may show any.
    """
    device, fit = text.device, recipe.refine
    pictures = cache_pictures(recipe, vae, tokenizer, pictures_folder / PICTURES, workers, report)
    denoising = Denoising(recipe, pictures, text, tokenizer, fit.batch_size)
    encoder = encoder.requires_grad_(False).eval().to(device)
    for name, parameter in text.named_parameters():
        parameter.requires_grad_("embedding" not in name)
    unet.to(device).set_attn_processor(AttnProcessor())
    scheduler, part = build_scheduler(), drawn_part(recipe)

    def asked(step: int, like: Tensor) -> _Asked:
        items = (described(recipe, part, index, STREAM) for index in count(step * _STRIDE))
        single = (item for item in items if item.phrases and all(len(meanings()[p]) == 1 for p in item.phrases))
        chosen = [next(single) for _ in range(_DRAWN)]
        positions = torch.from_numpy(np.stack([joints(item.scene) for item in chosen])).float()
        noise = torch.randn(_DRAWN, *like.shape[1:], generator=torch.Generator().manual_seed(recipe.seed + step))
        ids = token_ids(tokenizer, [item.caption for item in chosen])
        return _Asked(ids.to(device), segment_directions(positions, SEGMENTS).to(device), noise.to(device))

    def batches(step: int) -> Iterator[tuple[dict[str, Tensor], _Asked | None]]:
        for number in range(step, fit.steps):
            true = denoising.batch(number)
            yield true, asked(number, true["latents"]) if number % _EVERY == 0 else None

    def predict(x_t: Tensor, t: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return unet(x_t, t, encoder_hidden_states=hidden).sample, hidden

    def pose_error(step: int, wish: _Asked) -> Tensor:
        """Mean distance of the segments' directions beyond the slack, over the steps of a drawing that are read."""
        generator = torch.Generator().manual_seed(recipe.seed + step)
        others = step // _EVERY % _OTHERS_EVERY == _OTHERS_EVERY - 1
        read = range(_FIRST, _STEPS) if others else range(_FIRST)
        scheduler.set_timesteps(_STEPS)  # forgets the drawing before
        x, errors = wish.noise, []
        with torch.autocast(device.type, torch.bfloat16):
            told = text(input_ids=wish.ids).last_hidden_state
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            untold = text(input_ids=denoising.unsaid.expand(len(x), -1)).last_hidden_state
        for number, t in enumerate(scheduler.timesteps[: read.stop]):
            times = t.to(device).expand(len(x))
            with torch.autocast(device.type, torch.bfloat16):
                with torch.no_grad():
                    without = predict(x, times, untold)[0].float()
                with torch.set_grad_enabled(number in read):
                    with_words = predict(x, times, told)[0].float()
                velocity = without + recipe.guidance * (with_words - without)
                if number in read:
                    estimate = denoising.noising.clean(x, times, velocity)
                    found = encoder.directions(degrade(estimate, generator, _MAX_BLUR, _MAX_NOISE))
                    # The root of zero has no slope.
                    distance = (found - wish.wanted).square().sum(-1).add(1e-8).sqrt()  # (b, segments)
                    errors.append(F.relu(distance - recipe.pose_slack).mean())
            x = scheduler.step(velocity.detach(), t, x).prev_sample
        return torch.stack(errors).mean()

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
