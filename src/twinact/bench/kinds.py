"""The kinds of tasks, by name: what is learned from what, and what measures it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

from twinact.bench.contracts import Metric, Task
from twinact.bench.poses import JudgedLimbs, photographed_poses, photographed_task
from twinact.bench.world import JudgedPictures, world_task
from twinact.world.judges.judges import Judges
from twinact.world.splits import CUSTOM_ACTIONS, DEV_ACTIONS, CustomAction


@dataclass(frozen=True)
class TaskKind:
    """Tasks that differ in the action alone.

    Attributes:
        title: What a report calls it.
        test, dev: Names of the actions that results are told of, and of those that settings are chosen on; the first
            few of them are of all kinds of actions.
        make: The task of an action, with so many pictures to draw.
        metric: What measures its pictures, made from the judges.
    """

    title: str
    test: tuple[str, ...]
    dev: tuple[str, ...]
    make: Callable[[str, int], Task]
    metric: Callable[[Judges], Metric]


def _mixed(actions: Mapping[str, CustomAction]) -> tuple[str, ...]:
    """Names in turns: a combination, one between two poses, a free one."""
    kinds = dict.fromkeys(action.kind for action in actions.values())
    columns = [[name for name, action in actions.items() if action.kind == kind] for kind in kinds]
    return tuple(name for row in zip_longest(*columns) for name in row if name is not None)


def _of_world(title: str, **how: Any) -> TaskKind:
    def make(name: str, pictures: int) -> Task:
        return world_task({**CUSTOM_ACTIONS, **DEV_ACTIONS}[name], pictures, **how)

    return TaskKind(title, _mixed(CUSTOM_ACTIONS), _mixed(DEV_ACTIONS), cache(make), JudgedPictures)


# The poses of photographs are no test of nano's world; smoke takes the first ones.
_POSES = tuple(photographed_poses())

TASKS: dict[str, TaskKind] = {
    "said": _of_world("Captions and prompts name actor and place"),
    "unsaid": _of_world("Five exemplars share a place, a thing and a light that nobody names", unsaid=True),
    "unsaid-1": _of_world("One exemplar; place, thing and light are unsaid", unsaid=True, exemplars=1),
    "unsaid-3": _of_world("Three exemplars share what nobody names", unsaid=True, exemplars=3),
    "unsaid-10": _of_world("Ten exemplars share what nobody names", unsaid=True, exemplars=10),
    "someone": _of_world("One actor in all exemplars, captioned “someone”", captions="someone"),
    "empty": _of_world("Captions say “a photo of <act>” and no more", unsaid=True, captions="empty"),
    "photographs": TaskKind(
        "Poses of people, from the keypoints of photographs", _POSES, _POSES, cache(photographed_task), JudgedLimbs
    ),
}
"""All kinds of tasks by name."""
