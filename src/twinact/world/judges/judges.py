"""Judges: networks that say which pose, actor, place, things and light a picture shows.

They are trained on pixels of the whole world (held-out actors too), with poses drawn freely and so without regard to
any phrase, from other seeds, and share no weights with anything that a loss may see, which reads latents. How far their
errors are those of the action encoder, which finds joints in heat maps as well, is measured in ``docs/judges.md``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from twinact.errors import CheckpointError, DataError, first_line
from twinact.storage import check_regular, read_file
from twinact.world.bodies import ACTORS
from twinact.world.judges.body_fit import fit_pose
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.pose import POSE_FEATURES, Pose, features_pose, pose_features
from twinact.world.scene import WORLD_VERSION
from twinact.world.skeleton import JOINT_NAMES
from twinact.world.things import THINGS

SIDE = 64
"""Edge in pixels at which judges read a picture."""
_MAX_CONFIG_BYTES = 100_000
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
    things: tuple[str, ...] = ()
    light: str = "day"


class Seen(NamedTuple):
    """What the network sees in pictures: logits (b, 17, 32, 32) of where each joint is, pose features (b, 25), and
    logits of the actor, the place, each thing and the light.
    """

    heat: Tensor
    pose: Tensor
    actor: Tensor
    place: Tensor
    things: Tensor
    light: Tensor


class Judges(nn.Module):
    """A convolutional network that finds the joints in heat maps, and reads the rest of the picture as a whole.

    The pose is that of the actor's body fitted to the maps; face and hands are regressed, the others classified.
    Pictures are read at 64 pixels, whatever their size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.actors, self.places, self.things, self.lights = (
            tuple(names) for names in (ACTORS, PLACES, THINGS, LIGHTS)
        )
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
        # Things are small: what they look like is seen at 8 × 8 cells, not at 4 × 4.
        self.thing = nn.Sequential(
            _conv(96, 64, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, len(self.things))
        )
        self.light = nn.Sequential(nn.Linear(flat, 32), nn.GELU(), nn.Linear(32, len(self.lights)))

    def forward(self, images: Tensor) -> "Seen":
        """Pictures (b, 3, h, w) in [-1, 1], any size."""
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, size=(SIDE, SIDE), mode="area")
        fine = self.fine(images)  # (b, 64, 16, 16)
        middle = self.middle(fine)  # (b, 96, 8, 8)
        coarse = self.coarse(middle)  # (b, 160, 4, 4)
        risen_middle = self.rise_middle(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        risen = self.rise_fine(torch.cat([F.interpolate(risen_middle, scale_factor=2.0), fine], 1))
        heat = F.pixel_shuffle(self.heat(risen), 2).float()  # (b, 17, 32, 32)
        flat = coarse.flatten(1)
        # Lean and rotation of the body show in where its joints are, more finely than in the coarse features.
        positions = 2 * _positions(heat).flatten(1).detach() - 1
        pose = self.whole(torch.cat([flat, positions.to(flat)], 1))
        return Seen(heat, pose, self.actor(flat), self.place(flat), self.thing(risen_middle), self.light(flat))

    @torch.no_grad()
    def judge(self, pictures: Sequence[Image.Image | np.ndarray]) -> list[Verdict]:
        """Verdicts on RGB pictures of equal size."""
        stacked = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float()
        verdicts = []
        for chunk in (stacked / 127.5 - 1).split(128):
            seen = self._both_ways(chunk)
            rows = zip(
                seen.heat.numpy(), seen.pose.numpy(), seen.actor.argmax(1).tolist(), seen.place.argmax(1).tolist(),
                (seen.things > 0).tolist(), seen.light.argmax(1).tolist(), strict=True,
            )  # fmt: skip
            for heat, pose, actor, place, things, light in rows:
                who = self.actors[actor]
                verdicts.append(Verdict(
                    fit_pose(heat, pose, who), who, self.places[place],
                    tuple(compress(self.things, things)), self.lights[light],
                ))  # fmt: skip
        return verdicts

    def _both_ways(self, images: Tensor) -> "Seen":
        """`forward`, averaged with what it says of the mirrored pictures."""
        plain, mirrored = self(images), self(images.flip(3))
        heat = (_log_share(plain.heat) + _log_share(mirrored.heat.flip(3)[:, _MIRRORED_JOINTS])) / 2
        back = [pose_features(features_pose(row).mirrored()) for row in mirrored.pose.numpy()]
        pose = (plain.pose + torch.from_numpy(np.stack(back))) / 2
        sums = (getattr(plain, name) + getattr(mirrored, name) for name in ("actor", "place", "things", "light"))
        return Seen(heat, pose, *sums)

    def save(self, folder: Path) -> None:
        """Write ``judges.safetensors`` (half precision) and ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in self.state_dict().items()}
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "judges.safetensors")
        config = {"world_version": WORLD_VERSION} | self._named()
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def take_over(self, folder: Path) -> None:
        """Begin with the weights of judges of an earlier world, as far as these have the same layers."""
        mine = self.state_dict()
        before = load_file(folder / "judges.safetensors")
        same = {n: t.float() for n, t in before.items() if n in mine and mine[n].shape == t.shape}
        self.load_state_dict(mine | same)

    def _named(self) -> dict[str, list[str]]:
        return {name: list(getattr(self, name)) for name in ("actors", "places", "things", "lights")}

    @classmethod
    def load(cls, folder: Path) -> "Judges":
        """Read what `save` wrote.

        Raises:
            CheckpointError: The judges were trained on another version of the world, or their files cannot be read.
        """
        again = "copy them again, or run twinact nano train --parts judges"
        try:
            config = json.loads(read_file(folder / "config.json", _MAX_CONFIG_BYTES))
        except (OSError, ValueError, RecursionError, DataError) as error:
            raise CheckpointError(f"{folder}: the judges' config.json cannot be read ({error}); {again}") from error
        judges = cls()
        if config != {"world_version": WORLD_VERSION} | judges._named():
            raise CheckpointError(
                f"{folder}: the judges belong to another world; run twinact nano train --parts judges"
            )
        try:
            check_regular(folder / "judges.safetensors")
            weights = load_file(folder / "judges.safetensors")
            judges.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in weights.items()})
        except (OSError, SafetensorError, RuntimeError, DataError) as error:
            raise CheckpointError(f"{folder}: the judges cannot be read ({first_line(error)}); {again}") from error
        return judges.eval()


def _positions(heat: Tensor) -> Tensor:
    """Expected positions (b, joints, 2) under heat maps of logits, x and y in picture units."""
    share = heat.flatten(2).softmax(2).unflatten(2, heat.shape[2:])
    centres = (torch.arange(heat.shape[-1], device=heat.device) + 0.5) / heat.shape[-1]
    return torch.stack([(share.sum(2) * centres).sum(2), (share.sum(3) * centres).sum(2)], 2)


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
