"""Trains the judges that belong to nano, apart from everything that a loss of nano or of learning sees."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from twinact.backbones.memory import bf16_if_native
from twinact.nano.data import draw_alone
from twinact.nano.fit import fit_module, visited_twice
from twinact.nano.heatmaps import heat_loss
from twinact.nano.recipe import Recipe
from twinact.readers.latent import joint_positions
from twinact.world.bodies import ACTORS
from twinact.world.draw import drawing
from twinact.world.judges.judges import SIDE, Judges
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.pose import POSE_FEATURES, pose_features
from twinact.world.sampling import sample_free_scene
from twinact.world.things import THINGS

STREAM = 77
# Of the pose features: sine and cosine of the rotation, clearance, torso and head.
_WHOLE_BODY = 7
# Share of the training pictures that are compressed; every how many-th one goes through the VAE.
_COMPRESSED, _DECODED = 0.25, 8


class _FreeScenes(Dataset):
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.recipe.seed, STREAM, index])
        scene = sample_free_scene(rng)
        drawn = drawing(scene, self.recipe.image_size)
        picture = cv2.resize(drawn.picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return {
            "pixels": compressed(picture, int(rng.integers(30, 96))) if rng.random() < _COMPRESSED else picture,
            # Few go through the VAE, which needs them whole.
            "whole": drawn.picture if index % _DECODED == 0 else np.empty(0, np.uint8),
            "joints": drawn.joints.astype(np.float32),
            "pose": pose_features(scene.pose),
            "actor": list(ACTORS).index(scene.actor),
            "place": list(PLACES).index(scene.place),
            "things": np.array([thing in scene.things for thing in THINGS], np.float32),
            "light": list(LIGHTS).index(scene.light),
        }


def _collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    whole = [item.pop("whole") for item in items]
    batch: dict[str, Tensor] = default_collate(items)
    return batch | {"whole": torch.from_numpy(np.stack([picture for picture in whole if picture.size]))}


def train_judges(
    recipe: Recipe, judges: Judges, vae: AutoencoderKL, folder: Path, workers: int, report: Callable[[str], None]
) -> None:
    """Train `judges`, where they are, on freely drawn poses, whose held-out actors and custom actions they must know.

    Some pictures are compressed, some went through the VAE that the judged ones come from, and all are spoiled by
    `augment`.
    """
    fit, device = recipe.judges, next(judges.parameters()).device
    # Limb angles are read off the joints; of the features, the body's rotation, height and head matter most.
    weight = torch.full((POSE_FEATURES,), 0.1, device=device)
    weight[:_WHOLE_BODY] = 1.0

    def drawn(number: int) -> Iterator[dict[str, Tensor]]:
        indices = range(number * fit.batch_size, fit.steps * fit.batch_size)
        return iter(
            DataLoader(
                _FreeScenes(recipe),
                fit.batch_size,
                sampler=indices,
                num_workers=workers,
                collate_fn=_collate,
                worker_init_fn=draw_alone,
            )
        )

    def loss(step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        seen = {name: values.to(device) for name, values in batch.items()}
        clean, whole = (seen[name].permute(0, 3, 1, 2).float() / 127.5 - 1 for name in ("pixels", "whole"))
        with torch.no_grad(), bf16_if_native(device):
            decoded = vae.decode(vae.encode(whole).latent_dist.mode()).sample.float()
        clean[::_DECODED] = F.interpolate(decoded, size=(SIDE, SIDE), mode="area")
        images = augment(clean, torch.Generator(device).manual_seed(step))
        with bf16_if_native(device):
            found = judges(images)
        unlike = F.smooth_l1_loss(found.pose.float(), seen["pose"], beta=0.05, reduction="none")
        terms = {
            "heat": heat_loss(found.heat, seen["joints"]),
            "joints": (joint_positions(found.heat) - seen["joints"]).abs().mean(),
            "pose": (weight * unlike).mean(),
            "actor": F.cross_entropy(found.actor.float(), seen["actor"]),
            "place": F.cross_entropy(found.place.float(), seen["place"]),
            "things": F.binary_cross_entropy_with_logits(found.things.float(), seen["things"]),
            "light": F.cross_entropy(found.light.float(), seen["light"]),
        }
        shares = {"heat": 1.0, "joints": 10.0, "pose": 3.0, "actor": 0.5, "place": 0.1, "things": 1.0, "light": 0.1}
        return {"loss": sum(share * terms[name] for name, share in shares.items()), **terms}

    fit_module(judges, lambda step: visited_twice(drawn, step), loss, fit, folder, report)


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """An RGB picture (h, w, 3) uint8 after JPEG of a quality from 1 to 100."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))  # a copy, since torch warns of arrays that cannot be written


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, h, w) as a generator might spoil them: blurred, noisy, with contrast and colours shifted.

    The random generator must be on their device.
    """
    b = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=images.device)

    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = torch.lerp(images, blurred, uniform(b, 1, 1, 1) * (uniform(b, 1, 1, 1) < 0.5))
    gain = 1 + 0.25 * (uniform(b, 3, 1, 1) - 0.5)
    shift = 0.2 * (uniform(b, 3, 1, 1) - 0.5)
    noise = 0.15 * uniform(b, 1, 1, 1).square() * torch.randn(images.shape, generator=generator, device=images.device)
    return (mixed * gain + shift + noise).clamp(-1, 1)
