"""What a picture of the world shows, as a record that determines every pixel."""

from dataclasses import dataclass, field

from twinact.errors import DataError
from twinact.world.bodies import ACTORS, Actor
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.pose import Pose
from twinact.world.skeleton import JOINT_NAMES, radii, skeleton
from twinact.world.things import THINGS, dressed

WORLD_VERSION = 4
"""Raised whenever a scene would be drawn differently, a phrase read or means another pose, or a split is another."""

BODY_HEIGHT = 0.78
"""Height of a figure in picture units at camera scale 1."""

MARGIN = 0.03
"""Least distance between a figure and the edges of the picture, in picture units."""


@dataclass(frozen=True)
class Camera:
    """Where the figure stands in the picture.

    Attributes:
        scale: Size of the figure; 1 makes it `BODY_HEIGHT` tall.
        x: Position of the pelvis, in picture units from the left.
        y: Ground line under the figure, in picture units from the top.
    """

    scale: float = 1.0
    x: float = 0.5
    y: float = 0.935


@dataclass(frozen=True)
class Scene:
    """One picture: who does what where, seen how.

    Attributes:
        actor: Key of `ACTORS`.
        pose: The figure's degrees of freedom.
        place: Key of `PLACES`.
        camera: Where the figure stands.
        detail_seed: Chooses the positions, sizes and tints of the objects in the place.
        things: Keys of `THINGS` that the figure wears or holds, at most one of each kind, in the order of `THINGS`.
        light: Key of `LIGHTS`, of the whole picture.

    Raises:
        DataError: An actor, a place, a thing or a light that the world does not have; two things of one kind.
    """

    actor: str
    pose: Pose
    place: str
    camera: Camera = field(default_factory=Camera)
    detail_seed: int = 0
    things: tuple[str, ...] = ()
    light: str = "day"

    def __post_init__(self) -> None:
        for what, known, given in (
            ("actor", ACTORS, (self.actor,)), ("place", PLACES, (self.place,)),
            ("thing", THINGS, self.things), ("light", LIGHTS, (self.light,)),
        ):  # fmt: skip
            for name in given:
                if name not in known:
                    raise DataError(f"{what} {name!r} is unknown; choose one of: {', '.join(known)}")
        if len({THINGS[name].kind for name in self.things}) < len(self.things):
            raise DataError(f"things {', '.join(self.things)}: a figure has at most one thing of each kind")

    @property
    def look(self) -> Actor:
        """The actor with the things that it wears."""
        return dressed(self.actor, self.things)


@dataclass(frozen=True)
class Placed:
    """A figure in picture units.

    Attributes:
        joints: Position x + iy of every joint.
        height: Body height; scales all lengths of `Proportions`.
        ground: y of the ground under the figure.
    """

    joints: dict[str, complex]
    height: float
    ground: float


def placed(scene: Scene) -> Placed:
    """Project the figure; if it would leave the picture, shrink it just enough to fit and shift it just inside."""
    body = scene.look.body
    points = {name: complex(*point) for name, point in skeleton(scene.pose, body).items()}
    flesh = radii(body)
    # Open hands and shoes reach beyond their joints; the crown adds what rises above the head.
    flesh["l_hand"] = flesh["r_hand"] = 2.0 * body.hand
    up = (points["head"] - points["neck"]) / abs(points["head"] - points["neck"])
    crown = points["head"] + body.head * (body.crown - 0.5) * up
    extents = [(points[name], flesh[name]) for name in JOINT_NAMES] + [(crown, 0.5 * body.head)]
    left, right = min(p.real - r for p, r in extents), max(p.real + r for p, r in extents)
    top, bottom = min(p.imag - r for p, r in extents), max(p.imag + r for p, r in extents)
    room = 1 - 2 * MARGIN
    height = min(BODY_HEIGHT * scene.camera.scale, room / (right - left), room / (bottom - top))
    x = min(max(scene.camera.x, MARGIN - height * left), 1 - MARGIN - height * right)
    y = min(max(scene.camera.y, MARGIN - height * top), 1 - MARGIN - height * bottom)
    return Placed({name: complex(x, y) + height * point for name, point in points.items()}, height, y)
