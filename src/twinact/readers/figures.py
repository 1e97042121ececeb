"""From the people that a reader finds in each picture to one reading: who is meant, and what is told about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.errors import ConfigError
from twinact.readers.body import JOINTS, SEGMENT_NAMES, body_reading
from twinact.readers.keypoints import KeypointSet, body_joints, face_confidence
from twinact.readers.reader import PoseReading, Seen

# Segments of less weight are drawn thin and told.
UNSURE = 0.5
# Joints of less confidence are guesses of the network, which always gives some point.
_FLOOR = 0.2
# A figure smaller than this share of the picture's longer side may be a passer-by.
_SMALL = 0.25
# A figure turned further than this from the camera shows its shoulders and hips at less than half their width.
_NARROW = 0.35


@dataclass(frozen=True)
class Figure:
    """Somebody in a picture.

    Attributes:
        joints: Where each of `JOINTS` is, as shares of the square that the picture is fitted into.
        confidence: How sure each is, in [0, 1].
        face: How sure it is that the face is seen, in [0, 1]; None where the reader does not say.
    """

    joints: Float[Tensor, "17 2"]
    confidence: Float[Tensor, "17"]
    face: float | None = None

    @property
    def size(self) -> float:
        """Diagonal of the box around what is seen; a figure lies as large as it stands."""
        seen = self.joints[self.confidence > _FLOOR]
        return float((seen.amax(0) - seen.amin(0)).norm()) if len(seen) else 0.0


def figures_of(
    points: Float[Tensor, "people keypoints 2"], confidence: Float[Tensor, "people keypoints"], kind: KeypointSet
) -> list[Figure]:
    """People from their keypoints, the largest first.

    Args:
        points: As shares of the square that the picture is fitted into (`twinact.readers.body.in_square`).
        confidence: In [0, 1].
        kind: What the keypoints are.
    """
    joints, sure = body_joints(points, confidence, kind)
    faces = face_confidence(confidence, kind).tolist()
    found = [Figure(*one) for one in zip(joints, sure, faces, strict=True)]
    return sorted((one for one in found if one.size > 0), key=lambda one: -one.size)


def reading_of(people: Sequence[Sequence[Figure]], person: int, reader: str) -> PoseReading:
    """The reading of one person in each picture.

    Args:
        people: For each picture whom it shows, the largest first.
        person: Who is meant, from 1; the last one where there are fewer.
        reader: Name of the reader.

    Raises:
        ConfigError: `person` is below 1.
    """
    if person < 1:
        raise ConfigError(f"person {person} must be 1 or more: 1 is the largest in the picture, 2 the next")
    chosen = [min(person, len(figures)) for figures in people]
    nobody = Figure(torch.zeros(len(JOINTS), 2), torch.zeros(len(JOINTS)))
    figures = [found[number - 1] if number else nobody for found, number in zip(people, chosen, strict=True)]
    if not figures:
        return body_reading(torch.zeros(0, len(JOINTS), 2), torch.zeros(0, len(JOINTS)))
    reading = body_reading(
        torch.stack([one.joints for one in figures]), torch.stack([one.confidence for one in figures]), _FLOOR
    )
    seen = []
    for i, (one, number) in enumerate(zip(figures, chosen, strict=True)):
        remarks = _remarks(reading.directions[i], reading.weights[i], one)
        if 0 < number < person:
            remarks = (f"there is no person {person}; person {number} was read", *remarks)
        seen.append(Seen(reader, number, len(people[i]), remarks))
    return replace(reading, seen=tuple(seen))


def _remarks(
    directions: Float[Tensor, "segments 2"], weights: Float[Tensor, "segments"], one: Figure
) -> tuple[str, ...]:
    """What a person should know about a reading."""
    if float(weights.max()) <= 0:
        return ("nobody was found",)
    small = [f"small: {one.size:.0%} of the picture; crop it closer"] if one.size < _SMALL else []
    return (*_limbs(weights), *_facing(directions, weights, one), *small)


def _limbs(weights: Float[Tensor, "segments"]) -> list[str]:
    """Which segments are missing, and which are unsure."""
    missing = [name for name, sure in zip(SEGMENT_NAMES, weights.tolist(), strict=True) if sure == 0]
    unsure = [name for name, sure in zip(SEGMENT_NAMES, weights.tolist(), strict=True) if 0 < sure < UNSURE]
    said = [f"not seen: {', '.join(missing)}"] if missing else []
    return said + ([f"unsure: {', '.join(unsure)}"] if unsure else [])


def _facing(directions: Float[Tensor, "segments 2"], weights: Float[Tensor, "segments"], one: Figure) -> list[str]:
    """How the figure is turned, where that makes left and right unsure."""
    shoulders, hips, torso = (
        SEGMENT_NAMES.index(name) for name in ("line of the shoulders", "line of the hips", "torso")
    )
    if min(float(weights[shoulders]), float(weights[hips]), float(weights[torso])) <= 0:
        return []
    # Across the torso, so that somebody who lies or stands on the hands is judged as one who stands.
    x, y = directions[torso].tolist()
    across = torch.tensor([-y, x])
    lengths = [_width(one, joint) for joint in ("shoulder", "hip")]
    left = [float(directions[line] @ across) for line in (shoulders, hips)]
    if max(lengths) < _NARROW:
        return ["seen from the side, so left and right may be swapped"]
    if left[0] * left[1] < 0 and min(map(abs, left)) > math.cos(math.radians(60)):
        return ["shoulders and hips point to opposite sides: it is twisted, or left and right are swapped in part"]
    if left[0] < 0:
        if one.face is not None and one.face > UNSURE:
            return [
                "left and right may be swapped: it shows its face and its left shoulder lies where the right should"
            ]
        return ["seen from behind"]
    return []


def _width(one: Figure, joint: str) -> float:
    """Width of the shoulders or hips, in lengths of the torso."""
    left, right, neck, pelvis = (
        one.joints[JOINTS.index(name)] for name in (f"l_{joint}", f"r_{joint}", "neck", "pelvis")
    )
    return float((left - right).norm() / (neck - pelvis).norm().clamp(min=1e-9))
