"""A small network that reads poses off the features of a denoiser, as data that lies beside a pose table.

`twinact.intent.feature_head` makes and runs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.storage import tensor_hash

PREFIX = "head."
"""What the names of its tensors begin with in the file of a space."""
HEAD_SCHEMA = {"block": str, "segments": list[list[int]], "ground": (None, float), "correlation": float}
"""Of its entry in the header."""
BLOCKS = 2


@dataclass(frozen=True, eq=False)
class PoseHead:
    """Its weights, and what must be known to use them.

    Attributes:
        tensors: By name, float32, on the CPU; see `shapes`.
        block: Name, inside the denoiser, of the block whose features it reads.
        segments: Pairs of joints, by number, whose directions it reads.
        ground: Where the ground lies, if it reads the height above it as well; see
            `twinact.backbones.facts.ModelFacts`.
        correlation: Of its directions with those of who taught it, on phrases that it was not taught; see
            `twinact.intent.measure.correlation`.
    """

    tensors: Mapping[str, Float[Tensor, "*_"]]
    block: str
    segments: tuple[tuple[int, int], ...]
    ground: float | None
    correlation: float

    @property
    def channels(self) -> int:
        """Of the features."""
        return len(self.tensors["mean"])

    @property
    def width(self) -> int:
        """Of what the head makes of them."""
        return len(self.tensors["reduce.bias"])

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over its weights."""
        return tensor_hash(self.tensors)

    def header(self) -> dict[str, Any]:
        """Its entry in the header of a file."""
        return {
            "block": self.block,
            "segments": self.segments,
            "ground": self.ground,
            "correlation": self.correlation,
        }


def shapes(channels: int, width: int, joints: int) -> dict[str, tuple[int, ...]]:
    """Of a head's tensors, by name.

    Args:
        channels: Of the features.
        width: Of what it makes of them.
        joints: That it looks for.
    """
    found: dict[str, tuple[int, ...]] = {"mean": (channels,), "deviation": (channels,)}
    found |= {"reduce.weight": (width, channels, 1, 1), "reduce.bias": (width,)}
    for block in range(BLOCKS):
        for layer in (1, 2):
            found |= {f"blocks.{block}.norm{layer}.{name}": (width,) for name in ("weight", "bias")}
            found |= {f"blocks.{block}.conv{layer}.weight": (width, width, 3, 3)}
            found |= {f"blocks.{block}.conv{layer}.bias": (width,)}
    return {**found, "heat.weight": (4 * joints, width, 1, 1), "heat.bias": (4 * joints,)}


def stored_head(tensors: Mapping[str, Tensor], entry: Mapping[str, Any] | None, rows: int) -> PoseHead | None:
    """The head of a file, if it holds one; KeyError or ValueError when it is none.

    Args:
        tensors: All of the file.
        entry: Of its header, with the types of `HEAD_SCHEMA`.
        rows: Of the pose table beside it.
    """
    if entry is None:
        return None
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    segments, ground = tuple((start, end) for start, end in entry["segments"]), entry["ground"]
    head = PoseHead(own, entry["block"], segments, ground, float(entry["correlation"]))
    if len(segments) + (ground is not None) != rows or min(map(min, segments)) < 0 or max(map(max, segments)) > 255:
        raise ValueError(f"the pose head reads {segments}, which does not fit the {rows} rows of the pose table")
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    wanted = shapes(own["mean"].numel(), own["reduce.bias"].numel(), joint_count(segments))
    if found != wanted or head.width % 8:
        wrong = next((name for name in {**wanted, **found} if found.get(name) != wanted.get(name)), "reduce.bias")
        raise ValueError(f"{wrong} of the pose head has shape {found.get(wrong)}, expected {wanted.get(wrong)}")
    if not all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in own.values()):
        raise ValueError("a value of the pose head is no float32, or not finite")
    if bool((own["deviation"] <= 0).any()):
        raise ValueError("a deviation of the pose head is not above 0")
    return head


def joint_count(segments: tuple[tuple[int, int], ...]) -> int:
    """How many joints have the numbers that segments name."""
    return 1 + max(map(max, segments))
