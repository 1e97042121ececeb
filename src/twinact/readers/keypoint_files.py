"""Reads keypoint files, such as ControlNet's users and annotators have them, with or without their pictures.

Understood are OpenPose's JSON (COCO or BODY_25; in pixels or, as some editors write it, as shares of the canvas),
COCO's annotations and results, and the instances that MMPose, RTMPose and DWPose write (17 or 133 keypoints).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.data.folder import TABLES, composed, sort_files, stem_of, visible
from twinact.data.pictures import UnusableError, read_bytes
from twinact.errors import DataError
from twinact.readers.body import in_square
from twinact.readers.figures import Figure, figures_of, reading_of
from twinact.readers.keypoint_formats import KEYS, Person, holds_keypoints, is_table, people_of, rows_of
from twinact.readers.keypoints import SET_OF_COUNT
from twinact.readers.reader import PoseReading

NAME = "keypoints"
ENDINGS = ("_keypoints.json", ".json")
"""How the keypoint file of a picture is called: its stem and one of these, the first that is there."""

# COCO's annotations of a whole training set have 450 MB; nobody gives that as the poses of one action.
_MOST_BYTES = 200_000_000
# Shares of the canvas may lie a little outside it.
_SHARES = 2.0

_Found = TypeVar("_Found")


def keypoint_file(picture: Path) -> Path | None:
    """The keypoint file beside a picture: ``<stem>_keypoints.json``, else ``<stem>.json`` if it holds keypoints.

    Raises:
        DataError: ``<stem>.json`` is broken.
    """
    named, plain = (_beside(picture, ending) for ending in ENDINGS)
    if named is not None:
        return named
    # Other tools keep other things under this name, which are left alone.
    return plain if plain is not None and holds_keypoints(_content(plain)) else None


def _beside(picture: Path, ending: str) -> Path | None:
    """The file of a picture's stem and an ending, however its letters are composed; None where there is none."""
    path = picture.with_name(picture.stem + ending)
    if path.is_file() or path.name.isascii() or not path.parent.is_dir():
        return path if path.is_file() else None
    alike = (one for one in visible(path.parent) if composed(one.name) == composed(path.name) and one.is_file())
    return next(alike, None)


def keypoint_files(folder: Path) -> tuple[Path, ...]:
    """The keypoint files of a folder without pictures, in order of name; empty where there are pictures.

    Which of them hold keypoints is told when they are read, so that a broken one is not passed over.
    """
    if sort_files(folder).pictures:
        return ()
    found = [path for path in visible(folder) if path.suffix.lower() == ".json" and not path.is_dir()]
    return tuple(path for path in found if path.name.lower() not in TABLES)


def table_of(folder: Path) -> Path | None:
    """The COCO file of a folder, one for all of its pictures; None where there is none.

    Raises:
        DataError: There are two, or a JSON file is broken.
    """
    found = [path for path in visible(folder) if path.suffix.lower() == ".json" and is_table(_content(path))]
    if len(found) > 1:
        raise DataError(f"folder '{folder}' has two tables of keypoints, {found[0].name} and {found[1].name}; keep one")
    return found[0] if found else None


def read_keypoints(
    files: Sequence[Path], sizes: Sequence[tuple[int, int] | None] | None = None, person: int = 1
) -> PoseReading:
    """The pose of one person in each file.

    Args:
        files: One a picture.
        sizes: Width and height of the pictures, None for files without a picture.
        person: Who is read, by size from 1.

    Raises:
        DataError: A file is broken, or holds something else.
        ConfigError: `person` is below 1.
    """
    known = sizes or [None] * len(files)
    people = [_figures(_people(path), size, path) for path, size in zip(files, known, strict=True)]
    return reading_of(people, person, NAME)


def read_table(
    table: Path, pictures: Sequence[Path], sizes: Sequence[tuple[int, int]] | None = None, person: int = 1
) -> PoseReading:
    """The pose of one person in each picture, from COCO's annotations or results for all of them.

    Args:
        table: The file.
        pictures: The pictures; only their names are used. Results without names are matched by number.
        sizes: Their widths and heights, where the file does not say them.
        person: Who is read, by size from 1.

    Raises:
        DataError: The file is broken, or says nothing about a picture.
        ConfigError: `person` is below 1.
    """
    content = _content(table)
    if not is_table(content):
        raise _unusable(table, "is no COCO file; it needs images and annotations, or results with image_id")
    rows = _guarded(table, lambda: rows_of(content))
    people = []
    for i, picture in enumerate(pictures):
        mine = rows.get(stem_of(picture), rows.get(picture.stem.lstrip("0")))
        if mine is None:
            raise DataError(f"keypoint file '{table}' says nothing about {picture.name}; add it, or remove the picture")
        people.append(_figures(mine, sizes[i] if sizes else None, table))
    return reading_of(people, person, NAME)


def _people(path: Path) -> list[Person]:
    """Everybody in the file of one picture."""
    content = _content(path)
    if not holds_keypoints(content):
        raise _unusable(path, f"holds no keypoints; it needs one of {', '.join(KEYS)}")
    if not is_table(content):
        return _guarded(path, lambda: list(people_of(content)))
    rows = _guarded(path, lambda: rows_of(content))
    if len(rows) > 1:
        raise _unusable(path, f"is about {len(rows)} pictures, and one is wanted")
    return next(iter(rows.values()), [])


def _figures(people: Sequence[Person], size: tuple[int, int] | None, path: Path) -> list[Figure]:
    """The people of one picture, the largest first, in shares of its square."""
    found: list[Figure] = []
    for one in people:
        kind = SET_OF_COUNT.get(len(one.points))
        if kind is None:
            counts = ", ".join(map(str, SET_OF_COUNT))
            raise _unusable(path, f"has somebody with {len(one.points)} keypoints, and {counts} are understood")
        points = torch.tensor(one.points)
        if not bool(points.isfinite().all()):
            raise _unusable(path, "has a keypoint that is no number")
        found += figures_of(_placed(points, one.canvas or size, path)[None], points[None, :, 2].clamp(0, 1), kind)
    return sorted(found, key=lambda one: -one.size)


def _placed(points: Float[Tensor, "k 3"], size: tuple[float, float] | None, path: Path) -> Float[Tensor, "k 2"]:
    """Keypoints as shares of the square of the picture; of a square around them where nobody knows the picture."""
    places, seen = points[:, :2], points[points[:, 2] > 0, :2]
    if len(seen) == 0:
        return places
    if float(seen.abs().max()) <= _SHARES:
        if size is None:
            raise _unusable(path, "has shares of a canvas and no canvas_width and canvas_height")
        places = places * torch.tensor(size)
    if size is not None:
        return in_square(places, round(size[0]), round(size[1]))
    low, high = seen.amin(0), seen.amax(0)
    return (places - (low + high) / 2) / (high - low).max().clamp(min=1e-9) + 0.5


def _content(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path, _MOST_BYTES))
    except UnusableError as error:
        raise DataError(f"keypoint file '{path}' {error}") from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"is no JSON ({error})") from error


def _guarded(path: Path, read: Callable[[], _Found]) -> _Found:
    """What `read` gives; its errors become one that names the file."""
    try:
        return read()
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise _unusable(path, f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})") from error


def _unusable(path: Path, what: str) -> DataError:
    return DataError(f"keypoint file '{path}' {what}; write it again with the tool that made it, or remove it")
