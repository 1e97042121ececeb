"""Exemplars that come with the package, for people who have no pictures at hand."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from twinact.bench.poses import photographed_poses, write_pose_exemplars
from twinact.nano.recipe import RECIPE
from twinact.world.splits import DEV_ACTIONS, write_exemplars

_DRAWN = {
    "wave and lunge": "dev-wave-lunge",
    "reach and kick": "dev-reach-kick",
    "windmill": "dev-windmill",
    "archer": "dev-archer",
}


def examples() -> Mapping[str, Callable[[Path, int], None]]:
    """What an example shows → writes its pictures into a folder, as squares of so many pixels.

    Those of photographs are keypoints with their limbs drawn; those drawn are of the world, actions that nano has never
    seen and no phrase names.
    """
    photographed = {f"photographs: {name}": partial(write_pose_exemplars, name) for name in photographed_poses()}
    drawn = {f"drawn: {label}": partial(_write_drawn, name) for label, name in _DRAWN.items()}
    return {**photographed, **drawn}


def _write_drawn(name: str, folder: Path, size: int) -> None:
    write_exemplars(DEV_ACTIONS[name], folder, size, RECIPE.places)
