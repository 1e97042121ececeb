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
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from twinact.backbones.base import TokenTable
from twinact.backbones.text import Spliced, encode, splice
from twinact.encoders import LatentActionEncoder
from twinact.encoders.pose import degrade, joint_positions, segment_directions
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe
from twinact.nano.unet import PICTURES, Denoising, build_scheduler, cache_pictures
from twinact.nano.wishes import SEEN_SEGMENTS, Wishes

_EVERY = 4  # which step draws; the others see true pictures alone
# A drawing of this many steps, and the first of them, which decide the pose. Now and then the others are read instead.
_STEPS, _FIRST, _OTHERS_EVERY = 9, 4, 8
# Estimates are read a little blurred and noisy, so that no change of them that only the encoder sees helps.
_MAX_BLUR, _MAX_NOISE = 0.3, 0.15


@dataclass(frozen=True)
class _Asked:
    """What a step draws: words, directions (b, poses, segments, 2) of the poses that they may mean, and the noise
    (b, c, h, w) to begin with. Words that mean fewer poses than others repeat their first.
    """

    words: Spliced
    wanted: Tensor
    noise: Tensor


def pose_distance(
    found: Float[Tensor, "steps b segments 2"], wanted: Float[Tensor, "b poses segments 2"], slack: float
) -> Float[Tensor, " b"]:
    """Mean distance of segments' directions, beyond the slack, from those of the nearest pose.

    It is one pose for all steps of a drawing, or they would pull it in different ways.
    """
    # The root of zero has no slope.
    distance = (found[:, :, None] - wanted).square().sum(-1).add(1e-8).sqrt()  # (steps, b, poses, segments)
    return F.relu(distance - slack).mean((0, 3)).amin(1)


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
    varies by as much.
    """
    device, fit = text.device, recipe.refine
    pictures = cache_pictures(recipe, vae, tokenizer, pictures_folder / PICTURES, workers, report)
    denoising = Denoising(recipe, pictures, text, tokenizer, fit.batch_size)
    encoder = encoder.requires_grad_(False).eval().to(device)
    for name, parameter in text.named_parameters():
        parameter.requires_grad_("embedding" not in name)
    unet.to(device).set_attn_processor(AttnProcessor())
    scheduler = build_scheduler()
    table = TokenTable("text_encoder", tokenizer, text.get_input_embeddings().weight)
    wishes = Wishes(recipe, table)

    def asked(step: int, like: Tensor) -> _Asked:
        wished = wishes.of(step)
        vectors = {placeholder: v for wish in wished for placeholder, v in wish.vectors.items()}
        most = max(len(wish.poses) for wish in wished)
        wanted = [torch.cat([w.poses, w.poses[:1].expand(most - len(w.poses), -1, -1)]) for w in wished]
        noise = torch.randn(len(wished), *like.shape[1:], generator=torch.Generator().manual_seed(recipe.seed + step))
        words = splice(table, [wish.words for wish in wished], vectors, recipe.max_tokens)
        return _Asked(words.to(device), torch.stack(wanted).to(device), noise.to(device))

    def batches(step: int) -> Iterator[tuple[dict[str, Tensor], _Asked | None]]:
        for number in range(step, fit.steps):
            true = denoising.batch(number)
            yield true, asked(number, true["latents"]) if number % _EVERY == 0 else None

    def predict(x_t: Tensor, t: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return unet(x_t, t, encoder_hidden_states=hidden).sample, hidden

    def pose_error(step: int, wish: _Asked) -> Tensor:
        """Mean `pose_distance` of a step's drawings, over those of their steps that are read."""
        generator = torch.Generator().manual_seed(recipe.seed + step)
        others = step // _EVERY % _OTHERS_EVERY == _OTHERS_EVERY - 1
        read = range(_FIRST, _STEPS) if others else range(_FIRST)
        scheduler.set_timesteps(_STEPS)  # forgets the drawing before
        x, found = wish.noise, []
        told = encode(text, wish.words).last_hidden_state
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
                    heat = encoder(degrade(estimate, generator, _MAX_BLUR, _MAX_NOISE))
                    found.append(segment_directions(joint_positions(heat), SEEN_SEGMENTS))
            x = scheduler.step(velocity.detach(), t, x).prev_sample
        return pose_distance(torch.stack(found), wish.wanted, recipe.pose_slack).mean()

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
