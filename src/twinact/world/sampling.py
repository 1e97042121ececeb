"""Random scenes with their captions: what nano, its encoders and the judges are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from twinact.world.bodies import ACTORS, HELD_OUT_ACTORS
from twinact.world.captions import GENERIC, caption
from twinact.world.light import LIGHTS
from twinact.world.meanings import Meaning, meanings
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose, differences
from twinact.world.scene import Camera, Scene
from twinact.world.splits import is_held_out_pose
from twinact.world.things import THINGS

# What a caption leaves unsaid varies this much around standing at ease (uniform, ±, in the unit of each dof).
REST_JITTER = {"torso_lean": 3, "head_tilt": 4, "head_turn": 8, "head_nod": 4} | {
    f"{side}_{part}": size
    for side in "lr"
    for part, size in (("shoulder", 6), ("elbow", 8), ("hip", 3), ("knee", 3), ("hand", 0.3))
}
_JITTER = np.array([REST_JITTER.get(name, 0.0) for name in DOF_NAMES])
_REST = np.array([dof.rest for dof in DOFS.values()])

# Shares of the ways in which a scene's action comes about: one or two phrases, all said; limbs that each have a phrase
# of their own, of which some may be left unsaid; freely drawn limbs, of which phrases say what they happen to.
_WAYS = (0.40, 0.28, 0.32)
_MOST_PHRASES = 4
_LIMBS = tuple(tuple(f"{side}_{part}" for part in pair) for side in "lr"
               for pair in (("shoulder", "elbow"), ("hip", "knee")))  # fmt: skip
_AT_EASE = tuple(name for name in DOF_NAMES if name.startswith(("head", "eyes", "mouth", "smile"))
                 or name.endswith(("ankle", "hand")))  # fmt: skip
# How often a caption names what the picture shows.
_ACTOR_SAID, _PLACE_SAID, _THING_SAID, _LIGHT_SAID = 0.85, 0.7, 0.4, 0.4
# How often a figure wears or holds nothing, one thing or two.
_THING_COUNTS = (0.4, 0.45, 0.15)
THING_SHARE = (_THING_COUNTS[1] + 2 * _THING_COUNTS[2]) / len(THINGS)
"""How often a scene shows any one thing, nearly: a cape and a backpack exclude each other, as do the two hats."""
LIGHT_SHARES = (0.55, 0.15, 0.15, 0.15)
"""How often a scene has each of `LIGHTS`."""


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


@dataclass(frozen=True)
class Posed:
    """A pose and the words for it.

    Attributes:
        pose: Never a held-out custom action.
        phrases: Phrases that hold, and that name no degree of freedom twice.
        way: How it came about: "plain" (one or two phrases, which captions say, and the rest at ease), "limbs" (up to
            four phrases, some of which captions leave out) or "free" (drawn without regard to phrases).
    """

    pose: Pose
    phrases: tuple[str, ...]
    way: Literal["plain", "limbs", "free"]

    def said(self, rng: np.random.Generator) -> tuple[str, ...]:
        """The phrases that one caption says, in the order in which it says them."""
        count = len(self.phrases)
        if self.way != "plain" and rng.random() > 0.55:
            count = int(rng.integers(0, count + 1))
        return tuple(self.phrases[i] for i in rng.permutation(len(self.phrases))[:count])


def sample_posed(rng: np.random.Generator, phrases: Sequence[str]) -> Posed:
    """A random action: known phrases together, or limbs drawn freely and described as far as phrases reach.

    Args:
        rng: Chooses.
        phrases: Those that may be used.
    """
    while True:
        way = rng.choice(3, p=_WAYS)
        if way == 0:
            posed = sample_plain(rng, phrases, int(rng.choice(3, p=(0.04, 0.52, 0.44))))
        elif way == 1:
            count = int(rng.integers(2, _MOST_PHRASES + 1))
            posed = sample_limb_by_limb(rng, phrases, count, single=rng.random() < 0.7)
        else:
            posed = _free(rng, phrases)
        if not is_held_out_pose(posed.pose):
            return posed


def sample_scene(rng: np.random.Generator, part: Part, pose: Pose) -> Scene:
    """A random scene of `part` with a pose."""
    return Scene(
        actor=part.actors[rng.integers(len(part.actors))],
        pose=pose,
        place=part.places[rng.integers(len(part.places))],
        camera=sample_camera(rng),
        detail_seed=int(rng.integers(2**31)),
        things=sample_things(rng),
        light=sample_light(rng),
    )


def sample_things(rng: np.random.Generator) -> tuple[str, ...]:
    """Up to two things of different kinds, in the order of `THINGS`."""
    count = int(rng.choice(3, p=_THING_COUNTS))
    chosen: list[str] = []
    while len(chosen) < count:
        name = list(THINGS)[rng.integers(len(THINGS))]
        if all(THINGS[name].kind != THINGS[other].kind for other in chosen):
            chosen.append(name)
    return tuple(sorted(chosen, key=list(THINGS).index))


def sample_light(rng: np.random.Generator) -> str:
    """A key of `LIGHTS`; daylight more often than any other."""
    return list(LIGHTS)[rng.choice(len(LIGHTS), p=LIGHT_SHARES)]


def describe(scene: Scene, phrases: Sequence[str], rng: np.random.Generator) -> str:
    """A caption of a scene that says these phrases and, of the rest, as much as people do."""
    actor = scene.actor if rng.random() < _ACTOR_SAID else GENERIC[rng.integers(len(GENERIC))]
    place = PLACES[scene.place].text if rng.random() < _PLACE_SAID else None
    told = [THINGS[name].words for name in scene.things if rng.random() < _THING_SAID]
    things = [words[rng.integers(len(words))] for words in told]
    lights = LIGHTS[scene.light].words
    light = lights[rng.integers(len(lights))] if rng.random() < _LIGHT_SAID else None
    return caption(actor, phrases, place, rng, things=things, light=light)


def sample_described(rng: np.random.Generator, part: Part) -> Described:
    """A random scene of `part` with a caption; never one whose pose is a held-out custom action."""
    posed = sample_posed(rng, part.phrases)
    said = posed.said(rng)
    scene = sample_scene(rng, part, posed.pose)
    return Described(scene, describe(scene, said, rng), said)


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


def sample_free_scene(rng: np.random.Generator) -> Scene:
    """Any actor of the world in any place in a freely drawn pose, with any things in any light."""
    actors, places = list(ACTORS), list(PLACES)
    actor, place = actors[rng.integers(len(actors))], places[rng.integers(len(places))]
    return Scene(
        actor, sample_free_pose(rng), place, sample_free_camera(rng), int(rng.integers(2**31)),
        sample_things(rng), sample_light(rng),
    )  # fmt: skip


def sample_free_limbs(rng: np.random.Generator) -> Pose:
    """A pose of freely drawn trunk, arms and legs, as `sample_free_pose` has them; head, hands and feet are at ease."""
    pose, rest = sample_free_pose(rng), rest_pose(rng)
    return pose.with_values({name: getattr(rest, name) for name in _AT_EASE} | {"root_rotation": _turn(rng)})


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


def _turn(rng: np.random.Generator) -> float:
    return float(rng.normal(0, 3) if rng.random() < 0.8 else rng.uniform(-60, 60))


def sample_plain(rng: np.random.Generator, phrases: Sequence[str], count: int) -> Posed:
    """Up to `count` phrases together, and the rest at ease; it may show a custom action."""
    return _composed(rng, phrases, count, "plain")


def sample_limb_by_limb(rng: np.random.Generator, phrases: Sequence[str], count: int, *, single: bool) -> Posed:
    """Up to `count` phrases together, of those that name one limb if `single`; it may show a custom action."""
    return _composed(rng, _of_single_limbs(tuple(phrases)) if single else phrases, count, "limbs")


def _composed(rng: np.random.Generator, phrases: Sequence[str], count: int, way: Literal["plain", "limbs"]) -> Posed:
    chosen: list[str] = []
    pose = rest_pose(rng)
    for _ in range(count):
        phrase = _compatible(rng, phrases, chosen)
        if phrase is None:
            break
        meaning: Meaning = meanings()[phrase]
        pose = meaning[rng.integers(len(meaning))].sample(pose, rng)
        chosen.append(phrase)
    return Posed(pose, tuple(chosen), way)


def _free(rng: np.random.Generator, phrases: Sequence[str]) -> Posed:
    pose = sample_free_limbs(rng)
    named: list[str] = []
    held = phrases_held(pose, tuple(phrases))
    for phrase in (held[i] for i in rng.permutation(len(held))):
        if len(named) < _MOST_PHRASES and not any(_contradict(phrase, other) for other in named):
            named.append(phrase)
    return Posed(pose, tuple(named), "free")


def phrases_held(pose: Pose, phrases: tuple[str, ...]) -> list[str]:
    """Those of `phrases` for which a pose is right."""
    owners, values, tolerances = _targets(phrases)
    error = differences(pose.as_array(), values)
    right = ~(error > tolerances).any(1)  # what a phrase leaves open is NaN, and never off
    return [phrases[i] for i in np.unique(owners[right])]


@cache
def _targets(phrases: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every meaning of every phrase: the phrase's number, and values and tolerances (n, dofs), NaN where open."""
    ways = [(number, way) for number, phrase in enumerate(phrases) for way in meanings()[phrase]]
    values, tolerances = (np.full((len(ways), len(DOF_NAMES)), np.nan) for _ in range(2))
    for row, (_, way) in enumerate(ways):
        for name, target in way.targets.items():
            column = DOF_NAMES.index(name)
            values[row, column], tolerances[row, column] = target.value, target.tolerance
    return np.array([number for number, _ in ways]), values, tolerances


@cache
def _of_single_limbs(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """The phrases of which every meaning names one limb, or the trunk."""

    def limbs(way: PartialPose) -> set[str]:
        return {next((limb for limb in _LIMBS if name in limb), ("trunk",))[0] for name in way.targets}

    return tuple(phrase for phrase in phrases if all(len(limbs(way)) == 1 for way in meanings()[phrase]))


def _compatible(rng: np.random.Generator, phrases: Sequence[str], chosen: Sequence[str]) -> str | None:
    for _ in range(8):
        phrase = phrases[int(rng.integers(len(phrases)))]
        if not any(_contradict(phrase, other) for other in chosen):
            return phrase
    return None


@cache
def _contradict(a: str, b: str) -> bool:
    return any(x.contradicts(y) for x in meanings()[a] for y in meanings()[b])
