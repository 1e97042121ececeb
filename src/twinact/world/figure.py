"""Paint a figure: limbs, torso and clothes around the joints of its skeleton, back to front."""

from cmath import exp
from math import pi

import cv2
import numpy as np

from twinact.world.bodies import Actor
from twinact.world.canvas import Canvas, Colour, capsules, contour, rgb, shade
from twinact.world.head import Head
from twinact.world.pose import Pose
from twinact.world.shapes import BACKS, HAND_DIRECTIONS, MARKS, Piece, hand_reach
from twinact.world.things import BALLOON

# Width of the darker line around every limb, in body heights.
_LINE = 0.0125
# Limbs farther from the viewer are this much darker.
_FAR = 0.84
# Upwards and to the sides: where a balloon may float, seen from the hand.
_BALLOON_WAYS = np.exp(1j * np.pi / 180 * np.arange(-170, 0, 20))
# Rows of the batch of capsules that `_capsules` makes for one figure.
_LIMBS = ("l_upper_arm", "l_forearm", "r_upper_arm", "r_forearm",
          "l_thigh", "l_shank", "l_shoe", "r_thigh", "r_shank", "r_shoe", "torso", "seat", "neck")  # fmt: skip


def paint_figure(actor: Actor, pose: Pose, joints: dict[str, complex], height: float, canvas: Canvas) -> None:
    """Paint one figure.

    Args:
        actor: Its looks.
        pose: For what the joints do not tell: hands, face and which limb is in front.
        joints: Positions x + iy in picture units.
        height: Body height in picture units.
        canvas: A transparent layer.
    """
    _Figure(actor, pose, joints, height, canvas).paint()


def paint_balloon(joints: dict[str, complex], canvas: Canvas) -> None:
    """Paint a balloon on a string that the actor's left hand holds, beside the body and inside the picture.

    Args:
        joints: Positions x + iy in picture units.
        canvas: A transparent layer, on which the figure is painted afterwards, so that no limb is hidden.
    """
    hand, others = joints["l_hand"], np.array([at for name, at in joints.items() if name != "l_hand"])
    floating = hand + 0.24 * _BALLOON_WAYS
    floating = floating.real.clip(0.09, 0.91) + 1j * floating.imag.clip(0.105, 0.8)
    # Where most of it is seen beside the body.
    centre = complex(floating[np.abs(floating[:, None] - others).min(1).argmax()])
    string = capsules([centre + 0.085j], [hand], [0.0075], [0.0075])[0]
    canvas.polygon(string, rgb("fff8ee"))
    canvas.oval(centre, 0.079, 0.092, contour(BALLOON))
    canvas.oval(centre, 0.068, 0.081, BALLOON)
    canvas.oval(centre - 0.022 - 0.028j, 0.02, 0.024, shade(BALLOON, 1.7))


