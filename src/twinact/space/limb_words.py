"""Finds words for single limbs: points of the action space that are expected to hold a limb at wanted angles.

Between phrases that name the same joints a model that was trained for it moves evenly from one to the other; so does
the pose expected here. Everything is read off the pose table, without a pass of the model. Words beside others may mean
something else, so several likely ones can be had; `twinact.space.sliders` asks the model to choose among them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.errors import ConfigError
from twinact.space.action_space import ActionSpace
from twinact.space.clauses import Point
from twinact.space.limbs import (
    LEFT_ARM,
    LEFT_LEG,
    LIMBS,
    RIGHT_ARM,
    RIGHT_LEG,
    SEGMENTS,
    TRUNK,
    Limb,
    from_torso,
    joint_angles,
    miss,
)
from twinact.space.pose_table import PoseTable

Angles = Mapping[Limb, Float[Tensor, " _"]]
"""Joint angles of limbs, as `joint_angles` gives them."""

_MOVES = 0.12  # chord of a segment (7 degrees) from which a phrase counts as moving it
_STILL = 0.25  # chord that a phrase about another limb may move a segment by, at a price
_USUAL = 0.5  # powers of ten by which most phrases lose beside others
_NEIGHBOURS = 8
_SHARES = 21
_LOOKED_AT = 500  # of the cheapest words, for each that is wanted
_MOST_USES = 4  # words with the same phrase would all fail together
_APART = 0.2  # the least difference of shares between the same two phrases
# Prices in degrees. Measured on dev actions: words that leave a choice ("one arm") fail beside others, and distant
# phrases are not mixed evenly. A price on each clause made strips less monotone, as one for both legs is less exact.
_PRICE = {"moving others": 40.0, "strange": 10.0, "weak": 10.0, "unlike": 20.0, "distant": 0.05, "mixed": 2.0}


@dataclass(frozen=True)
class Words:
    """A clause about a limb, or about both of a pair: a point between two phrases with the same slots.

    Attributes:
        first, second: Numbers of the phrases.
        share: Of the second, from 0 to 1.
        off: Degrees between the wanted and the expected directions, in the mean over the limbs.
        price: The same, and what is known to make words fail.
    """

    first: int
    second: int
    share: float
    off: float
    price: float


@dataclass(frozen=True)
class Choice:
    """Words for a limb or a pair of limbs.

    Attributes:
        limbs: One, or both of a pair.
        apart: For each limb, words for it alone, the likeliest first.
        together: Words for both at once, likewise; none for one limb.
    """

    limbs: tuple[Limb, ...]
    apart: tuple[tuple[Words, ...], ...]
    together: tuple[Words, ...] = ()

    @property
    def likeliest(self) -> tuple[Words, ...]:
        """One clause for both where it is as near as one for each."""
        apart = tuple(words[0] for words in self.apart)
        both = self.together and self.together[0].price <= sum(words.price for words in apart) / len(apart)
        return self.together[:1] if both else apart

    def others(self, now: tuple[Words, ...]) -> list[tuple[Words, ...]]:
        """What may be said instead of `now`, by one clause for both or with other words for one limb."""
        apart = now if len(now) == len(self.apart) else tuple(words[0] for words in self.apart)
        changed = [(*apart[:i], one, *apart[i + 1 :]) for i, words in enumerate(self.apart) for one in words]
        return [one for one in [*((both,) for both in self.together), *changed] if one != now]

    def off(self, now: tuple[Words, ...]) -> float:
        """Degrees off, summed over the limbs."""
        return sum(words.off for words in now) * len(self.limbs) / len(now)


class LimbWords:
    """What the phrases of a space say about the limbs.

    Args:
        space: With a pose table of the body's segments.

    Raises:
        ConfigError: It has none.
    """

    def __init__(self, space: ActionSpace) -> None:
        if space.poses is None or len(space.poses.rest) < SEGMENTS:
            raise ConfigError(
                "this action space holds no poses of its phrases, so limbs cannot be told apart; build it with poses, "
                "for a model whose intended pose is known"
            )
        self.space = space.to("cpu")
        known, limbs = space.poses, slice(SEGMENTS)  # without the height
        self.poses = PoseTable.of(from_torso(known.directions[:, limbs]), from_torso(known.rest[limbs]), known.drawings)
        moved = {limb: self.poses.deviation[:, list(limb.segments)].amax(dim=1) for limb in LIMBS}
        self._moved = torch.stack([moved[limb] for limb in LIMBS], dim=1)  # (n, limbs)
        # Powers of ten by which a phrase decides a limb less, said with others, than it moves the limb alone.
        alone = PoseTable.of(known.directions, known.rest, known.drawings).strengths
        weak = ((alone / known.strengths).log10() - _USUAL).clamp_min(0)
        self._weak = torch.stack([weak[:, list(limb.segments)].mean(dim=1) for limb in LIMBS], dim=1)  # (n, limbs)
        self._angles = {limb: joint_angles(self.poses.directions, limb) for limb in LIMBS}

    @cached_property
    def _alike(self) -> Float[Tensor, "n n"]:
        """Cosines between phrases."""
        space = self.space
        flat = space.phrase_coefficients * space.sigma * space.phrase_mask.unsqueeze(-1)
        flat = F.normalize(flat.flatten(1), dim=1)
        return flat @ flat.T

    @cached_property
    def _neighbours_move(self) -> Float[Tensor, "n limbs"]:
        """Share of the phrases most like each that move each limb: what its words are about, as far as they tell."""
        count = min(_NEIGHBOURS, len(self._alike) - 1)
        nearest = self._alike.clone().fill_diagonal_(-2).topk(count, dim=1).indices
        return (self._moved > _MOVES).float()[nearest].mean(dim=1)

    def about(self, number: int) -> frozenset[Limb]:
        """The limbs that a phrase moves; of one that leaves all at rest, those that most phrases like it move."""
        moved = self._moved[number] > _MOVES
        which = moved if bool(moved.any()) else self._neighbours_move[number] > 0.5
        return frozenset(limb for limb, one in zip(LIMBS, which.tolist(), strict=True) if one)

    def phrases_of(self, point: Point) -> list[int]:
        """The number of the phrase nearest to each clause."""
        return [self.space.phrases.index(self.space.nearest(u, 1, own)[0][0]) for u, own in zip(*point, strict=True)]

    def pose_of(self, numbers: Sequence[int]) -> Float[Tensor, "g 2"]:
        """The directions expected of phrases that are said together, as `from_torso` gives them."""
        return self.poses.expected(numbers)

    def choices(self, wanted: Angles, count: int = 1) -> list[Choice]:
        """Words that are expected to hold limbs at joint angles, and leave all others at rest.

        Args:
            wanted: As `joint_angles` gives them; at least one limb.
            count: How many there are for each limb and each pair, if phrases yield so many.

        Raises:
            ConfigError: No phrase is about one of them alone.
        """
        found = []
        for pair in ((TRUNK,), (LEFT_ARM, RIGHT_ARM), (LEFT_LEG, RIGHT_LEG)):
            limbs = tuple(limb for limb in pair if limb in wanted)
            if not limbs:
                continue
            apart = tuple(self._likely({limb: wanted[limb]}, count) for limb in limbs)
            together = self._likely({limb: wanted[limb] for limb in limbs}, count) if len(limbs) == 2 else ()
            if not all(apart):
                names = " and ".join(limb.name for limb in limbs)
                raise ConfigError(f"no phrase of this space is about the {names} alone; build a space of more phrases")
            found.append(Choice(limbs, apart, together))
        return found

    def point_of(self, said: Sequence[Words]) -> Point:
        """Coefficients and present slots of clauses."""
        space = self.space
        points = [
            torch.lerp(space.phrase_coefficients[one.first], space.phrase_coefficients[one.second], one.share)
            for one in said
        ]
        return torch.stack(points), torch.stack([space.phrase_mask[one.first] for one in said])

    def _likely(self, wanted: Angles, count: int) -> tuple[Words, ...]:
        """The words of the lowest prices, of which none are nearly the same and none repeat a phrase too often."""
        mine = torch.tensor([limb in wanted for limb in LIMBS])
        moves = self._moved > _MOVES
        rests = ~moves.any(dim=1)
        fit = (moves[:, mine].all(dim=1) | rests) & (self._moved[:, ~mine] <= _STILL).all(dim=1)
        rows = fit.nonzero().flatten()
        if not len(rows):
            return ()
        near = self._neighbours_move[rows]
        strange = 1 - near[:, mine].mean(dim=1) + near[:, ~mine].amax(dim=1)
        alone = _PRICE["moving others"] * self._moved[rows][:, ~mine].amax(dim=1) + _PRICE["strange"] * strange
        alone += _PRICE["weak"] * self._weak[rows][:, mine].mean(dim=1)
        share = torch.linspace(0, 1, _SHARES)
        mixed = 4 * share * (1 - share)
        off, far = torch.zeros(len(rows), len(rows), _SHARES), torch.zeros(len(rows), len(rows))
        for limb, angles in wanted.items():
            own = self._angles[limb][rows]
            between = torch.lerp(own[:, None, None], own[None, :, None], share[:, None])  # (m, m, shares, k)
            off += miss(between, angles) / len(wanted)
            far += (own[:, None] - own[None]).abs().mean(dim=-1) / len(wanted)
        unlike = 1 - self._alike[rows][:, rows]
        pair = _PRICE["unlike"] * unlike + _PRICE["distant"] * far + _PRICE["mixed"]
        price = off + alone[:, None, None] * (1 - share) + alone[None, :, None] * share + pair[..., None] * mixed
        equal = (self.space.phrase_mask[rows][:, None] == self.space.phrase_mask[rows][None]).all(dim=-1)
        price = price.masked_fill(~equal[..., None], torch.inf).flatten()
        chosen: list[Words] = []
        for place in price.topk(min(_LOOKED_AT * count, len(price)), largest=False).indices.tolist():
            first, second, step = place // (len(rows) * _SHARES), place // _SHARES % len(rows), place % _SHARES
            ends = {0: (first, first, 0), _SHARES - 1: (second, second, 0)}
            first, second, step = ends.get(step, (first, second, step))
            if first > second:
                first, second, step = second, first, _SHARES - 1 - step
            one = Words(
                int(rows[first]), int(rows[second]), float(share[step]), float(off.flatten()[place]),
                float(price[place]),
            )  # fmt: skip
            if math.isfinite(one.price) and _is_new(one, chosen):
                chosen.append(one)
            if len(chosen) == count:
                break
        return tuple(chosen)


def _is_new(one: Words, chosen: Sequence[Words]) -> bool:
    """Whether words differ enough from those that are chosen already."""
    uses = Counter(number for other in chosen for number in {other.first, other.second})
    same = [other for other in chosen if (other.first, other.second) == (one.first, one.second)]
    return max(uses[one.first], uses[one.second]) < _MOST_USES and all(
        abs(other.share - one.share) >= _APART for other in same
    )
