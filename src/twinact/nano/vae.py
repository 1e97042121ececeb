"""The VAE of nano: a small AutoencoderKL whose latents are linear codes of patches.

Left to itself, an autoencoder spreads pictures over its channels like noise: neighbouring latents are unrelated, and a
denoiser learns them slowly (Skorokhodov et al., "Improving the Diffusability of Autoencoders", 2025). Principal
components of patches keep the spectrum of pictures, coarse before fine; a decoder that sees the neighbourhood makes
more of them than the linear inverse.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from twinact.nano.data import PictureBatch, picture_batches, trained_part
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe

STREAM = 1
_FITTED_ON = 2000
# 1 would keep the variances of the components, 0 would make them equal: details neither drown nor lead.
_SCALE_POWER = 0.75
_MAX_NOISE = 0.15
_POSTERIOR_LOG_VARIANCE = -6.0


@dataclass(frozen=True)
class PatchCodes:
    """Linear codes of square patches.

    Attributes:
        weight: (c, 3, p, p) principal components, scaled.
        bias: (c,) such that codes have mean 0.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, recipe: Recipe, workers: int, patch: int = 4) -> "PatchCodes":
        """The leading components of the patches of drawn pictures; codes have unit variance over all channels."""
        part = trained_part(recipe)
        batch = next(picture_batches(recipe, part, _FITTED_ON, _FITTED_ON, stream=STREAM, workers=workers))
        patches = F.unfold(batch.images, patch, stride=patch).transpose(1, 2).flatten(0, 1).double()  # (n, 3 p p)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        kept = torch.arange(len(values) - 1, len(values) - 1 - recipe.latent_channels, -1)
        spread = values[kept].sqrt() ** _SCALE_POWER
        spread = spread / spread.square().mean().sqrt()
        basis = vectors[:, kept] * (spread / values[kept].sqrt())  # (3 p p, c)
        weight = basis.T.reshape(-1, 3, patch, patch)
        return cls(weight.float(), -(mean @ basis).float())

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (b, 3, h, w) in [-1, 1] → codes (b, c, h / p, w / p)."""
        weight = self.weight.to(images)
        return F.conv2d(images, weight, self.bias.to(images), stride=weight.shape[-1])


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
    """Train on pictures of the world: the encoder imitates `PatchCodes`, the decoder inverts them.

    The decoder's loss is L1 plus L2, heavier inside the figure, on codes with a little noise, as a denoiser leaves it.
    """
    vae = build_vae(recipe).to(device)
    part, fit = trained_part(recipe), recipe.vae
    codes = PatchCodes.fit(recipe, workers)

    def batches(step: int) -> Iterator[PictureBatch]:
        first = step * fit.batch_size
        return picture_batches(recipe, part, fit.batch_size, fit.pictures, stream=STREAM, start=first, workers=workers)

    def loss(step: int, batch: PictureBatch) -> dict[str, Tensor]:
        images = batch.images.to(device)
        wanted = codes.encode(images)
        generator = torch.Generator().manual_seed(step)
        noise = _MAX_NOISE * torch.rand(len(images), 1, 1, 1, generator=generator)
        noisy = wanted + (noise * torch.randn(wanted.shape, generator=generator)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            error = vae.decode(noisy).sample.float() - images
        weight = 1 + 2 * batch.masks.to(device)
        mse = (weight * error.square()).mean()
        imitation = (posterior.mean.float() - wanted).square().mean()
        spread = (posterior.logvar.float() - _POSTERIOR_LOG_VARIANCE).square().mean()
        total = mse + 0.2 * (weight * error.abs()).mean() + imitation + 1e-3 * spread
        return {"loss": total, "imitation": imitation, "psnr": psnr(error)}

    fit_module(vae, batches, loss, fit, folder, report)
    return vae


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of an error in [-1, 1] pictures."""
    return 10 * torch.log10(4 / error.square().mean())
