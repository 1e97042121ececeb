"""Draws what was read over the pictures, so that a person sees at a glance whether it is right."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from twinact.readers.body import JOINTS, SEGMENT_NAMES, SEGMENTS, from_square
from twinact.readers.figures import UNSURE
from twinact.readers.keypoint_files import read_keypoints
from twinact.readers.reader import PoseReading
from twinact.sheets import contact_sheet

# Told apart by people who do not tell red from green.
_COLOURS = {"left": (255, 159, 28), "right": (46, 134, 255)}
_TRUNK = (255, 255, 255)
_SIZE = 320


def with_limbs(picture: Image.Image, reading: PoseReading, index: int, size: int = _SIZE) -> Image.Image:
    """A picture with the segments that were read: left ones orange, right ones blue, the trunk white.

    Segments of which the reader is unsure are thin; those that it does not see are left out.

    Args:
        picture: As it was read.
        reading: Of this and other pictures.
        index: Which of them it is.
        size: Longer side of the result, in pixels; the result has the picture's shape.
    """
    scale = size / max(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    drawn = picture.convert("RGB").resize(shape, Image.Resampling.LANCZOS)
    if reading.joints is None or reading.joints.shape[1] != len(JOINTS):
        return drawn
    pen = ImageDraw.Draw(drawn)
    joints = from_square(reading.joints[index], *drawn.size)
    thick = max(2, size // 64)
    for (start, end), name, weight in zip(SEGMENTS, SEGMENT_NAMES, reading.weights[index].tolist(), strict=True):
        ends = joints[[start, end]]
        if weight <= 0 or not bool(torch.isfinite(ends).all()):
            continue
        line = [tuple(point) for point in ends.tolist()]
        width = thick if weight >= UNSURE else max(1, thick // 3)
        pen.line(line, fill=(0, 0, 0), width=width + 2)  # an edge, seen on any ground
        pen.line(line, fill=_COLOURS.get(name.split()[0], _TRUNK), width=width)
    return drawn


def reading_sheet(pictures: Sequence[Image.Image], reading: PoseReading, size: int = _SIZE) -> Image.Image:
    """All pictures of a reading with their limbs, numbered, on one sheet."""
    tiles = []
    for i, picture in enumerate(pictures):
        tile = Image.new("RGB", (size, size), (40, 40, 40))
        drawn = with_limbs(picture, reading, i, size)
        tile.paste(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
        pen = ImageDraw.Draw(tile)
        pen.text((size // 32, size // 40), str(i + 1), fill="white", stroke_fill="black", stroke_width=2,
                 font_size=size // 14)  # fmt: skip
        tiles.append(tile)
    return contact_sheet(tiles, min(len(tiles), 5))


def draw_keypoints(files: Sequence[Path], folder: Path, size: int) -> None:
    """Make exemplars of keypoint files alone: their limbs, drawn on white, in the place of the photographs.

    Args:
        files: Keypoint files, one a picture; copied into the folder if they lie elsewhere.
        folder: Created if missing.
        size: Edge of the square pictures in pixels.

    Raises:
        DataError: A file is broken or holds nobody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reading = read_keypoints(files)
    for index, file in enumerate(files):
        stem = file.stem.removesuffix("_keypoints")
        with_limbs(Image.new("RGB", (size, size), "white"), reading, index, size).save(folder / f"{stem}.png")
        if file.parent != folder:
            shutil.copyfile(file, folder / file.name)
