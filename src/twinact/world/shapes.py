"""Outlines of clothes, hair, hats, ears, tails and hands, as data in the units of the body part they sit on."""

from functools import cache

import numpy as np

from twinact.world.canvas import ellipse

Piece = tuple[int, np.ndarray]
"""Which of a part's colours to use (0 first, 1 second) and a polygon of complex points."""


def _poly(*corners: float) -> np.ndarray:
    return np.array(corners, dtype=np.float64).view(np.complex128)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return _poly(left, top, right, top, right, bottom, left, bottom)


def _arc(centre: complex, width: float, height: float, start: float, stop: float) -> np.ndarray:
    """Part of an ellipse between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 18))
    return centre + width * np.cos(angle) + 1j * height * np.sin(angle)


# On the torso: origin at the neck, x in chest radii, y in torso lengths (1 at the pelvis).
MARKS: dict[str, tuple[Piece, ...]] = {
    "belly": ((0, ellipse(0.62j, 0.62, 0.40)),),
    "buttons": tuple((0, ellipse(1j * y, 0.15, 0.055)) for y in (0.28, 0.54, 0.80)),
    "belt": ((0, _box(-0.92, 0.84, 0.92, 0.99)), (1, _box(-0.16, 0.82, 0.16, 1.01))),
    "tie": ((1, _poly(-0.42, 0.0, 0.42, 0.0, 0, 0.62)),
        (0, _poly(-0.13, 0.05, 0.13, 0.05, 0.16, 0.55, 0, 0.68, -0.16, 0.55))),
    "collar": ((0, _poly(-0.5, -0.02, 0.5, -0.02, 0, 0.42)),),
    "stripes": tuple((0, _box(-0.93, y, 0.93, y + 0.12)) for y in (0.22, 0.46, 0.70)),
    "panel": ((0, _box(-0.6, 0.25, 0.6, 0.78)), (1, ellipse(-0.28 + 0.42j, 0.16, 0.06)),
        (1, ellipse(0.28 + 0.42j, 0.16, 0.06)), (1, _box(-0.42, 0.58, 0.42, 0.66))),
    "ribs": (
        (0, _box(-0.12, 0.0, 0.12, 1.0)),
        *((0, _box(-w, y, w, y + 0.085)) for y, w in ((0.14, 0.8), (0.31, 0.84), (0.48, 0.74), (0.65, 0.56))),
    ),
    "scarf": ((0, _box(-0.78, -0.05, 0.78, 0.17)), (0, _poly(0.2, 0.1, 0.55, 0.1, 0.62, 0.62, 0.25, 0.62))),
    "emblem": ((0, _poly(-0.48, 0.22, 0.48, 0.22, 0, 0.68)),),
    "sash": ((0, _poly(-0.9, 0.10, -0.62, 0.0, 0.85, 0.82, 0.72, 0.98)),),
    "straps": ((0, _box(-0.62, 0.0, -0.38, 0.7)), (0, _box(0.38, 0.0, 0.62, 0.7)), (0, _box(-0.86, 0.55, 0.86, 1.15))),
    "vest": ((0, _poly(-0.7, 0.02, -0.28, 0.0, -0.3, 0.9, -0.9, 0.9)),
        (0, _poly(0.7, 0.02, 0.28, 0.0, 0.3, 0.9, 0.9, 0.9))),
    "cross": ((0, _box(-0.13, 0.12, 0.13, 0.85)), (0, _box(-0.5, 0.3, 0.5, 0.46))),
    "bands": tuple(
        (0, _poly(-0.92, y, 0.92, y - 0.1, 0.92, y - 0.04, -0.92, y + 0.06)) for y in (0.22, 0.42, 0.62, 0.82)
    ),
    "patch": ((0, _box(-0.62, 0.5, -0.1, 0.74)),),
    "long scarf": ((0, _box(-1.3, -0.16, 1.3, 0.3)), (0, _poly(-0.85, 0.1, -0.1, 0.1, -0.06, 1.25, -0.85, 1.25)),
        (1, _box(-0.84, 0.5, -0.08, 0.68)), (1, _box(-0.85, 0.92, -0.07, 1.1))),
    "clasp": ((0, _poly(-1.25, -0.06, 1.25, -0.06, 1.1, 0.3, 0.0, 0.46, -1.1, 0.3)), (1, ellipse(0.3j, 0.24, 0.11))),
    "shoulder straps": ((0, _box(-0.78, -0.02, -0.46, 0.8)), (0, _box(0.46, -0.02, 0.78, 0.8)),
        (0, _box(-0.78, 0.36, 0.78, 0.48))),
}  # fmt: skip

# Behind the figure, in the same frame.
BACKS: dict[str, tuple[Piece, ...]] = {
    "cape": ((0, _poly(-0.95, 0.02, 0.95, 0.02, 1.75, 1.75, 0.85, 1.9, 0, 1.78, -0.85, 1.9, -1.75, 1.75)),),
    "bushy": (
        (0, np.concatenate([_poly(0.3, 0.95, 1.2, 1.25), _arc(2.15 + 0.78j, 0.55, 0.36, 90, -120), _poly(1.3, 0.8)])),
        (1, ellipse(2.2 + 0.58j, 0.36, 0.17)),
    ),
    "thin": ((0, _poly(0.3, 0.98, 1.3, 1.12, 1.75, 0.9, 1.8, 0.45, 2.05, 0.45, 2.02, 0.98, 1.45, 1.27, 0.3, 1.16)),),
    "puff": ((0, ellipse(0.95 + 0.95j, 0.42, 0.17)),),
    "dragon": ((0, _poly(0.2, 0.75, 1.2, 1.0, 2.3, 0.72, 1.75, 1.2, 0.9, 1.32, 0.2, 1.2)),),
    "pack": ((0, _box(-1.28, 0.0, 1.28, 0.85)),),
    "wide cape": ((0, _poly(-1.2, -0.05, 1.2, -0.05, 2.9, 1.95, 1.5, 2.2, 0, 2.02, -1.5, 2.2, -2.9, 1.95)),),
    "rucksack": (
        (0, _poly(-1.5, -0.2, 1.5, -0.2, 2.15, 0.25, 2.15, 0.95, 1.6, 1.12, -1.6, 1.12, -2.15, 0.95, -2.15, 0.25)),
        (1, _box(-2.1, 0.5, 2.1, 0.66)),
    ),
}  # fmt: skip

# On the head: origin at its centre, in head radii. Hats and ears follow a turn of the head by shifting.
HATS: dict[str, tuple[Piece, ...]] = {
    "chef": ((0, ellipse(-0.5 - 1.2j, 0.46, 0.42)), (0, ellipse(0.5 - 1.2j, 0.46, 0.42)),
        (0, ellipse(-1.4j, 0.5, 0.42)),
        (1, _box(-0.76, -1.05, 0.76, -0.62))),
    "cap": ((0, _arc(-0.42j, 1.06, 0.72, 180, 360)), (1, ellipse(-0.42j, 0.86, 0.17))),
    "fire": ((0, _arc(-0.45j, 1.02, 0.85, 180, 360)), (1, ellipse(-0.43j, 1.36, 0.19)),
        (1, _poly(-0.26, -0.95, 0.26, -0.95, 0, -0.5))),
    "builder": ((0, _arc(-0.45j, 1.04, 0.78, 180, 360)), (0, ellipse(-0.44j, 1.2, 0.15)),
        (1, _box(-0.13, -1.2, 0.13, -0.5))),
    "cowboy": ((0, _poly(-0.72, -0.6, -0.6, -1.3, -0.2, -1.22, 0.2, -1.22, 0.6, -1.3, 0.72, -0.6)),
        (1, _box(-0.72, -0.76, 0.72, -0.58)),
        (0, _poly(-1.62, -0.75, -0.8, -0.62, 0.8, -0.62, 1.62, -0.75, 1.1, -0.36, -1.1, -0.36))),
    "top": ((0, _box(-0.68, -1.55, 0.68, -0.6)), (1, _box(-0.68, -0.85, 0.68, -0.62)),
        (0, ellipse(-0.56j, 1.15, 0.14))),
    "wizard": ((0, _poly(-0.85, -0.5, 0.12, -1.85, 0.85, -0.5)), (1, ellipse(-1.0j, 0.14, 0.14)),
        (0, ellipse(-0.5j, 1.3, 0.2))),
    "crown": ((0, _poly(-0.8, -0.52, -0.92, -1.3, -0.42, -0.98, 0, -1.4, 0.42, -0.98, 0.92, -1.3, 0.8, -0.52)),
        (1, ellipse(-0.74j, 0.16, 0.13))),
    "pirate": (
        (0, np.concatenate([_poly(-1.4, -0.45), _arc(-0.6j, 1.05, 0.85, 190, 350), _poly(1.4, -0.45, 0, -0.62)])),
        (1, ellipse(-0.98j, 0.22, 0.2)),
    ),
    "band": ((0, np.concatenate([_arc(0j, 1.08, 1.0, 200, 340), _arc(0.3j, 1.0, 1.0, 335, 205)])),),
    "plume": ((0, ellipse(-1.2j, 0.26, 0.42)),),
    "antenna": ((0, _box(-0.07, -1.5, 0.07, -0.8)), (1, ellipse(-1.5j, 0.2, 0.2))),
    "antennae": ((0, _poly(-0.45, -0.8, -0.72, -1.5, -0.6, -1.55, -0.3, -0.85)),
        (0, _poly(0.45, -0.8, 0.72, -1.5, 0.6, -1.55, 0.3, -0.85)),
        (1, ellipse(-0.68 - 1.52j, 0.19, 0.19)), (1, ellipse(0.68 - 1.52j, 0.19, 0.19))),
    "straw": ((1, _box(-0.7, -1.15, 0.7, -0.6)), (0, _arc(-0.7j, 0.72, 0.6, 180, 360)),
        (0, ellipse(-0.52j, 1.45, 0.2))),
    "tiara": ((0, _poly(-0.55, -0.75, -0.3, -1.0, 0, -1.28, 0.3, -1.0, 0.55, -0.75, 0, -0.86)),),
    "tall": ((0, _box(-0.72, -1.9, 0.72, -0.62)), (1, _box(-0.74, -1.0, 0.74, -0.66)),
        (0, ellipse(-0.58j, 1.28, 0.15))),
    "tall crown": ((0, _poly(-0.82, -0.5, -1.0, -1.5, -0.48, -1.08, 0, -1.7, 0.48, -1.08, 1.0, -1.5, 0.82, -0.5)),
        (1, ellipse(-0.8j, 0.2, 0.17)), (1, ellipse(-0.52 - 0.76j, 0.13, 0.12)),
        (1, ellipse(0.52 - 0.76j, 0.13, 0.12))),
    "spikes": ((0, _poly(-0.3, -0.9, 0, -1.4, 0.3, -0.9)), (0, _poly(-0.75, -0.62, -0.68, -1.15, -0.25, -0.9)),
        (0, _poly(0.75, -0.62, 0.68, -1.15, 0.25, -0.9))),
}  # fmt: skip

# Drawn behind the head: where the ear on the picture's right starts and its outline from there; the left is mirrored.
EARS: dict[str, tuple[complex, tuple[Piece, ...]]] = {
    "round": (0.74 - 0.70j, ((0, ellipse(0j, 0.40, 0.40)), (1, ellipse(0j, 0.21, 0.21)))),
    "large": (0.86 - 0.66j, ((0, ellipse(0.1 - 0.1j, 0.60, 0.60)), (1, ellipse(0.1 - 0.1j, 0.38, 0.38)))),
    "wide": (0.95 - 0.1j, ((0, ellipse(0.38 + 0.05j, 0.62, 0.72)), (1, ellipse(0.38 + 0.05j, 0.38, 0.48)))),
    "pointed": (0.62 - 0.55j, ((0, _poly(-0.42, -0.15, 0.28, -0.95, 0.4, 0.35)),
        (1, _poly(-0.15, -0.15, 0.22, -0.66, 0.25, 0.2)))),
    "knobs": (0.55 - 0.62j, ((0, ellipse(0j, 0.40, 0.42)),)),
    "long": (0.42 - 0.8j, ((0, ellipse(0.08 - 0.62j, 0.24, 0.72)), (1, ellipse(0.08 - 0.6j, 0.11, 0.5)))),
    "floppy": (0.85 - 0.55j, ((0, ellipse(0.2 + 0.45j, 0.27, 0.62)),)),
    "side": (0.98 + 0.05j, ((0, ellipse(0.1 + 0j, 0.32, 0.34)), (1, ellipse(0.1 + 0j, 0.18, 0.2)))),
    "small": (1.0 + 0.12j, ((0, ellipse(0j, 0.17, 0.22)),)),
    "bolts": (1.0 + 0.0j, ((0, _box(-0.1, -0.25, 0.24, 0.25)),)),
    "horns": (0.5 - 0.75j, ((0, _poly(-0.22, -0.05, 0.3, -0.75, 0.25, 0.2)),)),
    "pigtails": (1.02 + 0.1j, ((0, ellipse(0.2 + 0.15j, 0.32, 0.5)),)),
}  # fmt: skip

# Hangs from the mouth; in head radii.
BEARD = np.concatenate([_poly(-0.80, -0.42, -0.45, -0.24, 0.45, -0.24, 0.80, -0.42), _arc(-0.05j, 0.78, 0.78, 0, 180)])

_ANGLE = np.linspace(0, 2 * np.pi, 44, endpoint=False)
_ROUND = np.exp(1j * _ANGLE)
_UPPER = np.clip(-np.sin(_ANGLE), 0, 1) ** 0.5


def _squared(cosine: np.ndarray) -> np.ndarray:
    """Push a circle's coordinate out towards a square with rounded corners."""
    return np.sign(cosine) * np.abs(cosine) ** 0.45


