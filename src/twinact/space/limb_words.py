"""Finds words for single limbs: points of the action space that are expected to hold a limb at wanted angles.

Between phrases that name the same joints a model that was trained for it moves evenly from one to the other; so does
the pose expected here. Everything is read off the pose table, without a pass of the model.
"""

import math
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
_NOTHING = (math.inf, math.inf, 0, 0, 0.0)
# Prices in degrees. Measured on dev actions: words that leave a choice ("one arm") fail beside others, and distant
# phrases are not mixed evenly. A price on each clause made strips less monotone, as one for both legs is less exact.
_PRICE = {"moving others": 40.0, "strange": 10.0, "weak": 10.0, "unlike": 20.0, "distant": 0.05, "mixed": 2.0}


@dataclass(frozen=True, eq=False)
class Words:
    """Words for some limbs.

    Attributes:
        point: Coefficients and present slots of their clauses.
        phrases: For each clause, its phrase or two with the share of the second.
        off: Degrees between the wanted and the expected directions, in the mean over the limbs.
    """

    point: Point
    phrases: tuple[tuple[str, str, float], ...]
    off: float


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

    def say(self, wanted: Angles) -> Words:
        """Words that are expected to hold limbs at joint angles, and leave all others at rest.

        Both arms, and both legs, get one clause where phrases about both are as near as phrases about each.

        Args:
            wanted: As `joint_angles` gives them; at least one limb.

        Raises:
            ConfigError: No phrase is about one of them alone.
        """
        found = []
        for pair in ((TRUNK,), (LEFT_ARM, RIGHT_ARM), (LEFT_LEG, RIGHT_LEG)):
            limbs = [limb for limb in pair if limb in wanted]
            apart = [self._between({limb: wanted[limb]}) for limb in limbs]
            if len(limbs) == 2:
                together = self._between({limb: wanted[limb] for limb in limbs})
                if together[0] <= sum(one[0] for one in apart) / 2:
                    apart = [together]
            if _NOTHING in apart:
                names = " and ".join(limb.name for limb in limbs)
                raise ConfigError(f"no phrase of this space is about the {names} alone; build a space of more phrases")
            found += [(len(limbs) / len(apart), one) for one in apart]
        space = self.space
        points, masks, told = [], [], []
        for _, (_, _, first, second, share) in found:
            points.append(torch.lerp(space.phrase_coefficients[first], space.phrase_coefficients[second], share))
            masks.append(space.phrase_mask[first])
            told.append((space.phrases[first], space.phrases[second], share))
        off = sum(count * one[1] for count, one in found) / len(wanted)
        return Words((torch.stack(points), torch.stack(masks)), tuple(told), off)

    def _between(self, wanted: Angles) -> tuple[float, float, int, int, float]:
        """Price, degrees off, two phrases with equal slots, and the share of the second; `_NOTHING` where none fit."""
        mine = torch.tensor([limb in wanted for limb in LIMBS])
        moves = self._moved > _MOVES
        rests = ~moves.any(dim=1)
        fit = (moves[:, mine].all(dim=1) | rests) & (self._moved[:, ~mine] <= _STILL).all(dim=1)
        rows = fit.nonzero().flatten()
        if not len(rows):
            return _NOTHING
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
        price = price.masked_fill(~equal[..., None], torch.inf)
        best = int(price.argmin())
        first, second, step = best // (len(rows) * _SHARES), best // _SHARES % len(rows), best % _SHARES
        degrees = float(off[first, second, step])
        return float(price.flatten()[best]), degrees, int(rows[first]), int(rows[second]), float(share[step])
