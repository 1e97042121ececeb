"""The JSON that tools write keypoints in: OpenPose's, COCO's, and the instances of MMPose, RTMPose and DWPose.

What is malformed ends in ValueError, TypeError, KeyError, AttributeError, IndexError or OverflowError, whichever comes
first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinact.data.folder import composed

KEYS = ("people", "annotations", "keypoints", "instance_info", "instances")
"""One of these is in every file that holds keypoints."""

# Of the side of a canvas.
_MOST_PIXELS = 1_000_000
# Where COCO-WholeBody's annotations keep the 133 keypoints, in order.
_WHOLE = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")


@dataclass(frozen=True)
class Person:
    """Keypoints of somebody as a file has them.

    Attributes:
        points: x, y and confidence in [0, 1] of each keypoint, in pixels or as shares of the canvas.
        canvas: Width and height of the picture, where the file says them.
    """

    points: list[list[float]]
    canvas: tuple[float, float] | None = None


def holds_keypoints(content: Any) -> bool:
    """Whether a JSON file is about keypoints at all."""
    if isinstance(content, list):
        return bool(content) and isinstance(content[0], dict) and holds_keypoints(content[0])
    return isinstance(content, dict) and any(key in content for key in KEYS)


def is_table(content: Any) -> bool:
    """Whether it is about many pictures: COCO's annotations, or its results."""
    if isinstance(content, dict):
        return isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list)
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "image_id" in first and "keypoints" in first


def people_of(content: Any) -> Iterator[Person]:
    """Everybody in a file about one picture."""
    if isinstance(content, dict) and "people" in content:
        canvas = _canvas(content, "canvas_width", "canvas_height")
        for one in content["people"]:
            flat = one.get("pose_keypoints_2d")
            if flat:  # editors write people of whom they have the hands or the face only
                yield Person(_triples(flat), canvas)
    elif isinstance(content, dict) and "keypoints" not in content:
        for one in content["instance_info"] if "instance_info" in content else content["instances"]:
            yield from people_of(one)
    else:
        for one in content if isinstance(content, list) else [content]:
            # ComfyUI wraps OpenPose's files in a list, one for each frame.
            yield from people_of(one) if "keypoints" not in one else [_instance(one)]


def rows_of(content: Any) -> dict[str, list[Person]]:
    """Everybody in a table, by the stem of the picture; by its number where the table does not name pictures."""
    annotated = isinstance(content, dict)
    images = {one["id"]: one for one in content["images"]} if annotated else {}
    names = {key: composed(Path(one["file_name"]).stem) for key, one in images.items()}
    found: dict[str, list[Person]] = {name: [] for name in names.values()}
    for one in content["annotations"] if annotated else content:
        if "keypoints" not in one:
            continue
        key = one["image_id"]
        points = _annotated(one) if annotated else _triples(one["keypoints"])
        canvas = _canvas(images[key], "width", "height") if key in images else None
        found.setdefault(names.get(key, str(key).lstrip("0")), []).append(Person(points, canvas))
    return found


def _instance(one: Mapping[str, Any]) -> Person:
    """One person as MMPose writes it, or a line of COCO's results."""
    points = one["keypoints"]
    if points and isinstance(points[0], list | tuple):
        scores = one.get("keypoint_scores", [1.0] * len(points))
        return Person([[float(at[0]), float(at[1]), float(sure)] for at, sure in zip(points, scores, strict=True)])
    return Person(_triples(points))


def _annotated(one: Mapping[str, Any]) -> list[list[float]]:
    """Keypoints of an annotation, of the whole body where it has them: 2 is seen, 1 hidden, 0 not known."""
    parts = _WHOLE if all(part in one for part in _WHOLE) else _WHOLE[:1]
    return [[x, y, seen / 2] for part in parts for x, y, seen in _triples(one[part])]


def _triples(flat: Sequence[Any]) -> list[list[float]]:
    numbers = [float(value) for value in flat]
    if len(numbers) % 3:
        raise ValueError(f"{len(numbers)} numbers are no list of x, y, confidence")
    return [numbers[i : i + 3] for i in range(0, len(numbers), 3)]


def _canvas(content: Mapping[str, Any], width: str, height: str) -> tuple[float, float] | None:
    if width not in content or height not in content:
        return None
    size = float(content[width]), float(content[height])
    if not all(1 <= side <= _MOST_PIXELS for side in size):
        raise ValueError(f"a canvas of {size[0]:g} × {size[1]:g}")
    return size