class _Figure:
    def __init__(self, actor: Actor, pose: Pose, joints: dict[str, complex], height: float, canvas: Canvas) -> None:
        self.actor, self.pose, self.joints, self.height, self.canvas = actor, pose, joints, height, canvas
        self.trunk = exp(1j * (pose.root_rotation + pose.torso_lean) * pi / 180)
        self.fills, self.lines = self._capsules()
        self.head = Head(actor, pose, joints["head"], height * actor.body.head, canvas)

    def paint(self) -> None:
        actor, pose = self.actor, self.pose
        for name, first, second in actor.back:
            self._pieces(BACKS[name], (first, second), outlined=True)
        self.head.paint_behind()
        for side, depth in (("l_", pose.l_arm_depth), ("r_", pose.r_arm_depth)):
            if depth < 0:
                self._arm(side, _FAR)
        self._capsule("torso", actor.top, 1.0)
        front, rear = ("l_", "r_") if pose.leg_depth >= 0 else ("r_", "l_")
        self._leg(rear, _FAR)
        self._leg(front, 1.0)
        self.canvas.fill_convex(self.fills["seat"], actor.trousers)
        if actor.skirt:
            self._skirt(actor.skirt, actor.skirt_length)
        for name, first, second in actor.marks:
            self._pieces(MARKS[name], (first, second), outlined=False)
        self._capsule("neck", actor.skin, 0.88)
        forward = [side for side, depth in (("l_", pose.l_arm_depth), ("r_", pose.r_arm_depth)) if depth >= 0]
        over = [side for side in forward if self._crosses_head(side)]
        for side in forward:
            if side not in over:
                self._arm(side, 1.0)
        self.head.paint()
        for side in over:
            self._arm(side, 1.0)

    def _crosses_head(self, side: str) -> bool:
        """Whether hand or forearm lies on the face; an arm that only passes beside the head must not hide it."""
        radius, head = self.actor.body.head * self.height, self.joints["head"]
        elbow, hand = self.joints[side + "elbow"], self.joints[side + "hand"]
        along = hand - elbow
        to_head = head - elbow
        part = (to_head * along.conjugate()).real / abs(along) ** 2
        nearest = elbow + min(max(part, 0.0), 1.0) * along
        return abs(hand - head) < 1.12 * radius or abs(nearest - head) < 0.6 * radius

    def _capsules(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Fixed-point outlines of every limb, and of every limb grown by the line around it."""
        body, at = self.actor.body, self.joints
        elbow, knee = (body.arm + body.wrist) / 2, (body.leg + body.ankle) / 2
        start, end, first, last = [], [], [], []
        for side in ("l_", "r_"):
            start += [at[side + "shoulder"], at[side + "elbow"]]
            end += [at[side + "elbow"], at[side + "hand"]]
            first += [body.arm, elbow]
            last += [elbow, body.wrist]
        for side in ("l_", "r_"):
            ankle, toe = at[side + "foot"], at[side + "toe"]
            start += [at[side + "hip"], at[side + "knee"], ankle + 0.12 * (ankle - toe)]
            end += [at[side + "knee"], ankle, toe]
            first += [body.leg, knee, body.ankle * 1.08]
            last += [knee, body.ankle, body.toe]
        neck, pelvis = at["neck"], at["pelvis"]
        start += [neck + 0.82j * body.chest * self.height * self.trunk, at["l_hip"], neck]
        end += [pelvis, at["r_hip"], at["head"]]
        first += [body.chest, body.leg * 1.02, body.wrist]
        last += [body.belly, body.leg * 1.02, body.wrist]
        line = [_LINE] * len(start)
        grown = [[r * self.height for r in (*radius, *(a + b for a, b in zip(radius, line, strict=True)))]
                 for radius in (first, last)]  # fmt: skip
        fixed = self.canvas.fixed(capsules(start * 2, end * 2, grown[0], grown[1]))
        count = len(start)
        return dict(zip(_LIMBS, fixed[:count], strict=True)), dict(zip(_LIMBS, fixed[count:], strict=True))

    def _capsule(self, name: str, colour: Colour, light: float) -> None:
        colour = shade(colour, light)
        self.canvas.fill_convex(self.lines[name], contour(colour))
        self.canvas.fill_convex(self.fills[name], colour)

    def _limb(self, parts: tuple[tuple[str, Colour], ...], light: float) -> None:
        """Paint a chain of capsules with one line around all of them."""
        shaded = [(name, shade(colour, light)) for name, colour in parts]
        for name, colour in shaded:
            self.canvas.fill_convex(self.lines[name], contour(colour))
        for name, colour in shaded:
            self.canvas.fill_convex(self.fills[name], colour)

    def _arm(self, side: str, light: float) -> None:
        actor = self.actor
        hand = self._hand(side)
        colour = shade(actor.hand, light)
        self.canvas.fill(hand[1], contour(colour))
        self._limb(((side + "upper_arm", actor.sleeve), (side + "forearm", actor.forearm)), light)
        self.canvas.fill(hand[0], colour)
        if actor.joint:
            self._ball(side + "elbow", (actor.body.arm + actor.body.wrist) / 2, light)

    def _leg(self, side: str, light: float) -> None:
        actor = self.actor
        parts = ((side + "shoe", actor.shoe), (side + "shank", actor.shank), (side + "thigh", actor.trousers))
        self._limb(parts, light)
        if actor.joint:
            self._ball(side + "knee", (actor.body.leg + actor.body.ankle) / 2, light)

    def _ball(self, joint: str, radius: float, light: float) -> None:
        """A visible joint, as robots and skeletons have."""
        centre = self.joints[joint]
        self.canvas.circle(centre, (radius * 1.15 + 0.4 * _LINE) * self.height, contour(self.actor.joint))
        self.canvas.circle(centre, radius * 1.05 * self.height, shade(self.actor.joint, light))

    def _hand(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Fixed-point outlines of a hand and of the line around it."""
        wrist, elbow = self.joints[side + "hand"], self.joints[side + "elbow"]
        along = (wrist - elbow) / abs(wrist - elbow)
        openness = self.pose.l_hand if side == "l_" else self.pose.r_hand
        reach = hand_reach(openness, 1 if side == "l_" else -1) * (self.actor.body.hand * self.height)
        turned = along * HAND_DIRECTIONS
        both = wrist + np.stack([turned * reach, turned * (reach + _LINE * self.height)])
        fixed = self.canvas.fixed(both)
        return fixed[0], fixed[1]

    def _skirt(self, colour: Colour, length: float) -> None:
        """The cloth spans the waist and both thighs down to `length` thighs (beyond 1: down the shanks)."""
        body, at = self.actor.body, self.joints
        spread = 1.0 + self.actor.skirt_flare * length
        points = [at["pelvis"] + x * body.belly * self.height * self.trunk for x in (-1.02, 1.02)]
        points += [point - 0.35j * body.belly * self.height * self.trunk for point in points]
        for side, sign in (("l_", 1), ("r_", -1)):
            hip, knee, ankle = at[side + "hip"], at[side + "knee"], at[side + "foot"]
            hem = hip + (knee - hip) * length if length <= 1 else knee + (ankle - knee) * (length - 1)
            across = 1j * (knee - hip) / abs(knee - hip) * body.leg * self.height
            points += [hem - sign * across * spread, hem + sign * across * 0.6]
            points += [hip - sign * across * 1.12]
        hull = cv2.convexHull(np.array(points).astype(np.complex64).view(np.float32).reshape(-1, 2))
        outline = hull.reshape(-1, 2).astype(np.float64).view(np.complex128)[:, 0]
        grown = outline - outline.mean()
        grown = outline + _LINE * self.height * grown / np.abs(grown)
        self.canvas.polygon(grown, contour(colour))
        self.canvas.polygon(outline, colour)

    def _pieces(self, pieces: tuple[Piece, ...], colours: tuple[Colour, Colour], *, outlined: bool) -> None:
        """Paint polygons given in the frame of the torso."""
        body = self.actor.body
        wide, tall = body.chest * self.height, body.torso * self.height
        for tone, points in pieces:
            placed = self.joints["neck"] + self.trunk * (points.real * wide + 1j * (points.imag * tall))
            if outlined and tone == 0:
                away = placed - placed.mean()
                self.canvas.polygon(placed + _LINE * self.height * away / np.abs(away), contour(colours[0]))
            self.canvas.polygon(placed, colours[tone])
