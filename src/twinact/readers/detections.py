"""Reads the output of BlazePose's detector: boxes on a grid of anchors, of which the best are kept.

The grid and the coding are those of SSD (Liu et al., "SSD: Single Shot MultiBox Detector", 2016) with MediaPipe's
settings: one box size, and two anchors in every cell for every layer of features.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_PIXELS = 224
# (cells along each side, anchors in each cell); strides 8 and 16, and three layers of stride 32.
_GRIDS = ((28, 2), (14, 2), (7, 6))
_LEAST_SCORE = 0.5
_OVERLAP = 0.3


@dataclass(frozen=True)
class Detection:
    """Somebody in a square of 224 pixels, or in the picture that it was cut from.

    Attributes:
        box: Left, top, right, bottom.
        centre: The middle of the hips, x and y.
        rim: A point on the circle around the whole body, in the direction of the head.
        score: How sure it is, in [0, 1].
    """

    box: tuple[float, float, float, float]
    centre: tuple[float, float]
    rim: tuple[float, float]
    score: float

    def mapped(self, matrix: NDArray[np.float64]) -> "Detection":
        """The same in other coordinates, by an affine map (2, 3) without a turn."""

        def move(x: float, y: float) -> tuple[float, float]:
            a, b = matrix @ (x, y, 1.0)
            return float(a), float(b)

        left, top, right, bottom = self.box
        box = (*move(left, top), *move(right, bottom))
        return replace(self, box=box, centre=move(*self.centre), rim=move(*self.rim))


def decode(boxes: NDArray[np.float32], logits: NDArray[np.float32]) -> list[Detection]:
    """The people that the detector finds, the surest first.

    Args:
        boxes: (anchors, 12): the box's centre from the anchor and its size, then four keypoints from the anchor, all in
            pixels of the square.
        logits: (anchors,) of the score.
    """
    scores = 1.0 / (1.0 + np.exp(-logits.clip(-100, 100).astype(np.float64)))
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= _LEAST_SCORE]
    anchors = _anchors()
    found: list[Detection] = []
    for i in order:
        x, y = anchors[i] + boxes[i, :2]
        width, height = boxes[i, 2:4]
        points = anchors[i] + boxes[i, 4:8].reshape(2, 2)
        box = tuple(float(side) for side in (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        centre, rim = ((float(a), float(b)) for a, b in points)
        one = Detection(box, centre, rim, float(scores[i]))  # type: ignore[arg-type]
        if all(_overlap(one.box, other.box) < _OVERLAP for other in found):
            found.append(one)
    return found


def _anchors() -> NDArray[np.float64]:
    """(anchors, 2): the middle of every cell, in pixels, once for each of its anchors."""
    grids = []
    for cells, count in _GRIDS:
        middle = (np.arange(cells) + 0.5) * (_PIXELS / cells)
        y, x = np.meshgrid(middle, middle, indexing="ij")
        grids.append(np.stack([x, y], axis=-1).reshape(-1, 1, 2).repeat(count, axis=1).reshape(-1, 2))
    return np.concatenate(grids)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / max(areas - shared, 1e-9)
