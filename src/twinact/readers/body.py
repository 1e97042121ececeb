"""One body for all readers: its joints, its segments, and how joints in a picture become a reading.

Left and right are the figure's own, so the left hand of somebody who faces the camera is at the picture's right.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twinact.readers.latent import segment_directions
from twinact.readers.reader import PoseReading

JOINTS = (
    "head", "neck", "pelvis",
    "l_shoulder", "l_elbow", "l_hand", "r_shoulder", "r_elbow", "r_hand",
    "l_hip", "l_knee", "l_foot", "l_toe", "r_hip", "r_knee", "r_foot", "r_toe",
)  # fmt: skip
"""The joints: the head's centre, the neck between the shoulders, the pelvis between the hips, hands at the wrist, feet
at the ankle. The world's skeleton has the same, in the same order.
"""

SEGMENTS = tuple(
    (JOINTS.index(start), JOINTS.index(end))
    for start, end in (
        ("pelvis", "neck"), ("neck", "head"), ("r_hip", "l_hip"), ("r_shoulder", "l_shoulder"),
        *((f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (("shoulder", "elbow"), ("elbow", "hand"))),
        *((f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (("hip", "knee"), ("knee", "foot"), ("foot", "toe"))),
    )
)  # fmt: skip
"""The segments of the body, as pairs of joints; their directions are what pictures show of the action.

The lines of the hips and the shoulders belong to them: a body that is turned and one that leans differ in nothing else.
"""

SEGMENT_NAMES = (
    "torso", "head", "line of the hips", "line of the shoulders",
    *(f"{side} {part}" for side in ("left", "right") for part in ("upper arm", "forearm")),
    *(f"{side} {part}" for side in ("left", "right") for part in ("thigh", "lower leg", "foot")),
)  # fmt: skip
"""What people call each of `SEGMENTS`."""

HEIGHT_NAME = "height above the ground"
_LEGS = SEGMENTS[8:10] + SEGMENTS[11:13]
# A quarter turn for a leg's length: then heights that look different are as far apart as limbs that do.
_TURN = torch.pi / 2
_HIGHEST = 1.5

# A segment that points at the camera is short in the picture, and its direction there is chance.
_SHORT = 0.1


def body_reading(
    joints: Float[Tensor, "b joints 2"], confidence: Float[Tensor, "b joints"], floor: float = 0.0
) -> PoseReading:
    """What joints in pictures say of the pose.

    A segment is as sure as the less sure of its ends, and less so where it is shorter than a tenth of the longest one,
    because a segment that points at the camera has no direction in the picture. A figure of which nothing is seen has
    an empty box.

    Args:
        joints: Where each of `JOINTS` is, x to the right and y down, as shares of the square that the picture is fitted
            into (see `in_square`); anything where its confidence is 0.
        confidence: How sure each is, in [0, 1].
        floor: Joints of less confidence count as not seen.
    """
    seen = (confidence > floor) & joints.isfinite().all(dim=2)
    confidence = confidence.clamp(0, 1) * seen
    joints = torch.where(seen[..., None], joints, torch.zeros_like(joints))
    start, end = ([pair[side] for pair in SEGMENTS] for side in (0, 1))
    both = seen[:, start] & seen[:, end]
    length = (joints[:, end] - joints[:, start]).norm(dim=2) * both
    longest = length.amax(dim=1, keepdim=True).clamp(min=1e-9)
    weights = torch.minimum(confidence[:, start], confidence[:, end]) * (length / longest / _SHORT).clamp(max=1)
    return PoseReading(
        directions=segment_directions(joints, SEGMENTS) * (weights > 0)[..., None],
        weights=weights,
        boxes=_boxes(joints, seen),
        joints=torch.where(seen[..., None], joints, torch.full_like(joints, torch.nan)),
    )


def heights(joints: Float[Tensor, "b joints 2"], ground: float) -> Float[Tensor, " b"]:
    """How high the lowest joint lies above the ground, in lengths of the figure's own leg.

    Args:
        joints: All seen, as shares of the picture, x to the right and y down.
        ground: Where the lowest joint of somebody lies who stands; see `twinact.backbones.facts.ModelFacts`.
    """
    start, end = ([pair[side] for pair in _LEGS] for side in (0, 1))
    leg = (joints[:, end] - joints[:, start]).norm(dim=2).sum(dim=1) / 2
    return (ground - joints[..., 1].amax(dim=1)) / leg.clamp(min=1e-3)


def height_directions(heights: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2"]:
    """Heights as unit vectors, so that they count as limbs do: up on the ground, level at one leg's length."""
    angle = heights.clamp(-_HIGHEST, _HIGHEST) * _TURN
    return torch.stack([angle.sin(), -angle.cos()], dim=-1)


def in_square(points: Float[Tensor, "*any 2"], width: int, height: int) -> Float[Tensor, "*any 2"]:
    """Points in pixels of a picture as shares of the square that the whole picture is fitted into and centred in."""
    size = max(width, height)
    return (points + torch.tensor([size - width, size - height]).to(points) / 2) / size


def from_square(points: Float[Tensor, "*any 2"], width: int, height: int) -> Float[Tensor, "*any 2"]:
    """Inverse of `in_square`."""
    size = max(width, height)
    return points * size - torch.tensor([size - width, size - height]).to(points) / 2


def _boxes(joints: Float[Tensor, "b joints 2"], seen: Bool[Tensor, "b joints"]) -> Float[Tensor, "b 4"]:
    """Left, top, right and bottom of the joints that are seen; zeros where none is."""
    low = joints.masked_fill(~seen[..., None], torch.inf).amin(dim=1)
    high = joints.masked_fill(~seen[..., None], -torch.inf).amax(dim=1)
    boxes = torch.cat([low, high], dim=1)
    return torch.where(boxes.isfinite(), boxes, torch.zeros_like(boxes))