# The outline of the head with its hair or hood, in head radii, upright.
HEADS: dict[str, np.ndarray] = {
    "bare": _ROUND,
    "short": _ROUND * (1.0 + 0.10 * _UPPER),
    "hood": _ROUND * 1.14,
    "globe": _ROUND * 1.26,
    "curly": _ROUND * (1.04 + _UPPER * (0.24 + 0.07 * np.cos(11 * _ANGLE))),
    "mane": _ROUND * (1.34 + 0.10 * np.cos(14 * _ANGLE)),
    "spiky": _ROUND * (1.0 + _UPPER * (0.20 + 0.16 * np.cos(10 * _ANGLE))),
    "boxy": _squared(_ROUND.real) + 1j * _squared(_ROUND.imag),
    "egg": _ROUND.real * (1.06 - 0.26 * _ROUND.imag) + 1j * _ROUND.imag * 1.08,
    "skull": _ROUND.real * (1.0 - 0.20 * np.clip(_ROUND.imag, 0, 1)) + 1j * _ROUND.imag,
    "wide": _ROUND.real * 1.1 + 0.9j * _ROUND.imag,
}
# Hair that hangs behind the body, in head radii.
LOCKS: dict[str, np.ndarray] = {
    "long": np.concatenate([_arc(-0.05j, 1.14, 1.1, 180, 360), _poly(1.22, 1.3, 0.6, 1.55, -0.6, 1.55, -1.22, 1.3)]),
    "bob": np.concatenate([_arc(0j, 1.16, 1.1, 180, 360), _poly(1.2, 0.75, 0.7, 0.98, -0.7, 0.98, -1.2, 0.75)]),
    "bun": ellipse(-1.18j, 0.42, 0.40),
}

