"""Writes pictures as PNG files, and puts several pictures on one sheet."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image


def png_bytes(picture: Image.Image, **options: Any) -> bytes:
    """The picture as a PNG file.

    Args:
        picture: Picture of any mode that PNG knows.
        options: Options of Pillow's writer, such as ``optimize`` or ``pnginfo``.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def contact_sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size in rows of so many columns, without gaps."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet
