"""Paint the head: a sphere that turns, nods and rolls, with patches, eyes and a mouth on it."""

from cmath import exp
from math import cos, pi, sin

import numpy as np

from twinact.world.bodies import Actor
from twinact.world.canvas import Canvas, Colour, capsules, contour, ellipse, rgb, shade
from twinact.world.pose import Pose
from twinact.world.shapes import BEARD, EARS, FACES, HATS, HEADS, LOCKS, patch, sphere

# A full profile would hide half the mouth, and a full nod all of it: both are drawn a little short of that.
_TURN, _NOD = 0.80, 0.8
_EYE_LONGITUDE = 0.42
_MOUTH_LATITUDE = 0.60
_LIPS = np.linspace(-1, 1, 9)
_LINE = 0.09


class Head:
    """One actor's head in one pose.

    Args:
        actor: Whose head.
        pose: Turn, nod, eyes and mouth.
        centre: Position x + iy in picture units.
        radius: Half the head's height in picture units.
        canvas: Where to paint.
    """

    def __init__(self, actor: Actor, pose: Pose, centre: complex, radius: float, canvas: Canvas) -> None:
        self.actor, self.pose, self.canvas = actor, pose, canvas
        self.centre, self.radius = centre, radius
        self._axes = radius * exp(1j * (pose.root_rotation + pose.torso_lean + pose.head_tilt) * pi / 180)
        self._wide = actor.body.head_width
        turn, nod = pose.head_turn * _TURN * pi / 180, pose.head_nod * _NOD * pi / 180
        self._side, self._front = sin(turn), cos(turn)
        self._down = sin(nod)
        c, s, cn, sn = self._front, self._side, cos(nod), sin(nod)
        self._rotation = np.array([[c, 0.0, s], [-s * sn, cn, c * sn], [-s * cn, -sn, c * cn]])

    def paint_behind(self) -> None:
        """Hair that hangs behind the body."""
        if self.actor.lock:
            self._outlined(LOCKS[self.actor.lock], self.actor.hair)

    def paint(self) -> None:
        """Everything else, back to front."""
        actor = self.actor
        self._ears()
        self._outlined(HEADS[actor.head], actor.hair)
        for name, first, second in actor.face:
            for longitude, latitude, width, height, tone in FACES[name]:
                self._decal(patch(longitude, latitude, width, height), second if tone else first)
        if actor.beard:
            self._beard(actor.beard)
        if actor.trunk:
            self._trunk(actor.trunk)
        if actor.snout:
            self._snout(actor.snout)
        self._eyes()
        self._mouth()
        if actor.nose:
            self._bump(0.0, 0.30, 0.13, 0.10, actor.nose)
        if actor.hat:
            self._hat()

    def _local(self, points: np.ndarray) -> np.ndarray:
        """Picture positions of points in head radii."""
        return self.centre + self._axes * (points.real * self._wide + 1j * points.imag)

    def _outlined(self, points: np.ndarray, colour: Colour) -> None:
        spread = points + _LINE * points / np.maximum(np.abs(points), 0.3)
        self.canvas.polygon(self._local(spread), contour(colour))
        self.canvas.polygon(self._local(points), colour)

    def _project(self, points: np.ndarray) -> np.ndarray | None:
        """Flat positions (n,) complex of points (3, n) on the sphere, or None if hardly any faces the viewer."""
        x, y, z = self._rotation @ points
        if z.max() < 0.1:
            return None
        flat = x + 1j * y
        hidden = z < 0
        if hidden.any():
            flat[hidden] /= np.abs(flat[hidden])
        return flat

    def _decal(self, points: np.ndarray, colour: Colour) -> None:
        flat = self._project(points)
        if flat is not None:
            self.canvas.polygon(self._local(flat), colour)

    def _point(self, longitude: float, latitude: float, height: float = 1.0) -> tuple[complex, float]:
        """Flat position and depth of one point above the sphere."""
        v = self._rotation @ (sin(longitude) * cos(latitude), sin(latitude), cos(longitude) * cos(latitude))
        return height * complex(v[0], v[1]), float(v[2])

    def _bump(self, longitude: float, latitude: float, width: float, height: float, colour: Colour) -> None:
        """Something round that stands out of the face, so that it shows beyond the outline in profile."""
        flat, _ = self._point(longitude, latitude, 1.02)
        self.canvas.polygon(self._local(ellipse(flat, width, height)), colour)

    def _snout(self, colour: Colour) -> None:
        flat, _ = self._point(0.0, 0.46, 0.96)
        self.canvas.polygon(self._local(ellipse(flat, 0.47, 0.37)), shade(colour, 0.8))
        self.canvas.polygon(self._local(ellipse(flat, 0.43, 0.33)), colour)

    def _beard(self, colour: Colour) -> None:
        """A full beard hangs below the chin; it swings with the face."""
        chin, _ = self._point(0.0, 0.72)
        self.canvas.polygon(self._local(chin + 1.1 * BEARD), contour(colour))
        self.canvas.polygon(self._local(chin + BEARD), colour)

    def _trunk(self, colour: Colour) -> None:
        root, _ = self._point(0.0, 0.22, 0.95)
        bend = root + complex(0.40, 0.52)
        tip = bend + complex(0.52, -0.22)
        for grow, paint in ((_LINE, contour(colour)), (0.0, colour)):
            chain = capsules([root, bend], [bend, tip], [0.30 + grow, 0.22 + grow], [0.22 + grow, 0.16 + grow])
            for outline in self._local(chain):
                self.canvas.polygon(outline, paint)

    def _ears(self) -> None:
        if not self.actor.ears:
            return
        base, pieces = EARS[self.actor.ears]
        # An ear sits on the side of the head: it slides in as the head turns and its disc narrows with the turn.
        slide = 0.35 + 0.65 * self._front
        for sign in (1, -1):
            root = complex(sign * base.real * slide - 0.12 * self._side, base.imag)
            for tone, outline in pieces:
                colour = self.actor.ear_colours[tone]
                shape = root + sign * outline.real * (0.6 + 0.4 * self._front) + 1j * outline.imag
                if tone == 0:
                    middle = shape.mean()
                    rim = middle + (shape - middle) * (1 + 2.2 * _LINE)
                    self.canvas.polygon(self._local(rim), contour(colour))
                self.canvas.polygon(self._local(shape), colour)

    def _eyes(self) -> None:
        actor, opened = self.actor, self.pose.eyes
        size, latitude = actor.eye_size, actor.eye_latitude
        for sign in (1, -1):
            longitude = sign * _EYE_LONGITUDE * actor.eye_gap
            _, depth = self._point(longitude, latitude)
            if depth < 0.12 or (actor.one_eyed and sign == 1):
                continue
            if opened < 0.2:
                self._decal(patch(longitude, latitude + 0.06, 0.21 * size, 0.05), actor.lid)
                continue
            height = (0.08 + 0.23 * opened) * size
            self._decal(patch(longitude, latitude, 0.215 * size, height), actor.eye)
            # The pupil stays round and shrinks in a wide stare, so that white shows around it.
            pupil = (0.15 - 0.035 * max(0.0, opened - 0.7) / 0.3) * size
            look = longitude * 0.93
            self._decal(patch(look, latitude, pupil, min(1.25 * pupil, 0.92 * height)), actor.pupil)

    def _mouth(self) -> None:
        smile, opened = self.pose.smile, self.pose.mouth
        width = 0.33 + 0.12 * abs(smile) + 0.02 * opened
        middle = _MOUTH_LATITUDE + 0.10 * smile - 0.04 * opened
        bow = middle - 0.32 * smile * _LIPS**2
        arch = 1 - _LIPS**2
        thick = 0.06
        top, bottom = bow - thick - 0.10 * opened * arch, bow + thick + 0.40 * opened * arch
        longitudes = np.concatenate([_LIPS, _LIPS[::-1]]) * width
        lips = sphere(longitudes, np.concatenate([top, bottom[::-1]]))
        self._decal(lips, self.actor.lips)
        if opened > 0.3:
            low = bow + 0.36 * opened * arch
            high = bow + 0.14 * opened * arch
            tongue = sphere(0.62 * longitudes, np.concatenate([high, low[::-1]]))
            self._decal(tongue, rgb("d9606a"))

    def _hat(self) -> None:
        shift = complex(0.14 * self._side, 0.16 * self._down)
        pieces = HATS[self.actor.hat]
        for tone, points in pieces:
            colour = self.actor.hat_colours[tone]
            if tone == 0:
                middle = points.mean()
                rim = points - middle
                rim = middle + rim + _LINE * rim / np.maximum(np.abs(rim), 0.3)
                self.canvas.polygon(self._local(rim + shift), contour(colour))
        for tone, points in pieces:
            self.canvas.polygon(self._local(points + shift), self.actor.hat_colours[tone])
