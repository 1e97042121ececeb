"""What several exemplars of one action have in common: one direction for each segment on which they agree."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.errors import DataError
from twinact.readers.body import HEIGHT_NAME, SEGMENT_NAMES, height_directions
from twinact.readers.reader import PoseReading

AGREEMENT_DEGREES = 30.0
"""Directions this close to one another are the same: people repeat a pose by eye, and cameras stand elsewhere."""

AGREEMENT_HEIGHT = 0.25
"""Heights this close to their median are the same, in lengths of a leg."""

IN_THE_AIR = 0.2
"""Whose lowest joint is higher does not stand, in lengths of a leg: bodies and cameras differ by less."""

MAJORITY = 0.6
"""A larger share of the confidence than this must agree; two pictures of one confidence have halves, or nearly."""


@dataclass(frozen=True)
class CommonPose:
    """The pose that several pictures show.

    Attributes:
        directions: Unit vectors along the segments of the body, x to the right and y down; zero where the weight is 0.
        weights: How much each counts, in [0, 1]; 0 where the pictures disagree or none of them shows it.
        disagreeing: Names of the segments that pictures show in different directions, in the body's order.
        unseen: Names of those that no picture shows.
        height: Of the lowest joint above the ground, in lengths of a leg; None where it is not known or they differ.
    """

    directions: Float[Tensor, "segments 2"]
    weights: Float[Tensor, "segments"]
    disagreeing: tuple[str, ...]
    unseen: tuple[str, ...]
    height: float | None = None

    @property
    def rows(self) -> tuple[Float[Tensor, "rows 2"], Float[Tensor, " rows"]]:
        """Directions and weights of the segments and, last, of the height, as intended poses have them.

        Heights of those who stand do not count: models draw them on the ground anyway.
        """
        known = torch.tensor([math.nan if self.height is None else self.height])
        directions = torch.cat([self.directions, height_directions(known.nan_to_num())])
        return directions, torch.cat([self.weights, (known > IN_THE_AIR).to(self.weights)])


def common_pose(readings: PoseReading) -> CommonPose:
    """The pose on which the pictures agree.

    For each segment, the largest group of pictures is found whose directions lie within `AGREEMENT_DEGREES` of one of
    them, pictures counted by the reader's confidence. The group's mean is the direction. Its weight is the group's mean
    confidence, times 0 where the group holds `MAJORITY` of all confidence or less, rising to 1 where it holds all: one
    picture of five that was read wrongly changes little, and two pictures that differ say nothing.

    Args:
        readings: One figure in each of n pictures, in the body's segments.

    Raises:
        DataError: There are no pictures.
    """
    directions, weights = readings.directions.float(), readings.weights.float()  # (n, segments, 2), (n, segments)
    if len(directions) == 0:
        raise DataError("no picture was read, so there is no common pose; give at least one picture of the action")
    # Zero vectors, of segments that are not seen, are near to nothing; their weight of 0 keeps them out as well.
    cosines = torch.einsum("isk,jsk->sij", directions, directions)
    near = cosines >= torch.cos(torch.tensor(AGREEMENT_DEGREES).deg2rad())  # (segments, n, n)
    support = torch.einsum("sij,js->si", near.float(), weights)
    members = near[torch.arange(len(near)), support.argmax(dim=1)].T  # (n, segments) of the best group
    group = weights * members
    total, agreed = weights.sum(dim=0), group.sum(dim=0)
    share = agreed / total.clamp(min=1e-9)
    # Pictures that do not show the segment lower the confidence no further: those that do are evidence enough.
    mean = (group * weights).sum(dim=0) / agreed.clamp(min=1e-9)
    common = mean * ((share - MAJORITY) / (1 - MAJORITY)).clamp(min=0)
    seen = total > 0
    height, differ = _common_height(readings)
    return CommonPose(
        directions=F.normalize((group[..., None] * directions).sum(dim=0), dim=1) * (common > 0)[:, None],
        weights=common,
        disagreeing=_named(seen & (common == 0)) + (HEIGHT_NAME,) * differ,
        unseen=_named(~seen),
        height=height,
    )


def _common_height(readings: PoseReading) -> tuple[float | None, bool]:
    """The height on which most of the pictures agree that tell one, and whether they do not agree."""
    known = torch.zeros(0) if readings.heights is None else readings.heights[readings.heights.isfinite()].cpu()
    if len(known) == 0:
        return None, False
    middle = known.median()
    agree = float(((known - middle).abs() <= AGREEMENT_HEIGHT).float().mean()) > MAJORITY
    return (float(middle), False) if agree else (None, True)


def _named(which: Tensor) -> tuple[str, ...]:
    return tuple(name for name, one in zip(SEGMENT_NAMES, which.tolist(), strict=True) if one)