# Patches on the head, as (longitude, latitude down, half width, half height, tone) in radians on a sphere.
FACES: dict[str, tuple[tuple[float, float, float, float, int], ...]] = {
    "face": ((0, 0.24, 1.12, 0.86, 0),),
    "bald": ((0, -0.14, 0.98, 1.25, 0), (0, 0.24, 1.0, 0.86, 0)),
    "window": ((0, 0.10, 1.02, 0.78, 0),),
    "visor": ((0, 0.06, 1.18, 0.90, 1), (0, 0.16, 0.98, 0.76, 0)),
    "muzzle": ((0, 0.50, 0.58, 0.46, 0),),
    "heart": ((-0.36, 0.02, 0.46, 0.46, 0), (0.36, 0.02, 0.46, 0.46, 0), (0, 0.46, 0.72, 0.50, 0)),
    "cheeks": ((-0.72, 0.46, 0.42, 0.46, 0), (0.72, 0.46, 0.42, 0.46, 0), (0, 0.62, 0.55, 0.42, 0)),
    "patches": ((-0.45, 0.05, 0.31, 0.38, 0), (0.45, 0.05, 0.31, 0.38, 0)),
    "sockets": ((-0.42, 0.04, 0.34, 0.36, 0), (0.42, 0.04, 0.34, 0.36, 0), (0, 0.36, 0.10, 0.12, 0)),
    "moustache": ((-0.17, 0.40, 0.21, 0.09, 0), (0.17, 0.40, 0.21, 0.09, 0)),
    "blush": ((-0.66, 0.38, 0.19, 0.13, 0), (0.66, 0.38, 0.19, 0.13, 0)),
    "brow": ((0, -0.62, 0.09, 0.26, 0), (-0.38, -0.60, 0.07, 0.20, 0), (0.38, -0.60, 0.07, 0.20, 0),
             (-0.98, 0.28, 0.26, 0.06, 0), (0.98, 0.28, 0.26, 0.06, 0)),
    "eyepatch": ((0.42, 0.03, 0.28, 0.30, 0), (0, -0.24, 1.0, 0.05, 0)),
    "glasses": ((-0.42, 0.03, 0.33, 0.33, 0), (0.42, 0.03, 0.33, 0.33, 0), (0, -0.02, 0.2, 0.06, 0)),
    "screen": ((0, 0.10, 0.98, 0.66, 0),),
    "mask": ((0, 0.0, 0.98, 0.33, 0),),
    "diamonds": ((-0.42, 0.0, 0.20, 0.50, 0), (0.42, 0.0, 0.20, 0.50, 0)),
    "wraps": ((0, -0.62, 0.8, 0.06, 0), (0, 0.32, 1.1, 0.06, 0), (0, 0.82, 0.8, 0.06, 0)),
    "scar": ((0.30, -0.48, 0.28, 0.05, 0), (0.30, -0.48, 0.05, 0.16, 0)),
}  # fmt: skip

