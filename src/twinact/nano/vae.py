"""The VAE of nano: a small AutoencoderKL trained on drawn pictures."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from twinact.nano.data import picture_batches, trained_part
from twinact.nano.fit import finished_steps, fit_module
from twinact.nano.recipe import Recipe

STREAM = 1
_KL_WEIGHT = 1e-6


def build_vae(recipe: Recipe) -> AutoencoderKL:
    """An untrained AutoencoderKL that reduces each side by four."""
    depth = len(recipe.vae_channels)
    torch.manual_seed(recipe.seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=recipe.vae_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=recipe.image_size,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
    )


def train_vae(
    recipe: Recipe, folder: Path, workers: int, device: torch.device, report: Callable[[str], None]
) -> AutoencoderKL:
    """Train on pictures of the world; the loss is L1 plus L2, heavier inside the figure, with a trace of KL.

    The scaling factor is set so that latents have unit variance.
    """
    vae = build_vae(recipe).to(device)
    part, fit = trained_part(recipe), recipe.vae
    start = finished_steps(folder) * fit.batch_size
    batches = picture_batches(recipe, part, fit.batch_size, fit.pictures, stream=STREAM, start=start, workers=workers)

    def posterior_shape(images: Tensor) -> tuple[int, ...]:
        return (len(images), recipe.latent_channels, images.shape[2] // 4, images.shape[3] // 4)

    def loss(step: int) -> dict[str, Tensor]:
        batch = next(batches)
        images = batch.images.to(device)
        noise = torch.randn(posterior_shape(images), generator=torch.Generator().manual_seed(step)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - images
        weight = 1 + 2 * batch.masks.to(device)
        mse = (weight * error.square()).mean()
        total = mse + 0.2 * (weight * error.abs()).mean() + _KL_WEIGHT * posterior.kl().mean()
        return {"loss": total, "psnr": psnr(error)}

    fit_module(vae, loss, fit, folder, report)
    vae.register_to_config(scaling_factor=_scaling_factor(vae, recipe))
    return vae


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of an error in [-1, 1] pictures."""
    return 10 * torch.log10(4 / error.square().mean())


@torch.no_grad()
def _scaling_factor(vae: AutoencoderKL, recipe: Recipe) -> float:
    batch = next(picture_batches(recipe, trained_part(recipe), 256, 256, stream=STREAM, workers=0))
    return round(1 / float(vae.encode(batch.images.to(vae.device)).latent_dist.mode().std()), 5)
