"""Finds pictures that are no pictures of their own: masks, and maps of depth, edges or poses, beside their pictures."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from twinact.data.folder import MASK_SUFFIX, stem_of

# What preprocessors of ControlNet and of video tools call their outputs, and no photograph is called.
_KINDS = frozenset(
    "canny densepose depth depthmap disparity dwpose edge edges hed lineart mask masks midas mlsd normal normalmap "
    "normals openpose scribble seg segmentation softedge zoe".split()
)
# JPEG and WEBP give greys a little colour.
_ROUNDED_COLOUR = 16
# Colours are counted in steps of 16, as far as they make up 97 % of a picture: maps in any palette of matplotlib come
# to 30 to 90 of them, also as JPEG; of 20 photographs (COCO) half come to 160 and more, dark ones to 50.
_SHADES, _SHARE, _MOST_OF_A_PALETTE = 16, 0.97, 90
_SIDE_PIXELS = 192
_SEPARATORS = "_-. "


def maps_of(pictures: Mapping[Path, Image.Image]) -> Iterator[str]:
    """A line for each picture that is only a mask or map of another one, by its name or its colours.

    Args:
        pictures: Upright pictures in RGB, by file.
    """

    @cache
    def colours(path: Path) -> int:
        return count_colours(pictures[path])

    @cache
    def two_levels(path: Path) -> bool:
        return colours(path) == 0 and _in_two_levels(pictures[path])

    for path in pictures:
        for other in pictures:
            more = _more(stem_of(path), stem_of(other)) if path != other else None
            if more is None:
                continue
            why = ""
            if two_levels(path) and not two_levels(other):
                why = "is black and white alone, and looks like"
            elif _joined(more):
                continue  # their names say little
            elif _KINDS & set(re.split(r"[^a-z]+", more.lower())):
                why = "is called"
            elif colours(path) == 0 < colours(other):
                why = "has no colour, and looks like"
            elif _in_a_palette(colours(path), colours(other)) and _one_shape(pictures[path], pictures[other]):
                why = "has the colours of a palette, and looks like"
            if why:
                yield (
                    f"{path.name}: {why} a mask or map of {other.name}; call a mask {other.stem}{MASK_SUFFIX}, delete "
                    "the file, or rename the picture"
                )
                break


def count_colours(picture: Image.Image) -> int:
    """How many colours, in steps of 16 a channel, make up nearly all of a picture; 0 for one without any colour."""
    pixels = np.asarray(picture.convert("RGB")).astype(np.int16)
    if int(np.ptp(pixels, axis=-1).max()) <= _ROUNDED_COLOUR:
        return 0
    # Nearest pixels: between two colours of a palette lie others.
    small = picture.convert("RGB").resize((_SIDE_PIXELS, _SIDE_PIXELS), Image.Resampling.NEAREST)
    steps = np.asarray(small).reshape(-1, 3).astype(np.int64) // (256 // _SHADES)
    counts = np.sort(np.bincount(steps @ (_SHADES**2, _SHADES, 1)))[::-1]
    return int(np.searchsorted(np.cumsum(counts), _SHARE * len(steps))) + 1


def _more(name: str, other: str) -> str | None:
    """What a name says besides the other one, which a separator or a digit keeps apart; None where it is not made of
    it. Files may differ in their endings alone."""
    if name == other:
        return ""
    for more, place, end in ((name.removeprefix(other), 0, other[-1:]), (name.removesuffix(other), -1, other[:1])):
        if more and more != name and (more[place] in _SEPARATORS or (_joined(more) and end.isdigit())):
            return more
    return None


def _joined(more: str) -> bool:
    """Whether it is letters alone, as in "0m" besides "0"."""
    return more.isalpha()


def _in_two_levels(picture: Image.Image) -> bool:
    """Whether a picture without colour has hardly any grey besides two, up to the rounding of JPEG."""
    counts = np.bincount(np.asarray(picture.convert("L")).reshape(-1), minlength=256)
    share, whole = 0, counts.sum()
    for _ in range(2):
        level = int(counts.argmax())
        near = slice(max(0, level - _ROUNDED_COLOUR), level + _ROUNDED_COLOUR + 1)
        share += int(counts[near].sum())
        counts[near] = 0
    return bool(share >= _SHARE * whole)


def _in_a_palette(colours: int, of_whole: int) -> bool:
    """Whether a picture has few colours, and far fewer than the other: drawings have few as well."""
    return 0 < colours <= _MOST_OF_A_PALETTE and 2 * colours <= of_whole


def _one_shape(picture: Image.Image, whole: Image.Image) -> bool:
    (width, height), (own_width, own_height) = whole.size, picture.size
    return abs(own_width * height - own_height * width) <= width + height
