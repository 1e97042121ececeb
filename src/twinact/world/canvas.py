"""A supersampled drawing surface in picture units, and the colours drawn on it."""

from functools import cache

import cv2
import numpy as np

Colour = tuple[int, int, int, int]
"""Red, green, blue and opacity, each 0-255."""

_SHIFT = 8
_CIRCLE = np.exp(2j * np.pi * np.arange(28) / 28)
_ARC = np.exp(1j * np.pi * (np.arange(10) / 9 - 0.5))
_NONE = np.zeros_like(_ARC)
# A capsule from p to q in direction d is p (back half), q (front half), plus d times the radius times a half circle.
_CAPSULE = np.stack([
    np.concatenate([_NONE + 1, _NONE]),
    np.concatenate([_NONE, _NONE + 1]),
    np.concatenate([-_ARC, _NONE]),
    np.concatenate([_NONE, _ARC]),
])  # fmt: skip


@cache
def rgb(code: str) -> Colour:
    """An opaque colour from six hexadecimal digits."""
    return (int(code[:2], 16), int(code[2:4], 16), int(code[4:6], 16), 255)


@cache
def shade(colour: Colour, factor: float) -> Colour:
    """The colour darkened (factor < 1) or lightened towards white (factor > 1)."""
    if factor <= 1:
        red, green, blue = (int(c * factor) for c in colour[:3])
    else:
        red, green, blue = (int(255 - (255 - c) * (2 - factor)) for c in colour[:3])
    return (red, green, blue, 255)


@cache
def contour(colour: Colour) -> Colour:
    """A colour that separates a part from its neighbours of the same colour: darker, or lighter if it is near black."""
    luma = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    return shade(colour, 0.48) if luma > 62 else shade(colour, 1.42)


def ellipse(centre: complex, width: float, height: float, turn: complex = 1) -> np.ndarray:
    """Points (28,) complex of an ellipse with the given half axes, turned by the unit number `turn`."""
    return centre + turn * (width * _CIRCLE.real + 1j * height * _CIRCLE.imag)


def capsules(start: list[complex], end: list[complex], first: list[float], last: list[float]) -> np.ndarray:
    """Outlines (n, 20) complex of n tapered limbs with rounded ends of radii `first` and `last`."""
    p, q = np.array(start), np.array(end)
    along = q - p
    along = along / np.maximum(np.abs(along), 1e-9)
    return np.stack([p, q, along * first, along * last], axis=1) @ _CAPSULE


class Canvas:
    """A square picture; points are complex numbers x + iy in picture units, [0, 1] from top left.

    Args:
        size: Edge of the finished picture in pixels.
        channels: 3, or 4 for a transparent layer with premultiplied colours.
        supersample: How many pixels are drawn per finished pixel, along each axis.
    """

    def __init__(self, size: int, channels: int, supersample: int) -> None:
        self.size = size
        self.edge = size * supersample
        self.image = np.zeros((self.edge, self.edge, channels), np.uint8)
        self._unit = float(self.edge << _SHIFT)

    def fixed(self, points: np.ndarray) -> np.ndarray:
        """Fixed-point pixel positions (..., 2) int32 of complex points (...); pixel centres lie at whole numbers."""
        pairs = points.view(np.float64).reshape(*points.shape, 2)
        return (pairs * self._unit - (1 << (_SHIFT - 1))).astype(np.int32)

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fill any polygon of complex points (n,)."""
        self.fill(self.fixed(points), colour)

    def fill(self, fixed: np.ndarray, colour: Colour) -> None:
        """Fill any polygon of fixed-point positions (n, 2)."""
        cv2.fillPoly(self.image, [fixed], colour, cv2.LINE_AA, _SHIFT)

    def fill_convex(self, fixed: np.ndarray, colour: Colour) -> None:
        """Fill a convex polygon of fixed-point positions (n, 2)."""
        cv2.fillConvexPoly(self.image, fixed, colour, cv2.LINE_AA, _SHIFT)

    def circle(self, centre: complex, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        half = 1 << (_SHIFT - 1)
        x, y = int(centre.real * self._unit) - half, int(centre.imag * self._unit) - half
        cv2.circle(self.image, (x, y), max(1, int(radius * self._unit)), colour, -1, cv2.LINE_AA, _SHIFT)

    def oval(self, centre: complex, width: float, height: float, colour: Colour) -> None:
        """Fill an upright ellipse with the given half axes."""
        self.polygon(ellipse(centre, width, height), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill an upright rectangle."""
        self.polygon(np.array([complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom)]),
                     colour)  # fmt: skip

    def shape(self, *corners: float, colour: Colour) -> None:
        """Fill the polygon with corners x0, y0, x1, y1, ..."""
        self.polygon(np.array(corners, dtype=np.float64).view(np.complex128), colour)

    def reduced(self) -> np.ndarray:
        """The finished picture (size, size, channels) uint8."""
        return cv2.resize(self.image, (self.size, self.size), interpolation=cv2.INTER_AREA)
