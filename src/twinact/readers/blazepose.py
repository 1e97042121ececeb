"""Reads photographs of people with BlazePose, whose networks lie in the wheel of MediaPipe.

MediaPipe's own code is never imported: its wheel asks for old versions of numpy and protobuf, and the networks run
without it. They are from Bazarevsky et al., "BlazePose: On-device Real-time Body Pose Tracking", 2020.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from twinact.errors import MissingDependency
from twinact.readers.body import SEGMENTS, in_square
from twinact.readers.detections import decode
from twinact.readers.figures import Figure, figures_of, reading_of
from twinact.readers.keypoints import BLAZEPOSE_33
from twinact.readers.reader import PoseReading

INSTALL = "pip install --no-deps mediapipe==0.10.21 && pip install ai-edge-litert"
"""How to install the networks and what runs them."""

_MODELS = "mediapipe/modules"
_DETECTOR, _LANDMARKS = (
    f"{_MODELS}/pose_detection/pose_detection.tflite",
    f"{_MODELS}/pose_landmark/pose_landmark_full.tflite",
)
_DETECTOR_PIXELS, _LANDMARK_PIXELS = 224, 256
# MediaPipe's own thresholds and margin.
_PRESENT, _MARGIN = 0.5, 1.25
# The crop is taken anew around what was found: the detector's is rough, and a limb outside it is not seen.
_ROUNDS = 3
# Keypoints 33 and 34 of 39 are the middle of the hips and a point on the circle around the whole body.
_CENTRE, _RIM = 33, 34
# What lies further than this outside the picture, in its longer sides, is not in it; the network gives a point still.
_OUTSIDE = 0.02
# Somebody this large, in longer sides of the picture, is whom it is about.
_LARGE = 0.5
# A crop whose centre lies this close to somebody's hips, in sizes of the body, is about the same person. So is a find
# if this share of its box, or of the other's, lies in both.
_NEAR, _SHARED = 0.25, 0.6
_LEFT_HIP = 23


@dataclass(frozen=True)
class _Crop:
    """A turned square in a picture: its centre and side in pixels, and how far it is turned, in radians."""

    x: float
    y: float
    side: float
    angle: float


class BlazePoseReader:
    """Reads the largest person in each picture, or another one.

    Args:
        person: Who is read, by size from 1.

    Raises:
        MissingDependency: The networks or what runs them are not installed.
    """

    name = "blazepose"
    segments = len(SEGMENTS)

    def __init__(self, person: int = 1) -> None:
        self._person = person
        self._detector, self._landmarks = _network(_DETECTOR), _network(_LANDMARKS)

    def read(self, pictures: Sequence[Image.Image]) -> PoseReading:
        return reading_of([self.figures(one) for one in pictures], self._person, self.name)

    def figures(self, picture: Image.Image) -> list[Figure]:
        """People in a picture, the largest first; those beside somebody large are looked for if one is asked for.

        Args:
            picture: Of any mode.
        """
        pixels = np.asarray(picture.convert("RGB"))
        height, width = pixels.shape[:2]
        found: list[NDArray[np.float32]] = []
        for squares in _searches(width, height):
            starts = [start for square in squares for start in self._detect(pixels, square)]
            # The detector overlooks people who fill the picture or stand on their hands; the other network does not.
            for start in starts or squares[:1]:
                one = None if _is_inside(start, found) else self._follow(pixels, start)
                if one is not None and not any(_same(one, other) for other in found):
                    found.append(one)
            if self._person == 1 and any(_extent(one) > _LARGE * max(width, height) for one in found):
                break
        if not found:
            return []
        stacked = torch.from_numpy(np.stack(found))  # (people, 33, x y confidence)
        points = in_square(stacked[..., :2], width, height)
        inside = ((points > -_OUTSIDE) & (points < 1 + _OUTSIDE)).all(dim=2)
        people = figures_of(points, stacked[..., 2] * inside, BLAZEPOSE_33)
        # It is as sure of a face that is turned away as of one that is seen.
        return [replace(one, face=None) for one in people]

    def _detect(self, pixels: NDArray[np.uint8], square: _Crop) -> list[_Crop]:
        """Crops of the people in a square of the picture, the surest first."""
        cut, to_picture = _cut(pixels, square, _DETECTOR_PIXELS)
        raw = _run(self._detector, cut.astype(np.float32) / 127.5 - 1.0)
        found = [one.mapped(to_picture) for one in decode(raw["Identity"][0], raw["Identity_1"][0, :, 0])]
        return [_around(*one.centre, *one.rim) for one in found]

    def _follow(self, pixels: NDArray[np.uint8], crop: _Crop) -> NDArray[np.float32] | None:
        """Keypoints (33, 3) of the person in a crop: x and y in pixels, confidence; None where there is nobody."""
        points = np.zeros((0, 3), np.float32)
        for _ in range(_ROUNDS):
            square, to_picture = _cut(pixels, crop, _LANDMARK_PIXELS)
            raw = _run(self._landmarks, square.astype(np.float32) / 255.0)
            if float(raw["Identity_1"][0, 0]) < _PRESENT:
                return None
            marks = raw["Identity"].reshape(-1, 5)  # x, y, depth, visibility, presence
            places = marks[:, :2] @ to_picture[:, :2].T + to_picture[:, 2]
            # Hidden behind the body, or outside the picture: either makes it a guess.
            sure = 1.0 / (1.0 + np.exp(-marks[:, 3:].min(axis=1).clip(-30, 30)))
            points = np.concatenate([places, sure[:, None]], axis=1)
            crop = _around(*places[_CENTRE], *places[_RIM])
        return points[: BLAZEPOSE_33.count].astype(np.float32)


def _network(file: str) -> Any:
    """An interpreter of one of the networks in MediaPipe's wheel."""
    try:
        path = distribution("mediapipe").locate_file(file)
    except PackageNotFoundError as error:
        raise MissingDependency(f"reading photographs with BlazePose needs mediapipe; run {INSTALL}") from error
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingDependency(f"reading photographs with BlazePose needs ai-edge-litert; run {INSTALL}") from error
    if not path.is_file():  # type: ignore[attr-defined]
        raise MissingDependency(f"this version of mediapipe has no {file}; run {INSTALL}")
    with _silence():
        network = Interpreter(model_path=str(path), num_threads=1)
        network.allocate_tensors()
    return network


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps a line about delegates off stderr, which the library writes past Python and past all of its settings."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _run(network: Any, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The outputs of a network by name."""
    network.set_tensor(network.get_input_details()[0]["index"], pixels[None])
    network.invoke()
    return {one["name"]: network.get_tensor(one["index"]) for one in network.get_output_details()}


