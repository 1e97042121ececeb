"""The light of a whole picture."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

_MOONLIGHT = np.array([0.34, 0.40, 0.66], np.float32)
_MOONLIT_SHADOW = np.array([8, 12, 34], np.float32)
_FOG, _FOG_SHARE = np.array([216, 221, 226], np.float32), 0.5


@dataclass(frozen=True)
class Light:
    """How a picture is lit.

    Attributes:
        words: What a caption may say of it; the first is used in prompts.
        apply: RGB picture (h, w, 3) uint8 as drawn → as lit, the same shape and type.
    """

    words: tuple[str, ...]
    apply: Callable[[np.ndarray], np.ndarray]


def _day(picture: np.ndarray) -> np.ndarray:
    return picture


def _night(picture: np.ndarray) -> np.ndarray:
    return (picture * _MOONLIGHT + _MOONLIT_SHADOW).astype(np.uint8)


def _fog(picture: np.ndarray) -> np.ndarray:
    return (picture * (1 - _FOG_SHARE) + _FOG * _FOG_SHARE).astype(np.uint8)


def _black_and_white(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


LIGHTS: dict[str, Light] = {
    "day": Light(("by day", "in daylight"), _day),
    "night": Light(("at night",), _night),
    "fog": Light(("in fog", "in thick fog"), _fog),
    "black and white": Light(("in black and white",), _black_and_white),
}
