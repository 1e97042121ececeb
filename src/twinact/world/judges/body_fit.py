"""The pose that a known body must have for its joints to lie where a network sees them.

Reading each angle off two joints alone has no way to know that a forearm is as long as it is. So the body is fitted as
a whole, as SMPLify does with people (Bogo et al., "Keep it SMPL", 2016): joints that the network is sure of count most,
and those that it cannot see follow from the lengths of the bones.
"""

import cmath
import math

import numpy as np
from scipy.optimize import least_squares

from twinact.world.draw import joints
from twinact.world.places import PLACES
from twinact.world.pose import DOFS, Pose, features_pose
from twinact.world.scene import Camera, Scene
from twinact.world.skeleton import JOINT_NAMES, limb_angles

# What is fitted; face and hands move no joint.
_FITTED = (
    "root_rotation", "clearance", "torso_lean", "head_tilt",
    *(f"{side}_{name}" for side in "lr" for name in ("shoulder", "elbow", "hip", "knee", "ankle")),
)  # fmt: skip
# What the network read off the picture as a whole is a hint, this sure (a standard deviation, in the dof's unit).
_HINTS = {
    "root_rotation": 90.0, "clearance": 0.1, "torso_lean": 25.0, "head_tilt": 15.0, "l_ankle": 25.0, "r_ankle": 25.0,
}  # fmt: skip
# Scale, x and y of the camera: usual values, how far they vary, and their bounds.
_CAMERA, _CAMERA_SPREAD = np.array([1.0, 0.5, 0.935]), np.array([0.1, 0.04, 0.025])
_CAMERA_LOW, _CAMERA_HIGH = np.array([0.6, 0.3, 0.8]), np.array([1.3, 0.7, 1.1])
_SURE = 0.005  # the least standard deviation of a joint, in picture units: a third of a pixel
_TAUGHT = 0.8  # cells: the width of the Gaussians that heat maps are trained on, so no sign of doubt
_MOST_EVALUATIONS = 25


def fit_pose(heat: np.ndarray, features: np.ndarray, actor: str) -> Pose:
    """The pose of an actor's body under heat maps of its joints.

    Args:
        heat: Logits (17, h, w) of where each of `JOINT_NAMES` is.
        features: Pose features (25,) read off the picture as a whole: hints for the body's height above the ground,
            lean and ankles, and all that is known of face and hands.
        actor: Key of `ACTORS`.
    """
    seen, spread = _moments(heat)
    guess = _first_guess(seen, features)
    variance, axes = np.linalg.eigh(spread)
    # Rows that turn a distance (17, 2) into standard deviations along the axes of its joint's heat map.
    whiten = axes.transpose(0, 2, 1) / np.sqrt(variance.clip(0) + _SURE**2)[:, :, None]
    unit = np.array([DOFS[name].high - DOFS[name].low for name in _FITTED])
    hinted = np.array([getattr(guess, name) for name in _HINTS])
    sure = np.array(list(_HINTS.values()))

    def scene(x: np.ndarray) -> Scene:
        values = dict(zip(_FITTED, x[:-3] * unit, strict=True))
        return Scene(actor, guess.with_values(values), next(iter(PLACES)), Camera(*(x[-3:] * _CAMERA_SPREAD)))

    def residuals(x: np.ndarray) -> np.ndarray:
        shown = scene(x)
        off = np.einsum("jab,jb->ja", whiten, joints(shown) - seen).ravel()
        hints = np.array([getattr(shown.pose, name) for name in _HINTS]) - hinted
        return np.concatenate([off, hints / sure, x[-3:] - _CAMERA / _CAMERA_SPREAD])

    low = np.concatenate([[DOFS[n].low for n in _FITTED] / unit, _CAMERA_LOW / _CAMERA_SPREAD])
    high = np.concatenate([[DOFS[n].high for n in _FITTED] / unit, _CAMERA_HIGH / _CAMERA_SPREAD])
    start = np.concatenate([[getattr(guess, n) for n in _FITTED] / unit, _CAMERA / _CAMERA_SPREAD])
    inside = start.clip(low + 1e-4, high - 1e-4)
    found = least_squares(residuals, inside, bounds=(low, high), max_nfev=_MOST_EVALUATIONS)
    return scene(found.x).pose


def _moments(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (17, 2) and covariances (17, 2, 2) of heat maps, x and y in picture units."""
    size = heat.shape[-1]
    share = np.exp(heat - heat.max((1, 2), keepdims=True))
    share /= share.sum((1, 2), keepdims=True)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    cells = np.stack([x, y], -1).reshape(-1, 2)
    weights = share.reshape(len(heat), -1)
    mean = weights @ cells
    second = np.einsum("jc,ca,cb->jab", weights, cells, cells)
    return mean, second - mean[:, :, None] * mean[:, None, :] - np.eye(2) * (_TAUGHT / size) ** 2


def _first_guess(seen: np.ndarray, features: np.ndarray) -> Pose:
    """Every angle read off the joints that span it."""
    whole = features_pose(features)
    points = {name: complex(*point) for name, point in zip(JOINT_NAMES, seen, strict=True)}
    # Hips are a few pixels apart, and the trunk's direction depends on its lean: together they are surer than either.
    hips = points["l_hip"] - points["r_hip"]
    trunk = 1j * (points["neck"] - points["pelvis"]) * cmath.exp(-1j * math.radians(whole.torso_lean))
    root = math.degrees(cmath.phase(hips / abs(hips) + trunk / abs(trunk)))
    angles = limb_angles(points, root) | {"root_rotation": root, "torso_lean": whole.torso_lean}
    return Pose.from_array(whole.with_values(angles).as_array())
