"""What nano is asked to draw while it is refined, and the poses that its drawings may then show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from twinact.nano.data import Worded, drawn_part, worded
from twinact.nano.recipe import Recipe
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import segment_directions
from twinact.world.draw import joints
from twinact.world.meanings import meanings
from twinact.world.pose import Pose
from twinact.world.sampling import possible_poses
from twinact.world.scene import Scene
from twinact.world.skeleton import JOINT_NAMES

STREAM = 41
_STRIDE = 1000  # scenes that a step may look at; it finds its own without those of the steps before
# The share of drawings whose words leave a choice of poses: a sixth of all phrases, but what is drawn wrong most.
_CHOICES = 0.25
_TRUNK = ("root_rotation", "torso_lean")
# The degree of freedom that moves a segment's end, by the joint that it ends in; all others are of the trunk.
_ENDS = {"elbow": "shoulder", "hand": "elbow", "knee": "hip", "foot": "knee", "toe": "knee"}
_MOVED_BY = {f"{side}_{end}": f"{side}_{dof}" for side in "lr" for end, dof in _ENDS.items()}


@dataclass(frozen=True)
class Wish:
    """A picture to draw.

    Attributes:
        words, second: Its caption, and the text that is mixed into it; see `Worded`.
        share: How much of the second text is mixed in, in [0, 1].
        poses: Directions (poses, segments, 2) of `SEGMENTS` in each of the poses that the words may mean.
        weights: (segments,) 1 for what the words say, 0 for what they leave open.
    """

    words: str
    second: str
    share: float
    poses: Tensor
    weights: Tensor


class Wishes:
    """Captions of the training, some of which leave a choice of poses. None asks for a custom action."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.part = recipe, drawn_part(recipe)

    def of(self, step: int, size: int) -> list[Wish]:
        """The wishes of a step, by its number alone."""
        rng = np.random.default_rng([self.recipe.seed, STREAM, step, 1])
        scenes = (worded(self.recipe, self.part, index, STREAM, 1) for index in count(step * _STRIDE))
        wanted = {True: round(_CHOICES * size)}
        wanted[False] = size - wanted[True]
        found: list[Wish] = []
        while any(wanted.values()):
            item = next(scenes)
            choice = any(len(meanings()[phrase]) > 1 for phrase in item.phrases[0])
            wish = _wish(item, choice, rng) if wanted[choice] else None
            if wish is not None:
                wanted[choice] -= 1
                found.append(wish)
        return found


def _wish(item: Worded, choice: bool, rng: np.random.Generator) -> Wish | None:
    """None where the words say nothing of the pose, or could only mean a custom action."""
    poses = possible_poses(item.phrases[0], rng) if choice else [item.scene.pose]
    weights = _said(item)
    if not poses or not weights.any():
        return None
    (words, second), share = item.captions[0], 0.0 if choice else item.share
    return Wish(words, words if choice else second, share, _directions(item.scene, poses), weights)


def _said(item: Worded) -> Tensor:
    """Which segments the caption fixes: all, where words name the pose and the rest is at ease, or those it names."""
    phrases = item.phrases[0]
    if not phrases or item.posed.way == "plain":
        return torch.full((len(SEGMENTS),), float(bool(phrases)))
    named = {name for phrase in phrases for way in meanings()[phrase] for name in way.targets}
    trunk = item.posed.way == "limbs" or any(name in named for name in _TRUNK)
    ends = [JOINT_NAMES[end] for _, end in SEGMENTS]
    return torch.tensor([float(_MOVED_BY[end] in named if end in _MOVED_BY else trunk) for end in ends])


def _directions(scene: Scene, poses: Sequence[Pose]) -> Tensor:
    positions = np.stack([joints(replace(scene, pose=pose)) for pose in poses])
    return segment_directions(torch.from_numpy(positions).float(), SEGMENTS)
