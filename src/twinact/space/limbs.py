"""The limbs of a body as joint angles, read off the limb directions of a pose table.

A pose table has a row of directions for every phrase, in the order of `twinact.readers.body.SEGMENTS`. A limb hangs on
the trunk: whoever leans takes the arms along, so arms are told apart from the lean by looking at them from the torso.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SEGMENTS = 14
"""How many segments the body has."""
_ON_TORSO = [1, 3, 4, 5, 6, 7]  # head, line of the shoulders, both arms


@dataclass(frozen=True)
class Limb:
    """A part of the body that moves by itself.

    Attributes:
        name: What people call it.
        segments: Numbers of all its segments.
        chain: Those whose joints make its pose, from the trunk outwards.
        side: 1 for the actor's left, -1 for the right, as angles outwards count positive; -1 for the trunk, whose
            angles count positive to the left.
    """

    name: str
    segments: tuple[int, ...]
    chain: tuple[int, ...]
    side: int


TRUNK = Limb("trunk", (0, 2), (0,), -1)
LEFT_ARM, RIGHT_ARM = Limb("left arm", (4, 5), (4, 5), 1), Limb("right arm", (6, 7), (6, 7), -1)
LEFT_LEG, RIGHT_LEG = Limb("left leg", (8, 9, 10), (8, 9), 1), Limb("right leg", (11, 12, 13), (11, 12), -1)
LIMBS = (TRUNK, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG)
PARTS = {
    "arms": (LEFT_ARM, RIGHT_ARM),
    "legs": (LEFT_LEG, RIGHT_LEG),
    **{limb.name: (limb,) for limb in LIMBS},
}
"""Parts of the body by the words for them."""


def from_torso(directions: Float[Tensor, "*b g 2"]) -> Float[Tensor, "*b g 2"]:
    """Directions with what hangs on the torso turned back by the lean; means keep their lengths."""
    return _carried(directions, joint_angles(directions, TRUNK)[..., 0])


def on_torso(directions: Float[Tensor, "*b g 2"]) -> Float[Tensor, "*b g 2"]:
    """Inverse of `from_torso`."""
    return _carried(directions, -joint_angles(directions, TRUNK)[..., 0])


def joint_angles(directions: Float[Tensor, "*b g 2"], limb: Limb) -> Float[Tensor, "*b k"]:
    """Degrees of a limb's joints.

    Of an arm or a leg: how far it is lifted outwards (0 hangs down, 90 is level, -120 to 240), and how far its outer
    half is bent outwards from there (-180 to 180). Of the trunk: its lean to the left (-180 to 180).

    Args:
        directions: As `from_torso` gives them.
        limb: Which.
    """
    x, y = directions[..., list(limb.chain), :].unbind(dim=-1)
    angles = limb.side * torch.atan2(x, y).rad2deg()  # from straight down
    if limb is TRUNK:
        return _around(angles - 180)
    first = (angles[..., :1] + 120) % 360 - 120
    return torch.cat([first, _around(angles[..., 1:] - angles[..., :1])], dim=-1)


def turned(directions: Float[Tensor, "g 2"], limb: Limb, angles: Float[Tensor, " k"]) -> Float[Tensor, "g 2"]:
    """A pose with one limb at other joint angles, both as `from_torso` gives them; a foot goes along with its leg."""
    absolute = angles.cumsum(dim=0)
    change = limb.side * (absolute[-1] - joint_angles(directions, limb).cumsum(dim=0)[-1])
    result = directions.clone()
    for segment, angle in zip(limb.chain, limb.side * absolute + (180 if limb is TRUNK else 0), strict=True):
        result[segment] = _unit(angle)
    for segment in () if limb is TRUNK else set(limb.segments) - set(limb.chain):
        x, y = directions[segment]
        result[segment] = _unit(torch.atan2(x, y).rad2deg() + change)
    return result


def miss(angles: Float[Tensor, "*b k"], wanted: Float[Tensor, " k"]) -> Float[Tensor, "*b"]:
    """Mean difference, in degrees, of where the segments of a limb point."""
    return _around((angles - wanted).cumsum(dim=-1)).abs().mean(dim=-1)


def _unit(degrees: Tensor) -> Tensor:
    """The direction that is turned so far from straight down, towards the picture's right."""
    return torch.stack([degrees.deg2rad().sin(), degrees.deg2rad().cos()])


def _carried(directions: Tensor, lean: Tensor) -> Tensor:
    """What hangs on the torso, turned back by a lean in degrees."""
    sine, cosine = lean.deg2rad().sin().unsqueeze(-1), lean.deg2rad().cos().unsqueeze(-1)
    x, y = directions[..., _ON_TORSO, :].unbind(dim=-1)
    result = directions.clone()
    result[..., _ON_TORSO, :] = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)
    return result


def _around(angles: Tensor) -> Tensor:
    return (angles + 180) % 360 - 180
