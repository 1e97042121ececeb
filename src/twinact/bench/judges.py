"""Judges: networks that say which pose, actor and place a picture shows.

They are trained on pixels of the whole world (held-out actors too), with poses drawn freely and so without regard to
any phrase, from other seeds and with another architecture than anything that a loss may see.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from twinact.errors import CheckpointError
from twinact.nano.data import POSE_FEATURES, features_pose, pose_features
from twinact.nano.fit import finished_steps, fit_module
from twinact.nano.recipe import Recipe
from twinact.world.bodies import ACTORS
from twinact.world.draw import draw
from twinact.world.places import PLACES
from twinact.world.pose import Pose
from twinact.world.sampling import sample_camera, sample_free_pose
from twinact.world.scene import WORLD_VERSION, Scene

STREAM = 77


@dataclass(frozen=True)
class Verdict:
    """What the judges read from one picture."""

    pose: Pose
    actor: str
    place: str


class Judges(nn.Module):
    """One convolutional trunk with a grid of features, and a head each for pose, actor and place."""

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 160)) -> None:
        super().__init__()
        self.actors, self.places = tuple(ACTORS), tuple(PLACES)
        layers: list[nn.Module] = []
        previous = 3
        for width in widths:
            layers += [nn.Conv2d(previous, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
            layers += [_Residual(width)]
            previous = width
        self.trunk = nn.Sequential(*layers)
        flat = widths[-1] * 16
        self.pose = nn.Sequential(nn.Linear(flat, 384), nn.ReLU(), nn.Linear(384, POSE_FEATURES))
        self.actor = nn.Sequential(nn.Linear(flat, 96), nn.ReLU(), nn.Linear(96, len(self.actors)))
        self.place = nn.Sequential(nn.Linear(flat, 96), nn.ReLU(), nn.Linear(96, len(self.places)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (b, 3, h, w) in [-1, 1], any size; returns pose features (b, 25) and logits of actor and place."""
        if images.shape[-1] != 64:
            images = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        features = self.trunk(images).flatten(1)
        return self.pose(features), self.actor(features), self.place(features)

    @torch.no_grad()
    def judge(self, pictures: Sequence[Image.Image | np.ndarray]) -> list[Verdict]:
        """Verdicts on RGB pictures of equal size."""
        stacked = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float()
        verdicts = []
        for chunk in (stacked / 127.5 - 1).split(128):
            pose, actor, place = self(chunk)
            for p, a, q in zip(pose.numpy(), actor.argmax(1).tolist(), place.argmax(1).tolist(), strict=True):
                verdicts.append(Verdict(features_pose(p), self.actors[a], self.places[q]))
        return verdicts

    def save(self, folder: Path) -> None:
        """Write ``judges.safetensors`` (half precision) and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in self.state_dict().items()}
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "judges.safetensors")
        config = {"world_version": WORLD_VERSION, "actors": self.actors, "places": self.places}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Judges":
        """Read what `save` wrote.

        Raises:
            CheckpointError: The judges were trained on another version of the world.
        """
        config = json.loads((folder / "config.json").read_text())
        judges = cls()
        if (config["world_version"], *config["actors"], *config["places"]) != (
            WORLD_VERSION, *judges.actors, *judges.places,
        ):  # fmt: skip
            raise CheckpointError(f"{folder}: the judges belong to another world; run twinact nano train --only judges")
        judges.load_state_dict({n: t.float() if t.is_floating_point() else t
                                for n, t in load_file(folder / "judges.safetensors").items()})  # fmt: skip
        return judges.eval()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.net(x))


class _FreeScenes(Dataset):
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        scene = free_scene(np.random.default_rng([self.recipe.seed, STREAM, index]))
        return (
            draw(scene, self.recipe.image_size),
            pose_features(scene.pose),
            list(ACTORS).index(scene.actor),
            list(PLACES).index(scene.place),
        )


def free_scene(rng: np.random.Generator) -> Scene:
    """Any actor of the world in any place in a freely drawn pose."""
    actors, places = list(ACTORS), list(PLACES)
    actor, place = actors[rng.integers(len(actors))], places[rng.integers(len(places))]
    return Scene(actor, sample_free_pose(rng), place, sample_camera(rng), int(rng.integers(2**31)))


def train_judges(recipe: Recipe, folder: Path, workers: int, report: Callable[[str], None]) -> Judges:
    """Train on freely drawn poses with blur, noise, contrast and colour shifts."""
    torch.manual_seed(recipe.seed + STREAM)
    judges, fit = Judges(), recipe.judge
    start = finished_steps(folder) * fit.batch_size
    indices = range(start, fit.steps * fit.batch_size)
    loader = iter(DataLoader(_FreeScenes(recipe), fit.batch_size, sampler=indices, num_workers=workers))
    # Face and hand details are a few pixels; they must not outweigh the limbs.
    weight = torch.ones(POSE_FEATURES)
    weight[-10:] = 0.2

    def loss(step: int) -> dict[str, Tensor]:
        pixels, pose, actor, place = next(loader)
        images = augment(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, torch.Generator().manual_seed(step))
        with torch.autocast(images.device.type, torch.bfloat16):
            pose_out, actor_out, place_out = judges(images)
        pose_loss = (weight * F.smooth_l1_loss(pose_out.float(), pose, beta=0.05, reduction="none")).mean()
        actor_loss = F.cross_entropy(actor_out.float(), actor)
        place_loss = F.cross_entropy(place_out.float(), place)
        total = 10 * pose_loss + 0.3 * actor_loss + 0.3 * place_loss
        return {"loss": total, "pose": pose_loss, "actor": actor_loss, "place": place_loss}

    fit_module(judges, loss, fit, folder, report)
    return judges


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, h, w) as a generator might spoil them: blurred, noisy, with contrast and colours shifted."""
    b = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = torch.lerp(images, blurred, uniform(b, 1, 1, 1) * (uniform(b, 1, 1, 1) < 0.5))
    gain = 1 + 0.25 * (uniform(b, 3, 1, 1) - 0.5)
    shift = 0.2 * (uniform(b, 3, 1, 1) - 0.5)
    noise = 0.15 * uniform(b, 1, 1, 1).square() * torch.randn(images.shape, generator=generator)
    return (mixed * gain + shift + noise).clamp(-1, 1)
