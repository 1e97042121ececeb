"""Pictures and captions of the world as training data; picture number i is always the same picture."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twinact.nano.recipe import Recipe
from twinact.world.draw import draw, figure_mask, joints
from twinact.world.meanings import meanings
from twinact.world.pose import DOF_NAMES, DOFS, Pose, Target
from twinact.world.sampling import Described, Part, sample_described, sample_free_pose
from twinact.world.skeleton import JOINT_NAMES
from twinact.world.splits import is_held_out_pose

_LOW = np.array([d.low for d in DOFS.values()])
_HIGH = np.array([d.high for d in DOFS.values()])


def trained_part(recipe: Recipe) -> Part:
    """The actors and places of the world that nano is trained on; all phrases."""
    return Part(actors=recipe.actors, places=recipe.places)


def drawn_part(recipe: Recipe) -> Part:
    """What the UNet learns to draw: `trained_part` with the phrases that a picture of this size can show."""

    def shows(target_of: Mapping[str, Target]) -> bool:
        rotation = target_of.get("root_rotation")
        upright = rotation is None or abs(rotation.value) <= recipe.drawn_rotation
        return upright and set(target_of) <= set(recipe.drawn_dofs)

    phrases = tuple(phrase for phrase, ways in meanings().items() if all(shows(way.targets) for way in ways))
    return replace(trained_part(recipe), phrases=phrases)


def pose_features(pose: Pose) -> np.ndarray:
    """Pose as 25 numbers of about unit scale: sine and cosine of the body's rotation, the rest scaled to [-1, 1]."""
    values = pose.as_array()
    rotation = np.deg2rad(values[0])
    rest = 2 * (values[1:] - _LOW[1:]) / (_HIGH[1:] - _LOW[1:]) - 1
    return np.concatenate([[np.sin(rotation), np.cos(rotation)], rest]).astype(np.float32)


def features_pose(features: np.ndarray) -> Pose:
    """Inverse of `pose_features`."""
    rotation = np.rad2deg(np.arctan2(features[0], features[1]))
    rest = (features[2:] + 1) / 2 * (_HIGH[1:] - _LOW[1:]) + _LOW[1:]
    return Pose.from_array(np.concatenate([[rotation], rest]))


POSE_FEATURES = len(DOF_NAMES) + 1

SEGMENTS = tuple(
    (JOINT_NAMES.index(start), JOINT_NAMES.index(end))
    for start, end in (
        ("pelvis", "neck"), ("neck", "head"),
        *((f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (("shoulder", "elbow"), ("elbow", "hand"))),
        *((f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (("hip", "knee"), ("knee", "foot"), ("foot", "toe"))),
    )
)  # fmt: skip
"""The segments of the body, as pairs of joints; their directions are what pictures show of the action."""


def described(recipe: Recipe, part: Part, index: int, stream: int = 0) -> Described:
    """Scene and caption number `index` of a stream (streams are independent; each trained part has its own)."""
    return sample_described(np.random.default_rng([recipe.seed, stream, index]), part)


@dataclass
class PictureBatch:
    """Drawn pictures: images (b, 3, h, w) float in [-1, 1], mask (b, 1, h, w) of the figure, joints (b, 17, 2) in
    picture units, and their scenes.
    """

    images: Tensor
    masks: Tensor
    joints: Tensor
    scenes: list[Described]


def freely_posed(recipe: Recipe, part: Part, index: int, stream: int) -> Described:
    """As `described`, but every second scene shows a pose without regard to any phrase, never a custom action."""
    item = described(recipe, part, index, stream)
    if index % 2 == 0:
        return item
    rng = np.random.default_rng([recipe.seed, stream, index, 1])
    pose = sample_free_pose(rng)
    while is_held_out_pose(pose):
        pose = sample_free_pose(rng)
    return replace(item, scene=replace(item.scene, pose=pose), phrases=())


class _Pictures(Dataset):
    def __init__(self, recipe: Recipe, part: Part, stream: int, scene: Callable[..., Described]) -> None:
        self.recipe, self.part, self.stream, self.scene = recipe, part, stream, scene

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Described]:
        item = self.scene(self.recipe, self.part, index, self.stream)
        size = self.recipe.image_size
        return draw(item.scene, size), figure_mask(item.scene, size), joints(item.scene), item


def _collate(items: list[tuple[np.ndarray, np.ndarray, np.ndarray, Described]]) -> PictureBatch:
    images, masks, positions, scenes = zip(*items, strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    places = torch.from_numpy(np.stack(positions)).float()
    return PictureBatch(pixels, torch.from_numpy(np.stack(masks))[:, None].float(), places, list(scenes))


def picture_batches(
    recipe: Recipe, part: Part, batch_size: int, count: int, *, stream: int, start: int = 0, workers: int = 1,
    scene: Callable[..., Described] = described,
) -> Iterator[PictureBatch]:  # fmt: skip
    """Batches of pictures ``start`` to ``count`` of a stream, in order, drawn by `workers` processes.

    What each shows is said by `scene`: `described` or `freely_posed`.
    """
    batches = [range(i, min(i + batch_size, count)) for i in range(start, count, batch_size)]
    loader = DataLoader(
        _Pictures(recipe, part, stream, scene), batch_sampler=batches, num_workers=workers, collate_fn=_collate,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip
    return iter(loader)