_FINGERS = (-1.5, -0.62, -0.21, 0.21, 0.62)


def _hand(fingers: float, length: float, thumb: float) -> np.ndarray:
    """Distance (44,) from the palm's centre to the hand's edge by direction; 0 is away from the wrist."""
    angle = (_ANGLE + np.pi) % (2 * np.pi) - np.pi
    reach = 1.0 + length * np.exp(-((angle / 0.8) ** 2))
    for at in _FINGERS[1:]:
        reach = np.maximum(reach, 1.0 + fingers * np.exp(-(((angle - at) / 0.13) ** 2)))
    return np.maximum(reach, 1.0 + thumb * np.exp(-(((angle - _FINGERS[0]) / 0.26) ** 2)))


HAND_DIRECTIONS = _ROUND
_FIST, _RELAXED, _OPEN = _hand(0.0, 0.05, 0.2), _hand(0.0, 0.55, 0.45), _hand(1.4, 0.3, 1.1)


def hand_reach(openness: float, thumb_side: int) -> np.ndarray:
    """Outline (44,) of a hand in fist radii along `HAND_DIRECTIONS`.

    Args:
        openness: The hand's degree of freedom, 0 to 1.
        thumb_side: 1 puts the thumb counterclockwise of the fingers, -1 clockwise.
    """
    return _hand_reach(round(openness * 20), thumb_side)


@cache
def _hand_reach(step: int, thumb_side: int) -> np.ndarray:
    openness = step / 20
    if openness <= 0.5:
        reach = _FIST + (_RELAXED - _FIST) * (2 * openness)
    else:
        reach = _RELAXED + (_OPEN - _RELAXED) * (2 * openness - 1)
    return reach if thumb_side == 1 else np.roll(reach[::-1], 1)


@cache
def patch(longitude: float, latitude: float, width: float, height: float) -> np.ndarray:
    """An oval on the unit sphere as points (3, 20): x right, y down, z towards the viewer; angles in radians."""
    around = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return sphere(longitude + width * np.cos(around), latitude + height * np.sin(around))


def sphere(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Points (3, n) on the unit sphere."""
    return np.stack([np.sin(longitude) * np.cos(latitude), np.sin(latitude), np.cos(longitude) * np.cos(latitude)])
