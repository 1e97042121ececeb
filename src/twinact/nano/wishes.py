"""What nano is asked to draw while it is refined, and the poses that its drawings may then show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from twinact.backbones.base import TokenTable
from twinact.encoders.pose import segment_directions
from twinact.groups import group_tokens
from twinact.nano.between import between_pairs
from twinact.nano.data import SEGMENTS, described, drawn_part
from twinact.nano.recipe import Recipe
from twinact.world.captions import caption
from twinact.world.draw import joints
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.pose import Pose
from twinact.world.sampling import possible_poses, rest_pose
from twinact.world.scene import Scene
from twinact.world.skeleton import JOINT_NAMES
from twinact.world.splits import is_held_out_pose

STREAM = 41
SEEN_SEGMENTS = (*SEGMENTS, (JOINT_NAMES.index("r_hip"), JOINT_NAMES.index("l_hip")))
"""What the pose is read from: a body that is turned and one that leans differ in the line between the hips only."""
_STRIDE = 1000  # scenes that a step may look at; it finds its own without those of the steps before
# How many drawings of what. A sixth of all phrases leave a choice of poses, but they are what is drawn wrong most.
_SINGLE, _SEVERAL, _BETWEEN = 11, 11, 8
_SLOTS = 3  # of the action space, as it is built by default


@dataclass(frozen=True)
class Wish:
    """A picture to draw.

    Attributes:
        words: Its caption.
        poses: Directions (poses, segments, 2) of `SEEN_SEGMENTS` in each of the poses that the words may mean.
        vectors: Of a placeholder among the words, (slots, width).
    """

    words: str
    poses: Tensor
    vectors: Mapping[str, Tensor] = field(default_factory=dict)


class Wishes:
    """Captions that mean one pose, captions that leave a choice, and points between two phrases, whose poses lie
    between theirs. None asks for a custom action.
    """

    def __init__(self, recipe: Recipe, table: TokenTable) -> None:
        self.recipe, self.part = recipe, drawn_part(recipe)
        grouped = {phrase: group_tokens(phrase, [table], _SLOTS) for phrase in self.part.phrases}
        self.vectors = {
            phrase: torch.stack([group.vector for group in groups]).float()
            for phrase, groups in grouped.items()
            if len(groups) == _SLOTS
        }
        self.pairs = between_pairs(list(self.vectors), measured=False)

    def of(self, step: int) -> list[Wish]:
        """The wishes of a step, by its number alone."""
        rng = np.random.default_rng([self.recipe.seed, STREAM, step, 1])
        scenes = (described(self.recipe, self.part, index, STREAM) for index in count(step * _STRIDE))
        single: list[Wish] = []
        several: list[Wish] = []
        while len(single) < _SINGLE or len(several) < _SEVERAL:
            item = next(scenes)
            choice = any(len(meanings()[phrase]) > 1 for phrase in item.phrases)
            kind, room = (several, _SEVERAL) if choice else (single, _SINGLE)
            poses = possible_poses(item.phrases, rng) if len(kind) < room else []
            if poses:
                kind.append(Wish(item.caption, _directions(item.scene, poses)))
        between: list[Wish] = []
        while len(between) < _BETWEEN:
            wish = self._between(next(scenes).scene, f"<between-{len(between)}>", rng)
            between += [] if wish is None else [wish]
        return single + several + between

    def _between(self, scene: Scene, placeholder: str, rng: np.random.Generator) -> Wish | None:
        """A point between two phrases, drawn with a scene's actor and place; None where it is a custom action."""
        a, b = self.pairs[rng.integers(len(self.pairs))]
        share = rng.uniform()
        (start,), (end,) = meanings()[a], meanings()[b]
        middle = {n: (1 - share) * t.value + share * end.targets[n].value for n, t in start.targets.items()}
        pose = rest_pose(rng).with_values(middle)
        if is_held_out_pose(pose):
            return None
        words = caption(scene.actor, [placeholder], PLACES[scene.place].text, rng, placeholder=True)
        vectors = {placeholder: torch.lerp(self.vectors[a], self.vectors[b], share)}
        return Wish(words, _directions(scene, [pose]), vectors)


def _directions(scene: Scene, poses: Sequence[Pose]) -> Tensor:
    positions = np.stack([joints(replace(scene, pose=pose)) for pose in poses])
    return segment_directions(torch.from_numpy(positions).float(), SEEN_SEGMENTS)
