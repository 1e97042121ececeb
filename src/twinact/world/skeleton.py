"""Forward kinematics: from the degrees of freedom of a pose to joint positions.

Everything is computed with complex numbers x + iy, x right and y down, so that multiplying by exp(i a) turns clockwise
in the picture by a. Lengths are in body heights.
"""

from cmath import exp, phase
from collections.abc import Mapping
from dataclasses import dataclass
from math import pi

from twinact.world.pose import Pose

JOINT_NAMES = (
    "head", "neck", "pelvis",
    "l_shoulder", "l_elbow", "l_hand", "r_shoulder", "r_elbow", "r_hand",
    "l_hip", "l_knee", "l_foot", "l_toe", "r_hip", "r_knee", "r_foot", "r_toe",
)  # fmt: skip

# The foot of a figure at ease points out to its own side and a little down: this far from the shank's direction.
_FOOT_ANGLE = 80.0
# The head's centre follows the tilt only in part; the rest is roll in place, so that a big head clears the shoulder.
_TILT_SWING = 0.6


@dataclass(frozen=True)
class Proportions:
    """Lengths and radii of a body, in body heights.

    Attributes:
        head: Radius of the head along its height.
        head_width: Half width of the head in units of `head`.
        crown: How far hat, hair or ears rise above the head's centre, in units of `head`.
        neck: Gap between the neck joint and the head.
        torso: From the pelvis to the neck joint.
        shoulders, hips: Half distance between the two joints.
        upper_arm, forearm, thigh, shank, foot: Segment lengths.
        chest, belly: Radii of the upper and lower torso.
        arm, wrist, leg, ankle: Radii at the ends of the limbs; elbows and knees lie halfway between.
        hand, toe: Radii of a fist and of the tip of a shoe.
    """

    head: float = 0.140
    head_width: float = 1.0
    crown: float = 1.12
    neck: float = 0.0
    torso: float = 0.265
    shoulders: float = 0.088
    hips: float = 0.056
    upper_arm: float = 0.175
    forearm: float = 0.165
    thigh: float = 0.170
    shank: float = 0.165
    foot: float = 0.085
    chest: float = 0.098
    belly: float = 0.088
    arm: float = 0.047
    wrist: float = 0.035
    leg: float = 0.062
    ankle: float = 0.042
    hand: float = 0.048
    toe: float = 0.036


def radii(body: Proportions) -> dict[str, float]:
    """Radius of the flesh around every joint, in body heights; keys are `JOINT_NAMES`."""
    elbow, knee = (body.arm + body.wrist) / 2, (body.leg + body.ankle) / 2
    found = {"head": body.head, "neck": body.arm, "pelvis": body.belly}
    for side in ("l_", "r_"):
        found |= {side + "shoulder": body.arm, side + "elbow": elbow, side + "hand": body.hand}
        found |= {side + "hip": body.leg, side + "knee": knee, side + "foot": body.ankle, side + "toe": body.toe}
    return found


def skeleton(pose: Pose, proportions: Proportions) -> dict[str, tuple[float, float]]:
    """Joint positions of a figure whose pelvis stands at x = 0 and whose ground is y = 0.

    The lowest point of the flesh touches the ground and is then lifted by ``clearance`` leg lengths.

    Returns:
        (x, y) of every one of `JOINT_NAMES`, in body heights, x right and y down (so standing figures have y < 0).
    """
    body = proportions
    root = exp(1j * _radians(pose.root_rotation))
    trunk = root * exp(1j * _radians(pose.torso_lean))
    neck = -1j * body.torso * trunk
    swing = trunk * exp(1j * _radians(_TILT_SWING * pose.head_tilt))
    found = {"head": neck - 1j * (body.neck + body.head * 0.93) * swing, "neck": neck, "pelvis": 0j}
    for side, sign in (("l_", 1), ("r_", -1)):

        def toward(degrees: float, frame: complex, sign: int = sign) -> complex:
            """Unit vector `degrees` away from hanging down, out to the figure's own side."""
            return 1j * exp(-1j * sign * _radians(degrees)) * frame

        raised, bent = (getattr(pose, side + name) for name in ("shoulder", "elbow"))
        shoulder = neck + complex(sign * body.shoulders, 0.75 * body.arm) * trunk
        elbow = shoulder + body.upper_arm * toward(raised, trunk)
        found[side + "shoulder"], found[side + "elbow"] = shoulder, elbow
        found[side + "hand"] = elbow + body.forearm * toward(raised + bent, trunk)
        spread, folded, pointed = (getattr(pose, side + name) for name in ("hip", "knee", "ankle"))
        hip = complex(sign * body.hips, 0.3 * body.leg) * root
        knee = hip + body.thigh * toward(spread, root)
        ankle = knee + body.shank * toward(spread + folded, root)
        found[side + "hip"], found[side + "knee"], found[side + "foot"] = hip, knee, ankle
        found[side + "toe"] = ankle + body.foot * toward(spread + folded + _FOOT_ANGLE - pointed, root)
    flesh = radii(body)
    lowest = max(point.imag + flesh[name] for name, point in found.items())
    lift = lowest + pose.clearance * (body.thigh + body.shank)
    return {name: (found[name].real, found[name].imag - lift) for name in JOINT_NAMES}


def limb_angles(joints: Mapping[str, complex], root_rotation: float) -> dict[str, float]:
    """Inverse kinematics: the angles of torso, arms and legs that joint positions show.

    Args:
        joints: Position x + iy of the joints in any unit, x right and y down.
        root_rotation: Rotation of the pelvis in degrees.

    Returns:
        ``torso_lean`` and the ``shoulder``, ``elbow``, ``hip`` and ``knee`` angles of both sides, in degrees.
    """
    root = exp(1j * _radians(root_rotation))
    trunk = 1j * (joints["neck"] - joints["pelvis"])
    found = {"torso_lean": _degrees(trunk / root)}
    for side, sign in (("l_", 1), ("r_", -1)):
        for frame, (start, middle, end), (upper, lower) in (
            (trunk, ("shoulder", "elbow", "hand"), ("shoulder", "elbow")),
            (root, ("hip", "knee", "foot"), ("hip", "knee")),
        ):
            first = joints[side + middle] - joints[side + start]
            second = joints[side + end] - joints[side + middle]
            raised = -sign * _degrees(first / (1j * frame))
            # Limbs reach from well across the body to a little beyond straight up.
            found[side + upper] = raised + 360.0 if raised < -110.0 else raised
            found[side + lower] = -sign * _degrees(second / first)
    return found


def _degrees(direction: complex) -> float:
    return phase(direction) * 180.0 / pi


def _radians(degrees: float) -> float:
    return degrees * pi / 180.0