def _searches(width: int, height: int) -> Iterator[list[_Crop]]:
    """Where people are looked for in a picture: in all of it, then in overlapping parts.

    The detector sees a square at low resolution and overlooks people who are small in it.
    """
    side = float(max(width, height))
    yield [_Crop(width / 2, height / 2, side, 0.0)]
    half = side / 2
    middles = [sorted({length / 2 + share * max(0.0, length - half) for share in (-0.5, 0.0, 0.5)})
               for length in (width, height)]  # fmt: skip
    yield [_Crop(x, y, half, 0.0) for y in middles[1] for x in middles[0]]


def _around(x: float, y: float, rim_x: float, rim_y: float) -> _Crop:
    """The crop of a body: centred on its hips, and turned so that its head is up."""
    reach = math.hypot(rim_x - x, rim_y - y)
    return _Crop(float(x), float(y), max(2 * reach * _MARGIN, 1.0), math.atan2(rim_x - x, y - rim_y))


def _cut(pixels: NDArray[np.uint8], crop: _Crop, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A crop in `size` × `size` pixels, black outside the picture, and the affine map (2, 3) from it to the picture."""
    scale = crop.side / size
    cos, sin = scale * math.cos(crop.angle), scale * math.sin(crop.angle)
    half = size / 2
    to_picture = np.array([
        [cos, -sin, crop.x - half * (cos - sin)],
        [sin, cos, crop.y - half * (sin + cos)],
    ])  # fmt: skip
    # Shrunk first where it is much larger, because the warp looks at four pixels only.
    shrink = max(1, int(scale))
    small = pixels
    if shrink > 1:
        rows, columns = (-(-side // shrink) for side in pixels.shape[:2])
        small = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    ratio = np.array([[small.shape[1] / pixels.shape[1]], [small.shape[0] / pixels.shape[0]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(small, to_picture * ratio, (size, size), flags=flags)), to_picture


def _extent(one: NDArray[np.float32]) -> float:
    """Longer side of the box around somebody, in pixels."""
    return float(np.ptp(one[:, :2], axis=0).max())


def _is_inside(crop: _Crop, found: list[NDArray[np.float32]]) -> bool:
    """Whether a crop is centred on the hips of somebody who is known."""
    middles = [(one[_LEFT_HIP, :2] + one[_LEFT_HIP + 1, :2]) / 2 for one in found]
    gaps = [math.hypot(crop.x - x, crop.y - y) for x, y in middles]
    return any(gap < _NEAR * _extent(one) for gap, one in zip(gaps, found, strict=True))


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two finds are one person: the smaller box lies in the other for the most part."""
    boxes = [(points[:, :2].min(axis=0), points[:, :2].max(axis=0)) for points in (one, other)]
    shared = np.clip(np.minimum(boxes[0][1], boxes[1][1]) - np.maximum(boxes[0][0], boxes[1][0]), 0, None)
    smaller = min(float(np.prod(high - low)) for low, high in boxes)
    return float(np.prod(shared)) > _SHARED * max(smaller, 1.0)
