"""Trains the action encoder of nano: clean latents to pose features, blind to actor and place."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from twinact.encoders.head import EncoderConfig, LatentActionEncoder, degrade
from twinact.nano.data import DIRECTION_FEATURES, PictureBatch, picture_batches, trained_part
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe

STREAM = 5


def train_encoder(
    recipe: Recipe, vae: AutoencoderKL, folder: Path, workers: int, report: Callable[[str], None]
) -> LatentActionEncoder:
    """Train to read the pose from latents that are noisy and blurred as a denoiser's early estimates are."""
    device = vae.device
    torch.manual_seed(recipe.seed)
    encoder = LatentActionEncoder(EncoderConfig(recipe.latent_channels, DIRECTION_FEATURES)).to(device)
    part, fit = trained_part(recipe), recipe.encoder

    def batches(step: int) -> Iterator[PictureBatch]:
        first = step * fit.batch_size
        return picture_batches(recipe, part, fit.batch_size, fit.pictures, stream=STREAM, start=first, workers=workers)

    def loss(step: int, batch: PictureBatch) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(batch.images.to(device)).latent_dist.mode().float() * vae.config.scaling_factor
            latents = degrade(latents, generator)
        with torch.autocast(device.type, torch.bfloat16):
            pose = encoder.pose(encoder.encode(latents))
        truth = batch.directions.to(device)
        error = F.smooth_l1_loss(pose.float(), truth, beta=0.1)
        return {"loss": error, "mean_error": (pose.float() - truth).abs().mean().detach()}

    fit_module(encoder, batches, loss, fit, folder, report)
    return encoder
