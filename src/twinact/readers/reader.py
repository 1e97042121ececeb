"""The contract of pose readers: photographs in, limb directions out, with how sure the reader is of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What a reader says about one picture.

    Attributes:
        reader: Its name.
        person: Who was read, by size from 1; 0 where nobody was found.
        people: How many were found.
        remarks: What a person should know, such as limbs that are not seen, each without a full stop.
    """

    reader: str
    person: int
    people: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoseReading:
    """The poses in some pictures, one figure in each.

    Attributes:
        directions: Unit vectors along the segments of the body, x to the right and y down.
        weights: How sure the reader is of each segment, in [0, 1]; 0 where it sees nothing.
        boxes: Left, top, right and bottom of each figure, as shares of the square picture.
        joints: Where the joints are, in the same units, NaN where they are not seen; None from readers that do not say.
        seen: What is to be told about each picture; empty from readers that tell nothing.
        heights: How high the lowest joint is above the ground, in lengths of a leg, NaN where the ground is not known;
            None from readers that never know it.
    """

    directions: Float[Tensor, "b segments 2"]
    weights: Float[Tensor, "b segments"]
    boxes: Float[Tensor, "b 4"]
    joints: Float[Tensor, "b joints 2"] | None = None
    seen: tuple[Seen, ...] = ()
    heights: Float[Tensor, " b"] | None = None


@runtime_checkable
class PoseReader(Protocol):
    """Reads the pose off pictures; it need not be differentiable.

    Attributes:
        segments: How many directions it gives.
    """

    segments: int

    def read(self, pictures: Sequence[Image.Image]) -> PoseReading:
        """The pose of the figure in each picture.

        Args:
            pictures: RGB, upright, of any shape.
        """
        ...
