"""The pose of a figure: its degrees of freedom, partial poses, and when an action is right.

Figures face the viewer, so the actor's left is the right side of the picture. Angles are degrees in the picture
plane. Names starting with ``l_`` and ``r_`` are the actor's own left and right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from twinact.errors import DataError


@dataclass(frozen=True)
class Dof:
    """One degree of freedom.

    Attributes:
        low, high: Closed range of the value.
        rest: Value of a figure that stands at ease.
        tolerance: Largest error at which a judged value still counts as right, in the same unit.
        period: Values this far apart are the same (0: not periodic).
        meaning: What a growing value does.
    """

    low: float
    high: float
    rest: float
    tolerance: float
    meaning: str
    period: float = 0.0


_SHOULDER = "0 hangs along the torso, 90 straight out to its own side, 180 straight up, negative across the body"
_ELBOW = "0 straight; adds to the shoulder, so positive turns the forearm outwards and up, negative inwards and down"
_HIP = "0 thigh straight down, 90 straight out to its own side, negative across the other leg"
_KNEE = "0 straight; negative folds the shank inwards under the body, positive kicks it outwards"

DOFS: dict[str, Dof] = {
    "root_rotation": Dof(-180, 180, 0, 25, "whole body turns clockwise in the picture; 180 stands on its head", 360),
    "clearance": Dof(0, 1, 0, 0.2, "height of the lowest point above the ground, in leg lengths"),
    "torso_lean": Dof(-70, 70, 0, 15, "torso bends at the hips towards the actor's left (picture right)"),
    "head_tilt": Dof(-50, 50, 0, 15, "head rolls towards the actor's left shoulder"),
    "head_turn": Dof(-90, 90, 0, 30, "face turns towards the actor's left; 90 is a profile"),
    "head_nod": Dof(-45, 45, 0, 20, "chin goes down; negative looks up"),
    "l_shoulder": Dof(-60, 200, 12, 25, _SHOULDER),
    "l_elbow": Dof(-155, 155, 0, 30, _ELBOW),
    "r_shoulder": Dof(-60, 200, 12, 25, _SHOULDER),
    "r_elbow": Dof(-155, 155, 0, 30, _ELBOW),
    "l_hip": Dof(-50, 150, 6, 20, _HIP),
    "l_knee": Dof(-150, 100, 0, 30, _KNEE),
    "r_hip": Dof(-50, 150, 6, 20, _HIP),
    "r_knee": Dof(-150, 100, 0, 30, _KNEE),
    "l_ankle": Dof(-30, 80, 0, 35, "0 flat foot; positive points the toes down, negative lifts them"),
    "r_ankle": Dof(-30, 80, 0, 35, "0 flat foot; positive points the toes down, negative lifts them"),
    "l_arm_depth": Dof(-1, 1, 1, 1, "negative: the arm is drawn behind the torso; positive: in front"),
    "r_arm_depth": Dof(-1, 1, 1, 1, "negative: the arm is drawn behind the torso; positive: in front"),
    "leg_depth": Dof(-1, 1, 1, 1, "positive: left leg in front of the right; negative: right in front"),
    "l_hand": Dof(0, 1, 0.5, 0.5, "0 fist, 0.5 relaxed, 1 open with spread fingers"),
    "r_hand": Dof(0, 1, 0.5, 0.5, "0 fist, 0.5 relaxed, 1 open with spread fingers"),
    "eyes": Dof(0, 1, 0.8, 0.5, "0 closed, 1 wide open"),
    "mouth": Dof(0, 1, 0, 0.5, "0 closed, 1 wide open"),
    "smile": Dof(-1, 1, 0.3, 0.7, "-1 frown, 1 broad smile"),
}
DOF_NAMES = tuple(DOFS)
_LOW = np.array([d.low for d in DOFS.values()])
_HIGH = np.array([d.high for d in DOFS.values()])


@dataclass(frozen=True)
class Pose:
    """All degrees of freedom of a figure; see `DOFS` for units, ranges and signs. Defaults stand at ease."""

    root_rotation: float = 0.0
    clearance: float = 0.0
    torso_lean: float = 0.0
    head_tilt: float = 0.0
    head_turn: float = 0.0
    head_nod: float = 0.0
    l_shoulder: float = 12.0
    l_elbow: float = 0.0
    r_shoulder: float = 12.0
    r_elbow: float = 0.0
    l_hip: float = 6.0
    l_knee: float = 0.0
    r_hip: float = 6.0
    r_knee: float = 0.0
    l_ankle: float = 0.0
    r_ankle: float = 0.0
    l_arm_depth: float = 1.0
    r_arm_depth: float = 1.0
    leg_depth: float = 1.0
    l_hand: float = 0.5
    r_hand: float = 0.5
    eyes: float = 0.8
    mouth: float = 0.0
    smile: float = 0.3

    def as_array(self) -> np.ndarray:
        """Values in the order of `DOF_NAMES`, float64."""
        return np.array([getattr(self, name) for name in DOF_NAMES])

    @classmethod
    def from_array(cls, values: np.ndarray) -> "Pose":
        """Inverse of `as_array`; values are clipped to their ranges (periodic ones are wrapped first)."""
        values = np.array(values, dtype=np.float64)
        values[0] = (values[0] + 180.0) % 360.0 - 180.0
        return cls(*np.clip(values, _LOW, _HIGH).tolist())

    def with_values(self, values: Mapping[str, float]) -> "Pose":
        """A copy in which the named degrees of freedom are replaced."""
        return replace(self, **values)

    def mirrored(self) -> "Pose":
        """Left and right exchanged, as in a mirror."""
        swapped = {}
        for field in fields(self):
            side, _, rest = field.name.partition("_")
            source = {"l": "r_", "r": "l_"}[side] + rest if side in ("l", "r") else field.name
            sign = -1.0 if field.name in _ODD else 1.0
            swapped[field.name] = sign * getattr(self, source)
        return Pose(**swapped)


_ODD = frozenset({"root_rotation", "torso_lean", "head_tilt", "head_turn", "leg_depth"})


@dataclass(frozen=True)
class Target:
    """What an action asks of one degree of freedom: a value, right within ± tolerance."""

    value: float
    tolerance: float


@dataclass(frozen=True)
class PartialPose:
    """The degrees of freedom that an action names; what it leaves open is free."""

    targets: Mapping[str, Target]

    def errors(self, pose: Pose) -> dict[str, float]:
        """Absolute error of each named degree of freedom, in its unit."""
        return {name: distance(name, getattr(pose, name), target.value) for name, target in self.targets.items()}

    def holds(self, pose: Pose) -> bool:
        """Whether the action is right: every named degree of freedom lies within its tolerance."""
        return all(error <= self.targets[name].tolerance for name, error in self.errors(pose).items())

    def sample(self, base: Pose, rng: np.random.Generator, spread: float = 0.25) -> Pose:
        """`base` with every named value drawn uniformly within ± `spread` tolerances of its target."""
        drawn = {n: t.value + spread * t.tolerance * rng.uniform(-1, 1) for n, t in self.targets.items()}
        return base.with_values({n: float(np.clip(v, DOFS[n].low, DOFS[n].high)) for n, v in drawn.items()})

    def contradicts(self, other: "PartialPose") -> bool:
        """Whether both name a degree of freedom (even with equal values: then one phrase would be redundant)."""
        return not self.targets.keys().isdisjoint(other.targets.keys())

    @classmethod
    def parse(cls, text: str) -> "PartialPose":
        """Read ``name=value`` or ``name=value±tolerance`` terms separated by spaces.

        Raises:
            DataError: An unknown name, a repeated name, or a value outside the range of its degree of freedom.
        """
        targets: dict[str, Target] = {}
        for term in text.split():
            name, _, spec = term.partition("=")
            value_text, _, tolerance_text = spec.partition("±")
            if name not in DOFS or name in targets:
                raise DataError(f"pose term {term!r}: {name!r} is unknown or repeated; known: {', '.join(DOFS)}")
            dof = DOFS[name]
            value = float(value_text)
            if not dof.low <= value <= dof.high:
                raise DataError(f"pose term {term!r}: {name} must lie in [{dof.low:g}, {dof.high:g}]")
            targets[name] = Target(value, float(tolerance_text) if tolerance_text else dof.tolerance)
        return cls(targets)


def differences(a: np.ndarray, b: np.ndarray, names: Sequence[str] = DOF_NAMES) -> np.ndarray:
    """Absolute differences (..., dofs) of values in the order of `names`, the short way round where one is periodic."""
    error = np.abs(a - b)
    for column, period in ((column, DOFS[name].period) for column, name in enumerate(names)):
        if period:
            error[..., column] = np.minimum(error[..., column] % period, period - error[..., column] % period)
    return error


def distance(name: str, a: float, b: float) -> float:
    """Absolute difference of two values of one degree of freedom, the short way round if it is periodic."""
    difference = abs(a - b)
    period = DOFS[name].period
    return min(difference % period, period - difference % period) if period else difference


POSE_FEATURES = len(DOF_NAMES) + 1
"""How many numbers `pose_features` gives."""


def pose_features(pose: Pose) -> np.ndarray:
    """Pose as 25 numbers of about unit scale: sine and cosine of the body's rotation, the rest scaled to [-1, 1]."""
    values = pose.as_array()
    rotation = np.deg2rad(values[0])
    rest = 2 * (values[1:] - _LOW[1:]) / (_HIGH[1:] - _LOW[1:]) - 1
    return np.concatenate([[np.sin(rotation), np.cos(rotation)], rest]).astype(np.float32)


def features_pose(features: np.ndarray) -> Pose:
    """Inverse of `pose_features`."""
    rotation = np.rad2deg(np.arctan2(features[0], features[1]))
    rest = (features[2:] + 1) / 2 * (_HIGH[1:] - _LOW[1:]) + _LOW[1:]
    return Pose.from_array(np.concatenate([[rotation], rest]))
