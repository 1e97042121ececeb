"""Named sliders: they turn a limb of an action and leave the others, by other words for that limb.

Words found by the pose table were compared, on three dev actions, with one more clause for the limb beside those that
the action has: that fails wherever a clause of the action already moves the limb.

What a model makes of words beside those that the action keeps can only be asked of the model. Where somebody does
(`Ask`), the words are those of the likely ones that it takes as they are meant; measured by `benchmarks/sliders.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.configs.settings import Bounds, check_choice, check_number
from twinact.errors import CheckpointError, ConfigError
from twinact.space.clauses import Point
from twinact.space.limb_words import Angles, Choice, LimbWords, Words
from twinact.space.limbs import (
    LEFT_ARM,
    LEFT_LEG,
    LIMBS,
    PARTS,
    RIGHT_ARM,
    RIGHT_LEG,
    TRUNK,
    Limb,
    from_torso,
    joint_angles,
    miss,
    on_torso,
    turned,
)

A = TypeVar("A")
Ask: TypeAlias = Callable[[Sequence[Point]], Float[Tensor, "n prompts _ 2"]]
"""What a model means by each of n points: directions of the body's segments in the picture, and perhaps its height."""

AMOUNTS = Bounds(-1.0, 1.0)
_SAME_DEGREES = 1.0
# A limb that is further than this from where phrases have it is held by what was learned: a clause about it was bent by
# what is said beside it, and means something else without.
_STRAYED_DEGREES = 15.0
_ASKED, _ROUNDS = 6, 2  # words for each limb and pair that a model is asked about, and how often
_BETTER_DEGREES = 0.2  # mean over the limbs by which others must be better than the likeliest


