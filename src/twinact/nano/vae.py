"""The VAE of nano: a small AutoencoderKL whose latents are linear codes of patches.

Left to itself, an autoencoder spreads pictures over its channels like noise: neighbouring latents are unrelated, and a
denoiser learns them slowly (Skorokhodov et al., "Improving the Diffusability of Autoencoders", 2025). Principal
components of patches keep the spectrum of pictures, coarse before fine. The codes are those of pictures at half their
size; a decoder that sees the neighbourhood draws the outlines at full size, since the world's outlines are all alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.memory import bf16_if_native
from twinact.nano.data import PictureBatch, freely_posed, picture_batches, trained_part
from twinact.nano.fit import fit_module
from twinact.nano.recipe import Recipe

STREAM = 1
_FITTED_ON = 2000
_PATCH = 4  # pixels of the picture at half its size
# 1 would keep the variances of the components, 0 would make them equal: details neither drown nor lead.
_SCALE_POWER = 0.75
_MAX_NOISE = 0.15
_POSTERIOR_LOG_VARIANCE = -6.0


def halved(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
    """Pictures at half their size."""
    return F.avg_pool2d(images, 2)


@dataclass(frozen=True)
class PatchCodes:
    """Linear codes of square patches of pictures at half their size.

    Attributes:
        weight: (c, 3, p, p) principal components, scaled.
        bias: (c,) such that codes have mean 0.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, recipe: Recipe, workers: int) -> "PatchCodes":
        """The leading components of the patches of drawn pictures; codes have unit variance over all channels."""
        patches = _patches(halved(_drawn(recipe, workers))).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        kept = torch.arange(len(values) - 1, len(values) - 1 - recipe.latent_channels, -1)
        spread = values[kept].sqrt() ** _SCALE_POWER
        spread = spread / spread.square().mean().sqrt()
        basis = vectors[:, kept] * (spread / values[kept].sqrt())  # (3 p p, c)
        return cls(_kernel(basis), -(mean @ basis).float())

    @classmethod
    def of(cls, vae: AutoencoderKL, recipe: Recipe, workers: int) -> "PatchCodes":
        """The linear codes that come nearest to what an encoder makes of pictures, at their size or at half of it.

        A denoiser that was trained on that encoder's latents then goes on with these.
        """
        images = _drawn(recipe, workers)
        seen = images if 2 ** (len(vae.config.block_out_channels) - 1) == 2 * _PATCH else halved(images)
        with torch.no_grad():
            latents = torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in seen.split(50)])
        rows = latents.flatten(2).transpose(1, 2).flatten(0, 1).double()
        patches = _patches(halved(images)).double()
        inputs = torch.cat([patches, patches.new_ones(len(patches), 1)], 1)
        solution = torch.linalg.lstsq(inputs, rows * vae.config.scaling_factor).solution
        return cls(_kernel(solution[:-1]), solution[-1].float())

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Pictures in [-1, 1] → codes, an eighth of their height and width."""
        return F.conv2d(halved(images), self.weight.to(images), self.bias.to(images), stride=_PATCH)


def _drawn(recipe: Recipe, workers: int) -> Tensor:
    part = trained_part(recipe)
    batches = picture_batches(recipe, part, _FITTED_ON // 8, _FITTED_ON, stream=STREAM, workers=workers)
    return torch.cat([batch.images for batch in batches])


def _patches(images: Tensor) -> Tensor:
    return F.unfold(images, _PATCH, stride=_PATCH).transpose(1, 2).flatten(0, 1)  # (n, 3 p p)


def _kernel(basis: Tensor) -> Tensor:
    return basis.T.reshape(-1, 3, _PATCH, _PATCH).float()


def build_vae(recipe: Recipe) -> AutoencoderKL:
    """An untrained AutoencoderKL that reduces each side by eight."""
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
    recipe: Recipe, folder: Path, workers: int, device: torch.device, report: Callable[[str], None],
    start: AutoencoderKL | None = None,
) -> AutoencoderKL:  # fmt: skip
    """Train on pictures of the world: the encoder imitates `PatchCodes`, the decoder inverts them.

    The decoder's loss is L1 plus L2, heavier inside the figure, and L1 on the differences of neighbouring pixels, which
    keeps outlines sharp; it sees codes with a little noise, as a denoiser leaves it.

    Args:
        recipe: Sizes, and the length of the training.
        folder: Gets checkpoints and the log.
        workers: Processes that draw.
        device: Where to train.
        report: Receives lines about progress.
        start: A VAE whose latents are imitated, and whose weights are taken over if it has the same layers.
    """
    vae = build_vae(recipe).to(device)
    if start is not None and start.config.block_out_channels == vae.config.block_out_channels:
        vae.load_state_dict(start.state_dict())
    part, fit = trained_part(recipe), recipe.vae
    codes = PatchCodes.fit(recipe, workers) if start is None else PatchCodes.of(start, recipe, workers)

    def batches(step: int) -> Iterator[PictureBatch]:
        first = step * fit.batch_size
        return picture_batches(
            recipe, part, fit.batch_size, fit.pictures, stream=STREAM, start=first, workers=workers, scene=freely_posed
        )

    def loss(step: int, batch: PictureBatch) -> dict[str, Tensor]:
        images = batch.images.to(device)
        wanted = codes.encode(images)
        generator = torch.Generator().manual_seed(step)
        noise = _MAX_NOISE * torch.rand(len(images), 1, 1, 1, generator=generator)
        noisy = wanted + (noise * torch.randn(wanted.shape, generator=generator)).to(device)
        with bf16_if_native(device):
            posterior = vae.encode(images).latent_dist
            error = vae.decode(noisy).sample.float() - images
        weight = 1 + 2 * batch.masks.to(device)
        terms = {
            "mse": (weight * error.square()).mean(),
            "l1": (weight * error.abs()).mean(),
            "edges": sum((error.diff(dim=axis)).abs().mean() for axis in (2, 3)),
            "imitation": (posterior.mean.float() - wanted).square().mean(),
            "spread": (posterior.logvar.float() - _POSTERIOR_LOG_VARIANCE).square().mean(),
        }
        total = terms["mse"] + 0.2 * terms["l1"] + 0.3 * terms["edges"] + terms["imitation"] + 1e-3 * terms["spread"]
        return {"loss": total, **terms, "psnr": psnr(error)}

    fit_module(vae, batches, loss, fit, folder, report)
    return vae


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of an error in [-1, 1] pictures."""
    return 10 * torch.log10(4 / error.square().mean())
