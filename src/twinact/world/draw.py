"""Draw scenes: pure functions from a `Scene` to pixels, joints and masks."""

from dataclasses import dataclass

import cv2
import numpy as np

from twinact.world.canvas import Canvas, shade
from twinact.world.figure import paint_balloon, paint_figure
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES, paint_place
from twinact.world.scene import Placed, Scene, placed
from twinact.world.skeleton import JOINT_NAMES

_BACKGROUND_SUPERSAMPLE = 2
_FIGURE_SUPERSAMPLE = 4
# Width in picture units and strength of the bright rim that lifts every figure off every background.
_RIM_WIDTH = 0.0135
_RIM_STRENGTH = 0.8


@dataclass(frozen=True)
class Drawing:
    """A drawn scene.

    Attributes:
        picture: RGB (size, size, 3) uint8.
        mask: Pixels (size, size) bool that the figure, with what it wears and holds, covers by at least half.
        joints: Joint positions (len(JOINT_NAMES), 2) float64 in picture units, x right and y down.
    """

    picture: np.ndarray
    mask: np.ndarray
    joints: np.ndarray


def draw(scene: Scene, size: int = 64) -> np.ndarray:
    """The picture of `drawing`, RGB (size, size, 3) uint8."""
    return drawing(scene, size).picture


def drawing(scene: Scene, size: int = 64) -> Drawing:
    """Draw a scene.

    Args:
        scene: What to draw.
        size: Edge of the picture in pixels; the composition is the same at every size.
    """
    figure = placed(scene)
    picture = _background(scene, figure, size)
    layer = _figure_layer(scene, figure, size)
    twice = cv2.resize(layer.image, (2 * size, 2 * size), interpolation=cv2.INTER_AREA)
    person = cv2.resize(twice, (size, size), interpolation=cv2.INTER_AREA)
    # The rim lightens the place; the figure, whose colours are already multiplied by its opacity, goes on top.
    light = cv2.multiply(cv2.bitwise_not(picture), _rim(twice, size), scale=_RIM_STRENGTH / 255.0)
    opacity = cv2.extractChannel(person, 3)
    clear = cv2.cvtColor(cv2.bitwise_not(opacity), cv2.COLOR_GRAY2RGB)
    picture = cv2.multiply(cv2.add(picture, light), clear, scale=1 / 255.0)
    picture = cv2.add(picture, cv2.cvtColor(person, cv2.COLOR_RGBA2RGB))
    return Drawing(LIGHTS[scene.light].apply(picture), opacity >= 128, _positions(figure))


def joints(scene: Scene) -> np.ndarray:
    """Joint positions (len(JOINT_NAMES), 2) float64 in picture units, x right and y down, as drawn."""
    return _positions(placed(scene))


def figure_mask(scene: Scene, size: int = 64) -> np.ndarray:
    """The mask of `drawing`."""
    return _figure_layer(scene, placed(scene), size).reduced()[:, :, 3] >= 128


def _positions(figure: Placed) -> np.ndarray:
    return np.array([(figure.joints[name].real, figure.joints[name].imag) for name in JOINT_NAMES])


def _background(scene: Scene, figure: Placed, size: int) -> np.ndarray:
    """The place with the figure's shadow, (size, size, 3) uint8."""
    canvas = Canvas(size, 3, _BACKGROUND_SUPERSAMPLE)
    place = PLACES[scene.place]
    paint_place(place, canvas, scene.detail_seed)
    # The shadow narrows as the figure rises, which tells a jump from a tall stance.
    body = scene.look.body
    rise = figure.height * scene.pose.clearance * (body.thigh + body.shank)
    feet = [figure.joints[name].real for name in ("pelvis", "l_foot", "r_foot", "head")]
    width = max(0.07, 0.55 * (max(feet) - min(feet)) + 0.3 * figure.height * body.hips) + 0.05
    middle = complex((max(feet) + min(feet)) / 2, figure.ground + 0.002)
    canvas.oval(middle, width * (1 - 0.9 * min(rise, 0.6)), 0.022, shade(place.floor, 0.72))
    return canvas.reduced()


def _figure_layer(scene: Scene, figure: Placed, size: int) -> Canvas:
    """The figure alone, with what it wears and holds, on a transparent canvas."""
    canvas = Canvas(size, 4, _FIGURE_SUPERSAMPLE)
    if "balloon" in scene.things:
        paint_balloon(figure.joints, canvas)
    paint_figure(scene.look, scene.pose, figure.joints, figure.height, canvas)
    return canvas


def _rim(twice: np.ndarray, size: int) -> np.ndarray:
    """Opacity (size, size, 3) uint8 of the figure widened by the rim, from the figure at twice the size."""
    reach = max(1, round(_RIM_WIDTH * 2 * size))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    wide = cv2.dilate(cv2.extractChannel(twice, 3), kernel)
    return cv2.cvtColor(cv2.resize(wide, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
