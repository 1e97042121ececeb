"""Pictures and captions of the world as training data; picture number i is always the same picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twinact.nano.recipe import Recipe
from twinact.world.draw import draw, figure_mask, joints
from twinact.world.meanings import meanings
from twinact.world.pose import DOF_NAMES, DOFS, Pose, Target
from twinact.world.sampling import Described, Part, sample_described
from twinact.world.scene import Scene
from twinact.world.skeleton import JOINT_NAMES

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

_SEGMENTS = tuple(
    pair
    for pair in (
        ("pelvis", "neck"), ("neck", "head"),
        *((f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (("shoulder", "elbow"), ("elbow", "hand"))),
        *((f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (("hip", "knee"), ("knee", "foot"), ("foot", "toe"))),
    )
)  # fmt: skip
DIRECTION_FEATURES = 2 * len(_SEGMENTS) + 3


def direction_features(scenes: Sequence[Scene], positions: np.ndarray) -> np.ndarray:
    """What pictures show of the action: the unit vector of every segment of the body, turn and nod of the head, and the
    height above the ground. Directions do not depend on the proportions of the actor.

    Args:
        scenes: Of b pictures.
        positions: Their joints (b, 17, 2).

    Returns:
        (b, 27) in [-1, 1].
    """
    start, end = ([JOINT_NAMES.index(pair[k]) for pair in _SEGMENTS] for k in (0, 1))
    vectors = positions[:, end] - positions[:, start]  # (b, 12, 2)
    directions = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    rest = [(s.pose.head_turn / 90, s.pose.head_nod / 45, s.pose.clearance) for s in scenes]
    return np.concatenate([directions.reshape(len(scenes), -1), rest], axis=1).astype(np.float32)


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

    @property
    def directions(self) -> Tensor:
        """Direction features (b, 27)."""
        return torch.from_numpy(direction_features([item.scene for item in self.scenes], self.joints.numpy()))


class _Pictures(Dataset):
    def __init__(self, recipe: Recipe, part: Part, stream: int) -> None:
        self.recipe, self.part, self.stream = recipe, part, stream

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Described]:
        item = described(self.recipe, self.part, index, self.stream)
        size = self.recipe.image_size
        return draw(item.scene, size), figure_mask(item.scene, size), joints(item.scene), item


def _collate(items: list[tuple[np.ndarray, np.ndarray, np.ndarray, Described]]) -> PictureBatch:
    images, masks, positions, scenes = zip(*items, strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    places = torch.from_numpy(np.stack(positions)).float()
    return PictureBatch(pixels, torch.from_numpy(np.stack(masks))[:, None].float(), places, list(scenes))


def picture_batches(
    recipe: Recipe, part: Part, batch_size: int, count: int, *, stream: int, start: int = 0, workers: int = 1
) -> Iterator[PictureBatch]:
    """Batches of pictures ``start`` to ``count`` of a stream, in order, drawn by `workers` processes."""
    batches = [range(i, min(i + batch_size, count)) for i in range(start, count, batch_size)]
    loader = DataLoader(
        _Pictures(recipe, part, stream), batch_sampler=batches, num_workers=workers, collate_fn=_collate,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip
    return iter(loader)