@dataclass(frozen=True)
class Slider:
    """A way to move limbs.

    Attributes:
        limbs: What it moves.
        low, high: Joint angles of each limb at -1 and at 1, in degrees; see `joint_angles`.
        help: What the ends look like.
    """

    limbs: tuple[Limb, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    help: str

    def goal(self, now: Float[Tensor, " k"], up: bool) -> Float[Tensor, " k"]:
        """Where a limb goes from where it is now: to an end, unless it is beyond it already."""
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        end, way = (high, high - low) if up else (low, low - high)
        return torch.where((now - end) * way > 0, now, end)


_ARMS, _LEGS = (LEFT_ARM, RIGHT_ARM), (LEFT_LEG, RIGHT_LEG)
_HANGING, _RAISED, _STRAIGHT = (12.0, 0.0), (173.0, 0.0), (6.0, 0.0)
SLIDERS = {
    "arms up": Slider(_ARMS, _HANGING, _RAISED, "both arms hang / are raised straight"),
    "left arm up": Slider((LEFT_ARM,), _HANGING, _RAISED, "the left arm hangs / is raised straight"),
    "right arm up": Slider((RIGHT_ARM,), _HANGING, _RAISED, "the right arm hangs / is raised straight"),
    "legs apart": Slider(_LEGS, _STRAIGHT, (88.0, 0.0), "legs straight and together / in full splits"),
    "left leg up": Slider((LEFT_LEG,), _STRAIGHT, (90.0, 0.0), "the left leg stands / is stretched out level"),
    "right leg up": Slider((RIGHT_LEG,), _STRAIGHT, (90.0, 0.0), "the right leg stands / is stretched out level"),
    "knees bent": Slider(_LEGS, _STRAIGHT, (75.0, -75.0), "both legs straight / a squat"),
    "left knee bent": Slider((LEFT_LEG,), _STRAIGHT, (85.0, -85.0), "the left leg straight / its knee up"),
    "right knee bent": Slider((RIGHT_LEG,), _STRAIGHT, (85.0, -85.0), "the right leg straight / its knee up"),
    "lean left": Slider((TRUNK,), (-40.0,), (40.0,), "leaning to the right / to the left"),
}
"""The sliders by name. Left and right are the actor's own."""


@dataclass(frozen=True, eq=False)
class Posed:
    """An action with the pose that it shows.

    Attributes:
        point: Coefficients and present slots of its clauses.
        pose: Directions, as `from_torso` gives them.
        off: Degrees between the pose and the one that is expected of the clauses, or that the model was found to mean,
            where they were chosen for it: in the mean over the limbs that got new words.
    """

    point: Point
    pose: Float[Tensor, "g 2"]
    off: float = 0.0

    @classmethod
    def of(cls, words: LimbWords, point: Point, seen: Mapping[str, Any] | None, action: str) -> "Posed":
        """An action with the pose of its exemplars; where they show none, with that expected of its clauses.

        Args:
            words: Of the action's space.
            point: Coefficients and present slots of its clauses.
            seen: What its exemplars show, as actions keep it: directions in the picture, and weights above 0 where they
                are known.
            action: Its name.

        Raises:
            CheckpointError: The pose is of another body.
        """
        pose = words.pose_of(words.phrases_of(point))
        if seen:
            directions, weights = torch.tensor(seen["directions"]), torch.tensor(seen["weights"])
            if directions.shape != pose.shape or weights.shape != pose.shape[:1]:
                raise CheckpointError(f"action {action!r} holds a pose of another body; make it again")
            shown = from_torso(torch.where(weights.unsqueeze(1) > 0, directions, on_torso(pose)))
            pose = torch.where(weights.unsqueeze(1) > 0, shown, pose)
        return cls(point, pose)

    def to_dict(self) -> dict[str, Any]:
        """The pose as actions keep it: all of it is known."""
        return {"directions": on_torso(self.pose).tolist(), "weights": [1.0] * len(self.pose)}


def slide(words: LimbWords, action: Posed, name: str, amount: float, ask: Ask | None = None) -> Posed:
    """An action with a limb moved by a slider.

    The limb goes the share `amount` of the way from where it is to the slider's end. Clauses about other limbs stay as
    they are; those about the limb give way to words for where it goes, and what else they said is said anew.

    Args:
        words: Of the action's space.
        action: What is moved.
        name: One of `SLIDERS`.
        amount: From -1 to 1.
        ask: Tells what the model means; None: nobody does.

    Raises:
        ConfigError: There is no such slider, or the amount is out of range.
    """
    check_choice("slider", name, SLIDERS)
    check_number("amount", amount, AMOUNTS)
    slider = SLIDERS[name]
    wanted, pose = {}, action.pose
    for limb in slider.limbs:
        now = joint_angles(action.pose, limb)
        then = torch.lerp(now, slider.goal(now, amount > 0), abs(amount))
        if float((then - now).abs().max()) > _SAME_DEGREES:
            wanted[limb], pose = then, turned(pose, limb, then)
    others = [limb for limb in LIMBS if limb not in wanted]
    return _said(words, [_kept(words, action, others)], pose, wanted, ask)


def limbs_given(first: A, parts: Sequence[tuple[A, Sequence[str]]]) -> list[tuple[A, list[Limb]]]:
    """Which limbs each of several actions gives, for `compose`.

    Args:
        first: Gives all limbs that the others do not.
        parts: The others, and which of `PARTS` each gives.

    Raises:
        ConfigError: There is no such part, or it is given twice.
    """
    taken: dict[Limb, A] = {}
    for other, named in parts:
        for part in named:
            check_choice("part", part, tuple(PARTS))
            for limb in PARTS[part]:
                if limb in taken:
                    raise ConfigError(f"part {part!r} is asked of two actions or twice: name every limb once")
                taken[limb] = other
    givers = list({id(giver): giver for giver in (first, *taken.values())}.values())
    return [(giver, [limb for limb in LIMBS if taken.get(limb, first) is giver]) for giver in givers]


def compose(words: LimbWords, parts: Sequence[tuple[Posed, Collection[Limb]]], ask: Ask | None = None) -> Posed:
    """One action of parts of several.

    Clauses about the wanted limbs of an action alone are kept; of those about others too, the limbs are said anew.

    Args:
        words: Of the space of all of them.
        parts: Actions, and the limbs that each of them gives; every limb once.
        ask: Tells what the model means; None: nobody does.
    """
    pose = parts[0][0].pose.clone()
    for action, limbs in parts:
        for limb in limbs:
            pose[list(limb.segments)] = action.pose[list(limb.segments)]
    return _said(words, [_kept(words, action, limbs) for action, limbs in parts], pose, {}, ask)


def _kept(words: LimbWords, action: Posed, limbs: Collection[Limb]) -> tuple[Point, Angles]:
    """The clauses that say of some limbs and no others, and the joint angles of those that must be said anew."""
    numbers = words.phrases_of(action.point)
    about = [words.about(number) for number in numbers]
    if all(which <= set(limbs) for which in about):
        return action.point, {}

    def strayed(said: Sequence[int]) -> set[Limb]:
        """The limbs that the action holds elsewhere than phrases that are said together."""
        shown = words.pose_of(said)
        missed = {limb: miss(joint_angles(shown, limb), joint_angles(action.pose, limb)) for limb in LIMBS}
        return {limb for limb, degrees in missed.items() if float(degrees) > _STRAYED_DEGREES}

    fit = set(limbs) - strayed(numbers)
    own = [i for i, which in enumerate(about) if which <= fit]
    torn = set[Limb]().union(*(which for i, which in enumerate(about) if i not in own))
    # What was learned besides the phrases may lie in clauses that are gone.
    torn |= strayed([numbers[i] for i in own])
    anew = {limb: joint_angles(action.pose, limb) for limb in LIMBS if limb in torn and limb in limbs}
    return (action.point[0][own], action.point[1][own]), anew


def _said(
    words: LimbWords, kept: Sequence[tuple[Point, Angles]], pose: Tensor, wanted: Angles, ask: Ask | None
) -> Posed:
    """What is kept, and words for all that is not; said together, one clause may do for both arms or both legs."""
    points = [point for point, _ in kept]
    every = {limb: angles for part in (*(anew for _, anew in kept), wanted) for limb, angles in part.items()}
    if not every:
        return Posed(_joined(points), pose)

    def point(said: Sequence[tuple[Words, ...]]) -> Point:
        return _joined([*points, words.point_of([one for clauses in said for one in clauses])])

    choices = words.choices(every, 1 if ask is None else _ASKED)
    said = [choice.likeliest for choice in choices]
    if ask is None:
        off = sum(choice.off(own) for choice, own in zip(choices, said, strict=True)) / len(every)
        return Posed(point(said), pose, off)

    def missed(tries: Sequence[list[tuple[Words, ...]]]) -> Float[Tensor, "n limbs"]:
        """Degrees between limbs that the model means and those of the pose, in the mean over the prompts."""
        seen = from_torso(ask([point(one) for one in tries])[:, :, : len(pose)])
        return torch.stack([miss(joint_angles(seen, limb), joint_angles(pose, limb)).mean(1) for limb in LIMBS], dim=1)

    for _ in range(_ROUNDS if len(every) > 1 else 1):  # what else is said does not change for one limb
        before, said = said, _better(choices, said, missed)
        if said == before:
            break
    anew = [i for i, limb in enumerate(LIMBS) if limb in every]
    return Posed(point(said), pose, float(missed([said])[0, anew].mean()))


def _better(
    choices: Sequence[Choice],
    said: list[tuple[Words, ...]],
    missed: Callable[[Sequence[list[tuple[Words, ...]]]], Float[Tensor, "n limbs"]],
) -> list[tuple[Words, ...]]:
    """For every choice the words that come nearest while the others are said as before."""
    tries = [(i, other) for i, choice in enumerate(choices) for other in choice.others(said[i])]
    found = missed([said, *([*said[:i], other, *said[i + 1 :]] for i, other in tries)])
    better = list(said)
    for i in range(len(choices)):
        rows = [0, *(row for row, (which, _) in enumerate(tries, start=1) if which == i)]
        best = min(rows, key=lambda row: float(found[row].mean()) + (_BETTER_DEGREES if row else 0.0))
        if best:
            better[i] = tries[best - 1][1]
    return better


def _joined(points: Sequence[Point]) -> Point:
    """The clauses of several points, in order."""
    coefficients, masks = zip(*points, strict=True)
    return torch.cat(coefficients), torch.cat(masks)
