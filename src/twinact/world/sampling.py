"""Random scenes with their captions: what nano, its encoders and the judges are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import numpy as np

from twinact.world.bodies import ACTORS, HELD_OUT_ACTORS
from twinact.world.captions import caption
from twinact.world.meanings import Meaning, meanings
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, Pose
from twinact.world.scene import Camera, Scene
from twinact.world.splits import is_held_out_pose

# What a caption leaves unsaid varies this much around standing at ease (uniform, ±, in the unit of each dof).
REST_JITTER = {"torso_lean": 3, "head_tilt": 4, "head_turn": 8, "head_nod": 4} | {
    f"{side}_{part}": size
    for side in "lr"
    for part, size in (("shoulder", 6), ("elbow", 8), ("hip", 3), ("knee", 3), ("hand", 0.3))
}
_JITTER = np.array([REST_JITTER.get(name, 0.0) for name in DOF_NAMES])
_REST = np.array([dof.rest for dof in DOFS.values()])


@dataclass(frozen=True)
class Part:
    """The part of the world that pictures are drawn from.

    Attributes:
        actors: Keys of `ACTORS`.
        places: Keys of `PLACES`.
        phrases: Action phrases that captions may use.
    """

    actors: tuple[str, ...] = field(default_factory=lambda: tuple(a for a in ACTORS if a not in HELD_OUT_ACTORS))
    places: tuple[str, ...] = field(default_factory=lambda: tuple(PLACES))
    phrases: tuple[str, ...] = field(default_factory=lambda: tuple(meanings()))


@dataclass(frozen=True)
class Described:
    """A scene and the words for it."""

    scene: Scene
    caption: str
    phrases: tuple[str, ...]


def rest_pose(rng: np.random.Generator) -> Pose:
    """A figure that stands at ease, with jitter."""
    return Pose.from_array(_REST + _JITTER * rng.uniform(-1, 1, len(_REST)))


def sample_camera(rng: np.random.Generator) -> Camera:
    """Scale and position as nano sees them in training: centred, so that the words tell where the limbs are.

    At high noise a figure that may stand anywhere is a blur wider than its limbs, and the pose is drawn from that blur.
    """
    return Camera(scale=rng.uniform(0.97, 1.03), x=rng.uniform(0.48, 0.52), y=rng.uniform(0.925, 0.945))


def sample_described(rng: np.random.Generator, part: Part) -> Described:
    """A random scene of `part` with a caption; never one whose pose is a held-out custom action."""
    phrases, pose = _sample_action(rng, part.phrases)
    while is_held_out_pose(pose):
        phrases, pose = _sample_action(rng, part.phrases)
    place = part.places[rng.integers(len(part.places))]
    scene = Scene(
        actor=part.actors[rng.integers(len(part.actors))],
        pose=pose,
        place=place,
        camera=sample_camera(rng),
        detail_seed=int(rng.integers(2**31)),
    )
    said_place = PLACES[place].text if rng.random() < 0.9 else None
    return Described(scene, caption(scene.actor, phrases, said_place, rng), phrases)


def sample_free_camera(rng: np.random.Generator) -> Camera:
    """Scale and position for judges, which must see figures wherever they stand."""
    return Camera(scale=rng.uniform(0.8, 1.08), x=rng.uniform(0.42, 0.58), y=rng.uniform(0.88, 0.95))


def sample_free_pose(rng: np.random.Generator) -> Pose:
    """A pose uniform over wide ranges, without regard to any phrase; for judges that must favour no vocabulary."""
    low = np.array([dof.low for dof in DOFS.values()])
    high = np.array([dof.high for dof in DOFS.values()])
    values = rng.uniform(low, high)
    rest = _REST + _JITTER * rng.uniform(-1, 1, len(_REST))
    names = list(DOF_NAMES)
    # Most figures stand upright, on the ground. A turned body that leans back looks like an upright one that leans, but
    # for the line between its hips, a few pixels long; so what is likelier must be as unequal here as it is in life.
    if rng.random() < 0.7:
        values[names.index("root_rotation")] = rng.normal(0, 3)
    if rng.random() < 0.7:
        values[names.index("clearance")] = 0.0
    if rng.random() < 0.7:
        values[names.index("torso_lean")] = rng.normal(0, 6)
    for limb in ("l_shoulder l_elbow", "r_shoulder r_elbow", "l_hip l_knee", "r_hip r_knee", "head_tilt", "head_turn"):
        if rng.random() < 0.3:
            for name in limb.split():
                values[names.index(name)] = rest[names.index(name)]
    return Pose.from_array(values)


def possible_poses(phrases: Sequence[str], rng: np.random.Generator) -> list[Pose]:
    """The poses that phrases may mean together, one for every choice of their meanings, at the values that they name.

    Custom actions are left out, so there may be none.
    """
    rest, found = rest_pose(rng), []
    for chosen in product(*(meanings()[phrase] for phrase in phrases)):
        pose = rest
        for meaning in chosen:
            pose = meaning.sample(pose, rng, spread=0)
        if not is_held_out_pose(pose):
            found.append(pose)
    return found


def _sample_action(rng: np.random.Generator, phrases: Sequence[str]) -> tuple[tuple[str, ...], Pose]:
    count = rng.choice(3, p=(0.04, 0.5, 0.46))
    chosen: list[str] = []
    pose = rest_pose(rng)
    for _ in range(count):
        first = chosen[0] if chosen else None
        phrase = _compatible(rng, phrases, first)
        if phrase is None:
            break
        meaning: Meaning = meanings()[phrase]
        pose = meaning[rng.integers(len(meaning))].sample(pose, rng)
        chosen.append(phrase)
    rng.shuffle(chosen)
    return tuple(chosen), pose


def _compatible(rng: np.random.Generator, phrases: Sequence[str], first: str | None) -> str | None:
    for _ in range(8):
        phrase = phrases[int(rng.integers(len(phrases)))]
        if first is None or not _contradict(first, phrase):
            return phrase
    return None


@cache
def _contradict(a: str, b: str) -> bool:
    return any(x.contradicts(y) for x in meanings()[a] for y in meanings()[b])
