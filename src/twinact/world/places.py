"""The places of the world: a sky or wall, a floor, and a few themed objects that vary with a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import cv2
import numpy as np

from twinact.world.canvas import Canvas, Colour, rgb, shade


@dataclass(frozen=True)
class Place:
    """Where a scene plays.

    Attributes:
        text: How a caption names it, with its preposition.
        top, bottom: Colours of the sky or wall, from the upper edge to the horizon.
        floor: Colour of the ground at the horizon; it darkens slightly towards the viewer.
        horizon: Where the floor begins, in picture units from the top.
        furnish: Paints the objects.
    """

    text: str
    top: Colour
    bottom: Colour
    floor: Colour
    horizon: float
    furnish: Callable[[Canvas, Random], None]


def paint_place(place: Place, canvas: Canvas, seed: int) -> None:
    """Paint a whole background; equal seeds give equal pictures."""
    cv2.repeat(
        _gradient(place.top, place.bottom, place.floor, place.horizon, canvas.edge), 1, canvas.edge, canvas.image
    )
    place.furnish(canvas, Random(seed))


@cache
def _gradient(top: Colour, bottom: Colour, floor: Colour, horizon: float, edge: int) -> np.ndarray:
    """One column (edge, 1, 3) uint8 of an empty place."""
    cut = round(horizon * edge)
    sky, ground = np.linspace(0, 1, cut)[:, None], np.linspace(1, 0.86, edge - cut)[:, None]
    above = np.array(top[:3]) * (1 - sky) + np.array(bottom[:3]) * sky
    return np.concatenate([above, np.array(floor[:3]) * ground]).astype(np.uint8)[:, None]


def _tint(colour: str, random: Random) -> Colour:
    """The colour, up to 10 % lighter or darker."""
    return shade(rgb(colour), round(random.uniform(0.9, 1.1), 2))


def _cloud(canvas: Canvas, random: Random, colour: str = "ffffff") -> None:
    x, y, size = random.random(), random.uniform(0.06, 0.3), random.uniform(0.04, 0.07)
    for dx, dy, grow in ((-1.0, 0.2, 0.75), (0, 0, 1.0), (1.0, 0.2, 0.7)):
        canvas.oval(complex(x + dx * size, y + dy * size), size * grow, 0.62 * size * grow, rgb(colour))


def _tree(canvas: Canvas, x: float, base: float, size: float, leaf: Colour) -> None:
    canvas.box(x - 0.13 * size, base - 0.9 * size, x + 0.13 * size, base, rgb("7a5230"))
    canvas.circle(complex(x, base - 1.25 * size), 0.62 * size, shade(leaf, 0.88))
    canvas.circle(complex(x - 0.1 * size, base - 1.35 * size), 0.48 * size, leaf)


def _pine(canvas: Canvas, x: float, base: float, size: float, leaf: Colour) -> None:
    canvas.box(x - 0.06 * size, base - 0.2 * size, x + 0.06 * size, base, rgb("5d4028"))
    for low, high, wide in ((0.15, 0.85, 0.42), (0.6, 1.3, 0.3)):
        canvas.shape(x - wide * size, base - low * size, x, base - high * size, x + wide * size, base - low * size,
                     colour=shade(leaf, 1.0 if low > 0.5 else 0.86))  # fmt: skip


def _edges(random: Random) -> tuple[float, float]:
    """One position near either side of the picture, so that objects frame the figure."""
    return random.uniform(0.04, 0.24), random.uniform(0.76, 0.96)


def _park(canvas: Canvas, random: Random) -> None:
    _cloud(canvas, random)
    for x in _edges(random):
        _tree(canvas, x, 0.76, random.uniform(0.17, 0.27), _tint("4caf3f", random))
    canvas.oval(complex(random.uniform(0.3, 0.7), 0.98), 0.42, 0.05, rgb("d9c48c"))


def _beach(canvas: Canvas, random: Random) -> None:
    canvas.circle(complex(random.uniform(0.15, 0.85), 0.16), 0.085, rgb("fff07a"))
    canvas.box(0, 0.55, 1, 0.74, rgb("1e9fc4"))
    canvas.box(0, 0.715, 1, 0.75, rgb("e8fbff"))
    x = random.choice((random.uniform(0.02, 0.2), random.uniform(0.8, 0.98)))
    canvas.box(x - 0.008, 0.5, x + 0.008, 0.84, rgb("f5f5f5"))
    canvas.shape(
        x - 0.16, 0.56, x, 0.42, x + 0.16, 0.56, colour=_tint(random.choice(("e8483f", "f0a020", "8a4fd0")), random)
    )


def _mountain(canvas: Canvas, random: Random) -> None:
    for x in (random.uniform(0.0, 0.3), random.uniform(0.65, 1.0)):
        high, wide = random.uniform(0.18, 0.36), random.uniform(0.32, 0.42)
        canvas.shape(x - wide, 0.76, x, high, x + wide, 0.76, colour=_tint("6d86a8", random))
        canvas.shape(x - 0.3 * wide, high + 0.3 * (0.76 - high), x, high, x + 0.3 * wide, high + 0.3 * (0.76 - high),
                     colour=rgb("f7fbff"))  # fmt: skip
    _pine(canvas, _edges(random)[random.random() < 0.5], 0.82, random.uniform(0.16, 0.24), rgb("2f6a55"))


def _street(canvas: Canvas, random: Random) -> None:
    x = -0.05
    for _ in range(5):
        wide, top = random.uniform(0.2, 0.28), random.uniform(0.12, 0.42)
        canvas.box(
            x, top, x + wide - 0.015, 0.76, _tint(random.choice(("a5694f", "8c7f8f", "b59a77", "74869c")), random)
        )
        for row in (0.08, 0.2):
            canvas.box(x + 0.04, top + row, x + wide - 0.055, top + row + 0.05, rgb("ffe9a8"))
        x += wide
    canvas.box(0, 0.755, 1, 0.8, rgb("c3c5c9"))
    for at in (0.05, 0.45, 0.85):
        canvas.box(at, 0.955, at + 0.16, 0.975, rgb("f2f2f2"))


def _desert(canvas: Canvas, random: Random) -> None:
    canvas.circle(complex(random.uniform(0.1, 0.9), 0.18), 0.09, rgb("fff2b0"))
    canvas.oval(complex(random.uniform(0, 1), 0.78), 0.5, 0.13, rgb("e0a050"))
    for x in _edges(random):
        size, green = random.uniform(0.7, 1.1), _tint("4f9a4c", random)
        canvas.box(x - 0.025 * size, 0.8 - 0.32 * size, x + 0.025 * size, 0.8, green)
        canvas.box(x, 0.8 - 0.16 * size, x + 0.09 * size, 0.8 - 0.12 * size, green)
        canvas.box(x + 0.06 * size, 0.8 - 0.25 * size, x + 0.09 * size, 0.8 - 0.12 * size, green)


def _kitchen(canvas: Canvas, random: Random) -> None:
    wood = _tint("c98f55", random)
    canvas.box(0, 0.04, 0.3, 0.26, wood)
    canvas.box(0.145, 0.04, 0.155, 0.26, shade(wood, 0.7))
    canvas.box(0, 0.54, 1, 0.8, wood)
    canvas.box(0, 0.52, 1, 0.56, rgb("6a6f78"))
    x = random.uniform(0.8, 0.9)
    canvas.box(x - 0.13, 0.18, x + 0.13, 0.8, rgb("e9edf0"))
    canvas.box(x - 0.13, 0.40, x + 0.13, 0.412, rgb("8e99a3"))
    canvas.box(x - 0.1, 0.26, x - 0.085, 0.36, rgb("8e99a3"))
    pot = random.uniform(0.08, 0.22)
    canvas.box(pot - 0.06, 0.45, pot + 0.06, 0.52, _tint("d8483a", random))


def _library(canvas: Canvas, random: Random) -> None:
    colours = tuple(rgb(code) for code in ("b33a3a", "2f6f9f", "e0a530", "3f8a5a", "7a4a8f", "d9d0b8"))
    for low in (0.24, 0.46, 0.68):
        canvas.box(0, low, 1, low + 0.03, rgb("5a3420"))
        x = 0.01
        while x < 1:
            wide = random.uniform(0.05, 0.11)
            canvas.box(x, low - random.uniform(0.11, 0.16), x + wide - 0.008, low, random.choice(colours))
            x += wide


def _stage(canvas: Canvas, random: Random) -> None:
    for at, shift in ((0.2, random.uniform(0.0, 0.15)), (0.8, -random.uniform(0.0, 0.15))):
        canvas.shape(at - 0.02, 0, at + 0.02, 0, 0.5 + shift + 0.2, 0.78, 0.5 + shift - 0.2, 0.78, colour=rgb("6a4fa5"))
    canvas.oval(complex(0.5 + random.uniform(-0.1, 0.1), 0.92), 0.42, 0.06, rgb("f4dc9a"))
    red = _tint("b3152e", random)
    for left in (0.0, 0.86):
        canvas.box(left, 0, left + 0.14, 0.8, red)
        canvas.box(left + 0.05, 0, left + 0.075, 0.8, shade(red, 0.7))
    canvas.box(0, 0, 1, 0.07, shade(red, 0.85))


def _moon(canvas: Canvas, random: Random) -> None:
    for _ in range(14):
        canvas.circle(complex(random.random(), random.uniform(0, 0.65)), random.uniform(0.004, 0.009), rgb("ffffff"))
    earth = complex(random.uniform(0.12, 0.88), random.uniform(0.12, 0.25))
    canvas.circle(earth, 0.1, rgb("2f7fd6"))
    canvas.oval(earth + 0.02j, 0.06, 0.035, rgb("4fb06a"))
    for _ in range(3):
        canvas.oval(
            complex(random.random(), random.uniform(0.78, 0.97)), random.uniform(0.05, 0.1), 0.018, rgb("7f818c")
        )


def _forest(canvas: Canvas, random: Random) -> None:
    for x in (0.1, 0.3, 0.52, 0.72, 0.92):
        x += random.uniform(-0.06, 0.06)
        canvas.box(x - 0.035, 0, x + 0.035, 0.78, _tint("5b3f2a", random))
    for x in (0.05, 0.35, 0.65, 0.95):
        canvas.circle(
            complex(x + random.uniform(-0.06, 0.06), 0.02), random.uniform(0.14, 0.2), _tint("2c6b33", random)
        )
    for x in _edges(random):
        canvas.oval(complex(x, 0.79), 0.11, 0.07, _tint("3f8a3c", random))


def _pool(canvas: Canvas, random: Random) -> None:
    canvas.box(0, 0.42, 1, 0.80, rgb("2fc3e8"))
    for y in (0.5, 0.6, 0.7):
        x = random.uniform(0.0, 0.3)
        for step in range(3):
            canvas.box(x + 0.33 * step, y, x + 0.33 * step + 0.14, y + 0.014, rgb("c5f3ff"))
    for x in (random.uniform(0.1, 0.2), random.uniform(0.8, 0.9)):
        canvas.box(x - 0.012, 0.34, x + 0.012, 0.82, rgb("d8dde2"))
        canvas.box(x + 0.05, 0.34, x + 0.074, 0.82, rgb("d8dde2"))
    canvas.box(0, 0.78, 1, 0.81, rgb("ffffff"))


def _rooftop(canvas: Canvas, random: Random) -> None:
    for _ in range(8):
        canvas.circle(complex(random.random(), random.uniform(0, 0.35)), 0.006, rgb("fff8d0"))
    moon = complex(random.uniform(0.12, 0.88), 0.14)
    canvas.circle(moon, 0.075, rgb("fff3c0"))
    x = -0.02
    for _ in range(5):
        wide, top = random.uniform(0.17, 0.26), random.uniform(0.4, 0.62)
        canvas.box(x, top, x + wide, 0.8, _tint("232a4f", random))
        canvas.box(x + 0.03, top + 0.05, x + 0.07, top + 0.1, rgb("ffd85a"))
        canvas.box(x + 0.1, top + 0.14, x + 0.14, top + 0.19, rgb("ffd85a"))
        x += wide
    canvas.box(0, 0.77, 1, 0.81, rgb("8f5a4a"))


def _castle(canvas: Canvas, random: Random) -> None:
    stone = _tint("a09a94", random)
    canvas.box(0.15, 0.4, 0.85, 0.78, stone)
    for x in (0.19, 0.33, 0.47, 0.61, 0.75):
        canvas.box(x, 0.35, x + 0.07, 0.41, stone)
    for x, flag in ((random.uniform(0.08, 0.14), "d02f3a"), (random.uniform(0.86, 0.92), "2f62d0")):
        canvas.box(x - 0.09, 0.24, x + 0.09, 0.78, shade(stone, 0.86))
        canvas.shape(x - 0.12, 0.24, x, 0.05, x + 0.12, 0.24, colour=rgb(flag))
        canvas.box(x - 0.02, 0.33, x + 0.02, 0.42, rgb("3a3540"))
    canvas.oval(0.5 + 0.66j, 0.11, 0.14, rgb("57402f"))


def _classroom(canvas: Canvas, random: Random) -> None:
    x = random.uniform(0.12, 0.22)
    canvas.box(x - 0.02, 0.12, x + 0.66, 0.52, rgb("9a6a3a"))
    canvas.box(x, 0.14, x + 0.64, 0.50, rgb("23604a"))
    for y in (0.2, 0.27):
        canvas.box(x + 0.05, y, x + random.uniform(0.2, 0.5), y + 0.018, rgb("e8f2ea"))
    for at in _edges(random):
        canvas.box(at - 0.12, 0.64, at + 0.12, 0.68, _tint("d99a4a", random))
        canvas.box(at - 0.1, 0.68, at - 0.075, 0.84, rgb("6a6f78"))
        canvas.box(at + 0.075, 0.68, at + 0.1, 0.84, rgb("6a6f78"))


def _stadium(canvas: Canvas, random: Random) -> None:
    colours = tuple(rgb(code) for code in ("e84a4a", "4a7fe8", "f4d04a", "f4f4f4"))
    canvas.box(0, 0.24, 1, 0.62, rgb("4a5060"))
    for row in (0.29, 0.38, 0.47, 0.56):
        for column in range(8):
            canvas.circle(complex((column + random.random() * 0.6) / 7.6, row), 0.022, random.choice(colours))
    canvas.box(0, 0.61, 1, 0.67, rgb("e9edf2"))
    for y in (0.76, 0.93):
        canvas.box(0, y, 1, y + 0.07, rgb("3f9a3a"))
    for x in (0.08, 0.92):
        canvas.box(x - 0.01, 0.05, x + 0.01, 0.3, rgb("cfd6de"))
        canvas.box(x - 0.07, 0.02, x + 0.07, 0.09, rgb("fffbe0"))


def _underwater(canvas: Canvas, random: Random) -> None:
    for x in _edges(random):
        canvas.shape(
            x - 0.03, 0.86, x + 0.05, 0.6, x - 0.03, 0.42, x + 0.08, 0.6, x + 0.04, 0.86, colour=_tint("2f9a5a", random)
        )
    for _ in range(6):
        canvas.circle(complex(random.random(), random.uniform(0.05, 0.7)), random.uniform(0.01, 0.025), rgb("a5e5f5"))
    for _ in range(2):
        x, y, way = random.random(), random.uniform(0.12, 0.5), random.choice((-1, 1))
        colour = rgb(random.choice(("ff9a2e", "ffd23a", "f2628a")))
        canvas.oval(complex(x, y), 0.06, 0.035, colour)
        canvas.shape(x - way * 0.045, y, x - way * 0.1, y - 0.04, x - way * 0.1, y + 0.04, colour=colour)
    canvas.oval(complex(random.random(), 0.84), 0.09, 0.06, rgb("e0607a"))


def _farm(canvas: Canvas, random: Random) -> None:
    _cloud(canvas, random)
    x = random.choice((random.uniform(0.14, 0.24), random.uniform(0.76, 0.86)))
    red = _tint("b8322a", random)
    canvas.box(x - 0.2, 0.42, x + 0.2, 0.76, red)
    canvas.shape(x - 0.24, 0.44, x - 0.12, 0.26, x + 0.12, 0.26, x + 0.24, 0.44, colour=rgb("6a3a34"))
    canvas.box(x - 0.08, 0.54, x + 0.08, 0.76, rgb("f4ece0"))
    canvas.box(0, 0.66, 1, 0.69, rgb("f5f0e4"))
    for at in (0.04, 0.27, 0.5, 0.73, 0.96):
        canvas.box(at - 0.015, 0.6, at + 0.015, 0.8, rgb("f5f0e4"))


def _living_room(canvas: Canvas, random: Random) -> None:
    x = random.choice((0.22, 0.78)) + random.uniform(-0.04, 0.04)
    canvas.box(x - 0.14, 0.1, x + 0.14, 0.36, rgb("f7f3ea"))
    canvas.box(x - 0.12, 0.12, x + 0.12, 0.34, rgb("8fd0f2"))
    sofa = _tint(random.choice(("2f7f86", "b5553f", "5f5aa8")), random)
    canvas.box(0.08, 0.52, 0.92, 0.8, sofa)
    canvas.box(0.02, 0.6, 0.14, 0.82, shade(sofa, 0.8))
    canvas.box(0.86, 0.6, 0.98, 0.82, shade(sofa, 0.8))
    lamp = 1 - x
    canvas.box(lamp - 0.01, 0.3, lamp + 0.01, 0.52, rgb("5a4a40"))
    canvas.shape(lamp - 0.1, 0.32, lamp - 0.06, 0.18, lamp + 0.06, 0.18, lamp + 0.1, 0.32, colour=rgb("ffe08a"))
    canvas.oval(0.5 + 0.94j, 0.44, 0.05, rgb("d8b0a0"))


def _gym(canvas: Canvas, random: Random) -> None:
    canvas.box(0, 0.5, 1, 0.54, rgb("e2574c"))
    x = random.choice((random.uniform(0.1, 0.25), random.uniform(0.75, 0.9)))
    canvas.box(x - 0.12, 0.12, x + 0.12, 0.32, rgb("ffffff"))
    canvas.box(x - 0.05, 0.2, x + 0.05, 0.29, rgb("e2574c"))
    canvas.oval(complex(x, 0.34), 0.07, 0.018, rgb("f08a24"))
    other = 1 - x
    for y in (0.16, 0.26, 0.36, 0.46, 0.56, 0.66):
        canvas.box(other - 0.12, y, other + 0.12, y + 0.025, rgb("b9803f"))
    canvas.oval(complex(0.5, 0.95), 0.4, 0.06, rgb("4a7fc8"))


def _garden(canvas: Canvas, random: Random) -> None:
    canvas.box(0, 0.5, 1, 0.78, _tint("2f7d46", random))
    for x in (0.08, 0.25, 0.42, 0.6, 0.77, 0.93):
        canvas.circle(complex(x + random.uniform(-0.04, 0.04), 0.51), 0.1, rgb("3f9150"))
    for _ in range(14):
        colour = rgb(random.choice(("f25a8a", "ffd23a", "ffffff", "b56af0")))
        canvas.circle(complex(random.random(), random.uniform(0.46, 0.8)), random.uniform(0.014, 0.024), colour)


def _place(
    text: str, top: str, bottom: str, floor: str, horizon: float, furnish: Callable[[Canvas, Random], None]
) -> Place:
    return Place(text, rgb(top), rgb(bottom), rgb(floor), horizon, furnish)


PLACES: dict[str, Place] = {
    "park": _place("in a park", "7cc8f5", "d3effb", "8fce5a", 0.74, _park),
    "beach": _place("on a beach", "4fb5f0", "c4ecfa", "f2d998", 0.74, _beach),
    "snowy mountain": _place("on a snowy mountain", "9cc4e8", "dcecf8", "eef4fa", 0.76, _mountain),
    "city street": _place("on a city street", "b9cfe0", "e6eef2", "6f7278", 0.8, _street),
    "desert": _place("in a desert", "f7b25a", "fde3a8", "ebb766", 0.78, _desert),
    "kitchen": _place("in a kitchen", "f5ecd0", "f0e2b8", "b9c4c6", 0.8, _kitchen),
    "library": _place("in a library", "8a5a38", "7a4c2e", "a87848", 0.71, _library),
    "stage": _place("on a stage", "2b1d4f", "43307a", "c08a4f", 0.79, _stage),
    "moon": _place("on the moon", "0b0d22", "1d2147", "a9abb5", 0.74, _moon),
    "forest": _place("in a forest", "7aa86a", "b5d49a", "6a7f3f", 0.77, _forest),
    "swimming pool": _place("at a swimming pool", "c9eefa", "eafaff", "e8d9c5", 0.8, _pool),
    "rooftop at night": _place("on a rooftop at night", "101a4a", "4a4a94", "6a6078", 0.8, _rooftop),
    "castle": _place("in front of a castle", "f5b5c5", "fde3d3", "7fa860", 0.77, _castle),
    "classroom": _place("in a classroom", "f3e6c8", "ecdab0", "c9a878", 0.78, _classroom),
    "football stadium": _place("in a football stadium", "5fa8e8", "a9d4f5", "4fb04a", 0.66, _stadium),
    "underwater": _place("under water", "1f86c4", "0f5a9a", "d9c89a", 0.84, _underwater),
    "farm": _place("on a farm", "8fd3f7", "e4f4fb", "b5c95a", 0.75, _farm),
    "living room": _place("in a living room", "e3d0e6", "ead9e4", "a9744f", 0.8, _living_room),
    "gym": _place("in a gym", "c5d9e8", "dfeaf2", "d9a866", 0.76, _gym),
    "flower garden": _place("in a flower garden", "a5ddf7", "e8f7fb", "9acb6a", 0.78, _garden),
}
