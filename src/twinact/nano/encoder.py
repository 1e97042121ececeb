"""Trains the action encoder of nano: where the joints are, read off latents, whoever the actor is and wherever."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from twinact.backbones.memory import bf16_if_native
from twinact.nano.data import PictureBatch, freely_posed, picture_batches, trained_part
from twinact.nano.fit import fit_module, visited_twice
from twinact.nano.heatmaps import heat_loss
from twinact.nano.recipe import Recipe
from twinact.nano.vae import PatchCodes
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import EncoderConfig, LatentActionEncoder, degrade
from twinact.world.skeleton import JOINT_NAMES

STREAM = 5


def train_encoder(
    recipe: Recipe, codes: PatchCodes, device: torch.device, folder: Path, workers: int,
    report: Callable[[str], None], *, start: LatentActionEncoder | None = None,
) -> LatentActionEncoder:  # fmt: skip
    """Train to find the joints in latents that are noisy and blurred as a denoiser's early estimates are.

    Half of the poses are drawn freely: actions to be learned are those that no phrase names.

    Args:
        recipe: All numbers.
        codes: Picture → latents.
        device: Where it is trained.
        folder: Keeps the checkpoint.
        workers: Processes that draw.
        report: Receives lines about progress.
        start: An encoder whose weights it begins with where its configuration is the recipe's.
    """
    torch.manual_seed(recipe.seed)
    config = EncoderConfig(recipe.latent_channels, len(JOINT_NAMES), SEGMENTS, *recipe.encoder_widths)
    encoder = LatentActionEncoder(config)
    if start is not None and start.config == config:
        encoder.load_state_dict(start.state_dict())
    encoder = encoder.to(device)
    part, fit = trained_part(recipe), recipe.encoder

    def drawn(number: int) -> Iterator[PictureBatch]:
        first = number * fit.batch_size
        return picture_batches(
            recipe, part, fit.batch_size, fit.pictures, stream=STREAM, start=first, workers=workers, scene=freely_posed
        )

    def loss(step: int, batch: PictureBatch) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        latents = degrade(codes.encode(batch.images.to(device)), generator)
        with bf16_if_native(device):
            heat = encoder(latents)
        return {"loss": heat_loss(heat, batch.joints.to(device))}

    fit_module(encoder, lambda step: visited_twice(drawn, step), loss, fit, folder, report)
    return encoder
