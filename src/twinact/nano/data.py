"""Pictures and captions of the world as training data; picture number i is always the same picture."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twinact.nano.between import between_pairs
from twinact.nano.recipe import Recipe
from twinact.world.draw import Drawing, drawing
from twinact.world.meanings import meanings
from twinact.world.pose import Target
from twinact.world.sampling import (
    Described,
    Part,
    Posed,
    describe,
    sample_described,
    sample_free_pose,
    sample_posed,
    sample_scene,
)
from twinact.world.scene import Scene
from twinact.world.splits import is_held_out_pose


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


def described(recipe: Recipe, part: Part, index: int, stream: int = 0) -> Described:
    """Scene and caption number `index` of a stream (streams are independent; each trained part has its own)."""
    return sample_described(np.random.default_rng([recipe.seed, stream, index]), part)


@dataclass(frozen=True)
class Worded:
    """A scene with several captions.

    Where a caption's phrases are replaced by others that name the same joints, and the embeddings of the two texts are
    mixed, it means the pose between theirs: so words say poses that no phrase names.

    Attributes:
        scene: What is shown.
        posed: Its pose and the words for it.
        captions: Pairs of texts with the same number of tokens.
        phrases: For every caption, the phrases that it says.
        share: How much of the second text is mixed into the first, in [0, 1].
    """

    scene: Scene
    posed: Posed
    captions: tuple[tuple[str, str], ...]
    phrases: tuple[tuple[str, ...], ...]
    share: float


def worded(recipe: Recipe, part: Part, index: int, stream: int, captions: int) -> Worded:
    """Scene number `index` of a stream with so many captions; it never shows a custom action."""
    rng = np.random.default_rng([recipe.seed, stream, index])
    posed = sample_posed(rng, part.phrases)
    other: dict[str, str] = {}
    share = 0.0
    if posed.way != "free" and rng.random() < recipe.between_share:
        posed, other, share = _between(posed, part, rng)
    scene = sample_scene(rng, part, posed.pose)
    said = tuple(posed.said(rng) for _ in range(captions))
    texts = []
    for phrases in said:
        text = describe(scene, phrases, rng)
        second = text
        for phrase in phrases:
            second = re.sub(rf"\b{phrase}\b", other.get(phrase, phrase), second, count=1)
        texts.append((text, second))
    return Worded(scene, posed, tuple(texts), said, share)


def _between(posed: Posed, part: Part, rng: np.random.Generator) -> tuple[Posed, dict[str, str], float]:
    """A pose on the way from the phrases of `posed` to others, those others, and how far on the way it is."""
    share = rng.uniform()
    other: dict[str, str] = {}
    pose = posed.pose
    for phrase in posed.phrases:
        choices = _partners(part.phrases).get(phrase, ())
        if choices:
            partner = choices[rng.integers(len(choices))]
            (start,), (end,) = meanings()[phrase], meanings()[partner]
            middle = {n: (1 - share) * t.value + share * end.targets[n].value for n, t in start.targets.items()}
            pose, other[phrase] = pose.with_values(middle), partner
    if is_held_out_pose(pose):
        return posed, {}, 0.0
    return replace(posed, pose=pose), other, share


@cache
def _partners(phrases: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """For every phrase, those between which and it points are trained, as long as it is in words."""
    found: dict[str, list[str]] = {}
    for a, b in between_pairs(phrases, measured=False):
        if len(a.split()) == len(b.split()):
            found.setdefault(a, []).append(b)
            found.setdefault(b, []).append(a)
    return {phrase: tuple(partners) for phrase, partners in found.items()}


@dataclass
class PictureBatch:
    """Drawn pictures: images (b, 3, h, w) float in [-1, 1], mask (b, 1, h, w) of the figure, joints (b, 17, 2) in
    picture units, and what they were drawn from.
    """

    images: Tensor
    masks: Tensor
    joints: Tensor
    scenes: list[Any]


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
    def __init__(self, recipe: Recipe, part: Part, stream: int, scene: Callable[..., Any]) -> None:
        self.recipe, self.part, self.stream, self.scene = recipe, part, stream, scene

    def __getitem__(self, index: int) -> tuple[Drawing, Any]:
        item = self.scene(self.recipe, self.part, index, self.stream)
        return drawing(item.scene, self.recipe.image_size), item


def _collate(items: list[tuple[Drawing, Any]]) -> PictureBatch:
    drawn, scenes = zip(*items, strict=True)
    pixels = torch.from_numpy(np.stack([d.picture for d in drawn])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([d.mask for d in drawn]))[:, None]
    places = torch.from_numpy(np.stack([d.joints for d in drawn])).float()
    return PictureBatch(pixels, masks, places, list(scenes))


def draw_alone(_worker: int) -> None:
    """For processes that draw: OpenCV's threads would fight for the cores that the other processes have."""
    cv2.setNumThreads(1)


def picture_batches(
    recipe: Recipe, part: Part, batch_size: int, count: int, *, stream: int, start: int = 0, workers: int = 1,
    scene: Callable[..., Any] = described,
) -> Iterator[PictureBatch]:  # fmt: skip
    """Batches of pictures ``start`` to ``count`` of a stream, in order, drawn by `workers` processes.

    What each shows is said by `scene`, such as `described` or `freely_posed`: (recipe, part, index, stream) → something
    with a ``scene``.
    """
    batches = (range(i, min(i + batch_size, count)) for i in range(start, count, batch_size))
    loader = DataLoader(
        _Pictures(recipe, part, stream, scene), batch_sampler=batches, num_workers=workers, collate_fn=_collate,
        prefetch_factor=4 if workers else None, worker_init_fn=draw_alone,
    )  # fmt: skip
    for batch in loader:  # bytes travel between processes, an eighth of what floats would be
        batch.images, batch.masks = batch.images.float() / 127.5 - 1, batch.masks.float()
        yield batch
