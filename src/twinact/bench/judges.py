"""Judges: networks that say which pose, actor and place a picture shows.

They are trained on pixels of the whole world (held-out actors too), with poses drawn freely and so without regard to
any phrase, from other seeds, and share no weights with anything that a loss may see, which reads latents. How far their
errors are those of the action encoder, which finds joints in heat maps as well, is measured in ``docs/judges.md``.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from twinact.bench.body_fit import fit_pose
from twinact.encoders.pose import joint_positions
from twinact.errors import CheckpointError
from twinact.nano.data import POSE_FEATURES, features_pose, pose_features
from twinact.nano.fit import fit_module, visited_twice
from twinact.nano.heatmaps import heat_loss
from twinact.nano.recipe import Recipe
from twinact.world.bodies import ACTORS
from twinact.world.draw import draw, joints
from twinact.world.places import PLACES
from twinact.world.pose import Pose
from twinact.world.sampling import sample_free_camera, sample_free_pose
from twinact.world.scene import WORLD_VERSION, Scene
from twinact.world.skeleton import JOINT_NAMES

STREAM = 77
# Of the pose features: sine and cosine of the rotation, clearance, torso and head.
_WHOLE_BODY = 7
# Share of the training pictures that are compressed; every how many-th one goes through the VAE.
_COMPRESSED, _DECODED = 0.25, 8
_OTHER_SIDE = {"l": "r", "r": "l"}
_MIRRORED_JOINTS = [
    JOINT_NAMES.index(_OTHER_SIDE[name[0]] + name[1:] if name[1] == "_" else name) for name in JOINT_NAMES
]


@dataclass(frozen=True)
class Verdict:
    """What the judges read from one picture."""

    pose: Pose
    actor: str
    place: str


class Judges(nn.Module):
    """A convolutional network that finds the joints in heat maps, and reads the rest of the picture as a whole.

    The pose is that of the actor's body fitted to the maps; face and hands are regressed, actor and place classified.
    """

    def __init__(self) -> None:
        super().__init__()
        self.actors, self.places = tuple(ACTORS), tuple(PLACES)
        self.fine = nn.Sequential(
            _conv(3, 32, 2), _Residual(32), _conv(32, 64, 2), _Residual(64), _Residual(64)
        )  # fmt: skip
        self.middle = nn.Sequential(_conv(64, 96, 2), _Residual(96))
        self.coarse = nn.Sequential(_conv(96, 160, 2), _Residual(160))
        self.rise_middle = nn.Sequential(nn.Conv2d(160 + 96, 96, 1), _Residual(96))
        self.rise_fine = nn.Sequential(nn.Conv2d(96 + 64, 64, 1), _Residual(64))
        self.heat = nn.Conv2d(64, 4 * len(JOINT_NAMES), 1)
        flat = 160 * 16
        self.whole = nn.Sequential(
            nn.Linear(flat + 2 * len(JOINT_NAMES), 256), nn.GELU(), nn.Linear(256, POSE_FEATURES)
        )
        self.actor = nn.Sequential(nn.Linear(flat, 96), nn.GELU(), nn.Linear(96, len(self.actors)))
        self.place = nn.Sequential(nn.Linear(flat, 96), nn.GELU(), nn.Linear(96, len(self.places)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures (b, 3, h, w) in [-1, 1], any size.

        Returns:
            Logits (b, 17, 32, 32) of where each joint is, pose features (b, 25), logits of actor and of place.
        """
        if images.shape[-1] != 64:
            images = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
        fine = self.fine(images)  # (b, 64, 16, 16)
        middle = self.middle(fine)  # (b, 96, 8, 8)
        coarse = self.coarse(middle)  # (b, 160, 4, 4)
        risen = self.rise_middle(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        risen = self.rise_fine(torch.cat([F.interpolate(risen, scale_factor=2.0), fine], 1))
        heat = F.pixel_shuffle(self.heat(risen), 2).float()  # (b, 17, 32, 32)
        flat = coarse.flatten(1)
        # Lean and rotation of the body show in where its joints are, more finely than in the coarse features.
        positions = 2 * joint_positions(heat).flatten(1).detach() - 1
        return heat, self.whole(torch.cat([flat, positions.to(flat)], 1)), self.actor(flat), self.place(flat)

    @torch.no_grad()
    def judge(self, pictures: Sequence[Image.Image | np.ndarray]) -> list[Verdict]:
        """Verdicts on RGB pictures of equal size."""
        stacked = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float()
        verdicts = []
        for chunk in (stacked / 127.5 - 1).split(128):
            heat, features, actor, place = self._both_ways(chunk)
            actors = [self.actors[number] for number in actor.argmax(1).tolist()]
            places = [self.places[number] for number in place.argmax(1).tolist()]
            rows = zip(heat.numpy(), features.numpy(), actors, places, strict=True)
            verdicts += [Verdict(fit_pose(maps, read, who), who, where) for maps, read, who, where in rows]
        return verdicts

    def _both_ways(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`forward`, averaged with what it says of the mirrored pictures."""
        plain, mirrored = self(images), self(images.flip(3))
        heat = (_log_share(plain[0]) + _log_share(mirrored[0].flip(3)[:, _MIRRORED_JOINTS])) / 2
        back = [pose_features(features_pose(row).mirrored()) for row in mirrored[1].numpy()]
        features = (plain[1] + torch.from_numpy(np.stack(back))) / 2
        return heat, features, plain[2] + mirrored[2], plain[3] + mirrored[3]

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
            raise CheckpointError(
                f"{folder}: the judges belong to another world; run twinact nano train --parts judges"
            )
        judges.load_state_dict({n: t.float() if t.is_floating_point() else t
                                for n, t in load_file(folder / "judges.safetensors").items()})  # fmt: skip
        return judges.eval()


def _log_share(heat: Tensor) -> Tensor:
    return heat.flatten(2).log_softmax(2).unflatten(2, heat.shape[2:])


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _conv(width, width, 1), nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.net(x))


class _FreeScenes(Dataset):
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
        rng = np.random.default_rng([self.recipe.seed, STREAM, index])
        scene = free_scene(rng)
        picture = draw(scene, self.recipe.image_size)
        return (
            compressed(picture, int(rng.integers(30, 96))) if rng.random() < _COMPRESSED else picture,
            joints(scene).astype(np.float32),
            pose_features(scene.pose),
            list(ACTORS).index(scene.actor),
            list(PLACES).index(scene.place),
        )


def free_scene(rng: np.random.Generator) -> Scene:
    """Any actor of the world in any place in a freely drawn pose."""
    actors, places = list(ACTORS), list(PLACES)
    actor, place = actors[rng.integers(len(actors))], places[rng.integers(len(places))]
    return Scene(actor, sample_free_pose(rng), place, sample_free_camera(rng), int(rng.integers(2**31)))


def train_judges(
    recipe: Recipe, judges: Judges, vae: AutoencoderKL, folder: Path, workers: int, report: Callable[[str], None]
) -> None:
    """Train `judges`, where they are, on freely drawn poses.

    Some pictures are compressed, some went through the VAE that the judged ones come from, and all are spoiled by
    `augment`.
    """
    fit, device = recipe.judge, next(judges.parameters()).device
    # Limb angles are read off the joints; of the features, the body's rotation, height and head matter most.
    weight = torch.full((POSE_FEATURES,), 0.1, device=device)
    weight[:_WHOLE_BODY] = 1.0

    def drawn(number: int) -> Iterator[list[Tensor]]:
        indices = range(number * fit.batch_size, fit.steps * fit.batch_size)
        return iter(DataLoader(_FreeScenes(recipe), fit.batch_size, sampler=indices, num_workers=workers))

    def loss(step: int, seen: list[Tensor]) -> dict[str, Tensor]:
        pixels, positions, pose, actor, place = seen
        clean = pixels.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(clean[::_DECODED]).latent_dist.mode()
            clean[::_DECODED] = vae.decode(latents).sample.float()
        images = augment(clean, torch.Generator(device).manual_seed(step))
        positions, pose, actor, place = (x.to(device) for x in (positions, pose, actor, place))
        with torch.autocast(device.type, torch.bfloat16):
            heat, pose_out, actor_out, place_out = judges(images)
        terms = {
            "heat": heat_loss(heat, positions),
            "joints": (joint_positions(heat) - positions).abs().mean(),
            "pose": (weight * F.smooth_l1_loss(pose_out.float(), pose, beta=0.05, reduction="none")).mean(),
            "actor": F.cross_entropy(actor_out.float(), actor),
            "place": F.cross_entropy(place_out.float(), place),
        }
        total = terms["heat"] + 10 * terms["joints"] + 3 * terms["pose"] + 0.5 * terms["actor"] + 0.1 * terms["place"]
        return {"loss": total, **terms}

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
