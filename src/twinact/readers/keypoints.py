"""Sets of keypoints that networks and files have, and how each becomes the joints of our body.

No set has our pelvis or head, COCO's have no neck and no toes: the neck lies between the shoulders, the pelvis between
the hips, the head's centre between the ears.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.readers.body import JOINTS

_LIMBS = ("shoulder", "elbow", "hand", "hip", "knee", "foot")


@dataclass(frozen=True)
class KeypointSet:
    """One set of keypoints.

    Attributes:
        name: What people call it.
        count: How many keypoints it has.
        index: Number of each keypoint that is used: limbs as in `JOINTS`, ``nose``, ``l_ear``, ``r_ear``, ``l_eye``,
            ``r_eye``, and where the set has them ``neck``, ``pelvis``, ``l_toe``, ``r_toe``.
    """

    name: str
    count: int
    index: Mapping[str, int]


def _named(start: int, *names: str) -> dict[str, int]:
    return {name: start + i for i, name in enumerate(names) if name}


def _pairs(start: int, *names: str, first: str = "l") -> dict[str, int]:
    """Left and right in turns."""
    sides = (first, "r" if first == "l" else "l")
    return {f"{side}_{name}": start + 2 * i + k for i, name in enumerate(names) for k, side in enumerate(sides)}


_FACE = {"nose": 0, **_pairs(1, "eye", "ear")}
COCO_17 = KeypointSet("COCO", 17, {**_FACE, **_pairs(5, *_LIMBS)})
"""Lin et al., "Microsoft COCO", 2014; ViTPose, HRNet and YOLO-Pose give it."""

WHOLE_BODY_133 = KeypointSet("COCO-WholeBody", 133, {**COCO_17.index, "l_toe": 17, "r_toe": 20})
"""Jin et al., "Whole-Body Human Pose Estimation in the Wild", 2020; DWPose and RTMPose give it."""

_OPENPOSE_ARMS = _named(0, "nose", "neck", "r_shoulder", "r_elbow", "r_hand", "l_shoulder", "l_elbow", "l_hand")
OPENPOSE_18 = KeypointSet(
    "OpenPose's COCO",
    18,
    {
        **_OPENPOSE_ARMS,
        **_named(8, "r_hip", "r_knee", "r_foot", "l_hip", "l_knee", "l_foot", "r_eye", "l_eye", "r_ear", "l_ear"),
    },
)
"""Cao et al., "OpenPose", 2019; ControlNet's annotators and editors write it."""

BODY_25 = KeypointSet(
    "OpenPose's BODY_25",
    25,
    {
        **_OPENPOSE_ARMS,
        **_named(8, "pelvis", "r_hip", "r_knee", "r_foot", "l_hip", "l_knee", "l_foot"),
        **_named(15, "r_eye", "l_eye", "r_ear", "l_ear", "l_toe", "", "", "r_toe"),
    },
)

BLAZEPOSE_33 = KeypointSet(
    "BlazePose",
    33,
    {"nose": 0, "l_eye": 2, "r_eye": 5, **_pairs(7, "ear"), **_pairs(11, "shoulder", "elbow", "hand"),
     **_pairs(23, "hip", "knee", "foot"), **_pairs(31, "toe")},
)  # fmt: skip
"""Bazarevsky et al., "BlazePose", 2020."""

AP_10K = KeypointSet(
    "AP-10K",
    17,
    {"l_eye": 0, "r_eye": 1, "nose": 2, "neck": 3, "pelvis": 4, **_named(5, "l_shoulder", "l_elbow", "l_hand",
     "r_shoulder", "r_elbow", "r_hand", "l_hip", "l_knee", "l_foot", "r_hip", "r_knee", "r_foot")},
)  # fmt: skip
"""Animals (Yu et al., "AP-10K", 2021): forelegs are read as arms, the root of the tail as the pelvis."""

SET_OF_COUNT = {one.count: one for one in (COCO_17, OPENPOSE_18, BODY_25, WHOLE_BODY_133)}
"""Sets that files have, by how many keypoints they hold."""


def body_joints(
    points: Float[Tensor, "b keypoints 2"], confidence: Float[Tensor, "b keypoints"], kind: KeypointSet
) -> tuple[Float[Tensor, "b 17 2"], Float[Tensor, "b 17"]]:
    """Where the joints of the body are, in the unit of `points`, and how sure each is; 0 for joints not in the set.

    A joint between two keypoints is as sure as the less sure of them.

    Args:
        points: x to the right and y down.
        confidence: In [0, 1]; 0 where a keypoint is not seen, whatever its point.
        kind: What the keypoints are.
    """
    points = torch.where(confidence[..., None] > 0, points, torch.zeros_like(points))

    def named(name: str) -> tuple[Tensor, Tensor]:
        if name not in kind.index:
            return points.new_zeros(len(points), 2), confidence.new_zeros(len(points))
        return points[:, kind.index[name]], confidence[:, kind.index[name]]

    def between(first: str, second: str) -> tuple[Tensor, Tensor]:
        (a, sure_a), (b, sure_b) = named(first), named(second)
        return (a + b) / 2, torch.minimum(sure_a, sure_b)

    def either(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The first where it is seen, else the second."""
        seen = one[1] > 0
        return torch.where(seen[:, None], one[0], other[0]), torch.where(seen, one[1], other[1])

    found = {name: named(name) for name in JOINTS}
    found["neck"] = either(between("l_shoulder", "r_shoulder"), named("neck"))
    found["pelvis"] = either(between("l_hip", "r_hip"), named("pelvis"))
    # In profile one ear lies at the head's centre, from the front both do on average. The nose lies before it, so the
    # middle between it and an ear is the better guess for what is half turned.
    ears = either(between("l_ear", "r_ear"), either(between("l_ear", "nose"), between("r_ear", "nose")))
    lone = either(named("l_ear"), named("r_ear"))
    found["head"] = either(ears, either(lone, either(between("l_eye", "r_eye"), named("nose"))))
    joints, sure = zip(*(found[name] for name in JOINTS), strict=True)
    return torch.stack(joints, 1), torch.stack(sure, 1)


def face_confidence(confidence: Float[Tensor, "b keypoints"], kind: KeypointSet) -> Float[Tensor, "b"]:
    """How sure it is that the face is seen: as the nose."""
    return confidence[:, kind.index["nose"]]
