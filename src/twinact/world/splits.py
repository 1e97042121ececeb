"""The custom actions: 48 poses held out of everything that is trained, and their exemplar folders."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from twinact import PLACEHOLDER
from twinact.world.captions import with_article
from twinact.world.draw import draw, joints
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose, Target, differences
from twinact.world.scene import WORLD_VERSION, Camera, Scene
from twinact.world.skeleton import JOINT_NAMES
from twinact.world.things import THINGS

Kind = Literal["combination", "between", "free"]

# Order of the numbers in the tables below.
_NAMED = ("l_shoulder l_elbow r_shoulder r_elbow l_hip l_knee r_hip r_knee torso_lean root_rotation clearance").split()


@dataclass(frozen=True)
class CustomAction:
    """An action to learn from pictures alone.

    Attributes:
        name: Identifier, usable as a file name.
        kind: ``combination`` of known parts never seen together, ``between`` two known poses, or ``free``: a pose
            that no phrase describes.
        values: Joint angles in the order of ``_NAMED``, degrees (clearance in leg lengths).
        actors: The one or two actors of the exemplars.
    """

    name: str
    kind: Kind
    values: tuple[float, ...]
    actors: tuple[str, ...]

    @cached_property
    def pose(self) -> PartialPose:
        """The action as named degrees of freedom with their tolerances."""
        return PartialPose({n: Target(v, DOFS[n].tolerance) for n, v in zip(_NAMED, self.values, strict=True)})


def _between(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return tuple((x + y) / 2 for x, y in zip(a, b, strict=True))


#                     l arm      r arm      l leg      r leg    lean rot clearance
_STAND = (12, 0, 12, 0, 6, 0, 6, 0, 0, 0, 0)
_T_POSE = (90, 0, 90, 0, 6, 0, 6, 0, 0, 0, 0)
_ARMS_UP = (175, 0, 175, 0, 6, 0, 6, 0, 0, 0, 0)
_SQUAT = (12, 0, 12, 0, 75, -75, 75, -75, 0, 0, 0)
_T_SQUAT = (90, 0, 90, 0, 75, -75, 75, -75, 0, 0, 0)
_KICK_LEFT = (90, 0, 90, 0, 90, 0, 4, 0, 0, 0, 0)
_LUNGE_RIGHT = (50, -100, 50, -100, 40, 0, 65, -65, 0, 0, 0)
_STAR_JUMP = (130, 0, 130, 0, 45, 0, 45, 0, 0, 0, 0.5)
_LEAN_RIGHT = (90, 0, 90, 0, 28, 0, 28, 0, -50, 0, 0)
_CACTUS_WIDE = (90, 90, 90, 90, 28, 0, 28, 0, 0, 0, 0)
_SPLITS_UP = (175, 0, 175, 0, 88, 0, 88, 0, 0, 0, 0)
_CARTWHEEL = (150, 0, 150, 0, 50, 0, 50, 0, 0, 90, 0)
_AKIMBO = (50, -100, 50, -100, 6, 0, 6, 0, 0, 0, 0)
_AKIMBO_SPLITS = (50, -100, 50, -100, 88, 0, 88, 0, 0, 0, 0)
_TREE_UP = (175, 0, 175, 0, 80, -130, 2, 0, 0, 0, 0)
_LUNGE_RIGHT_T = (90, 0, 90, 0, 40, 0, 65, -65, 0, 0, 0)
_KICK_RIGHT = (90, 0, 90, 0, 4, 0, 90, 0, 0, 0, 0)
_KNEE_UP = (175, 0, 175, 0, 6, 0, 85, -85, 0, 0, 0)
_LEAN_UP = (175, 0, 175, 0, 6, 0, 6, 0, 45, 0, 0)
_FLEX_WIDE = (90, 100, 90, 100, 50, 0, 50, 0, 0, 0, 0)

CUSTOM_ACTIONS: dict[str, CustomAction] = {
    action.name: action
    for action in (
        CustomAction("flex-lunge", "combination", (90, 100, 90, 100, 65, -65, 40, 0, 0, 0, 0), ("robot", "chef")),
        CustomAction("cactus-kick", "combination", (90, 90, 90, 90, 90, 0, 4, 0, 0, 0, 0), ("panda",)),
        CustomAction("akimbo-tree", "combination", (50, -100, 50, -100, 80, -130, 2, 0, 0, 0, 0), ("fox", "ninja")),
        CustomAction("reach-splits", "combination", (175, 0, 90, 0, 88, 0, 88, 0, 0, 0, 0), ("firefighter",)),
        CustomAction("head-hold-squat", "combination", (130, 110, 130, 110, 75, -75, 75, -75, 0, 0, 0), ("alien",)),
        CustomAction("disco-knee", "combination", (150, 0, 40, 0, 6, 0, 85, -85, 0, 0, 0), ("ballerina", "penguin")),
        CustomAction("flex-jump", "combination", (90, 100, 90, 100, 45, 0, 45, 0, 0, 0, 0.5), ("rabbit",)),
        CustomAction("lean-kick", "combination", (50, -100, 50, -100, 85, 0, 6, 0, 35, 0, 0), ("astronaut", "frog")),
        CustomAction("half-squat-v", "between", _between(_ARMS_UP, _T_SQUAT), ("robot",)),
        CustomAction("rising-star", "between", _between(_CACTUS_WIDE, _STAR_JUMP), ("chef", "panda")),
        CustomAction("half-kick", "between", _between(_STAND, _KICK_LEFT), ("tiger",)),
        CustomAction("half-lunge", "between", _between(_STAND, _LUNGE_RIGHT), ("ninja", "rabbit")),
        CustomAction("open-lean", "between", _between(_T_POSE, _LEAN_RIGHT), ("skeleton",)),
        CustomAction("low-cactus", "between", _between(_CACTUS_WIDE, _SQUAT), ("pirate", "robot")),
        CustomAction("half-splits", "between", _between(_STAND, _SPLITS_UP), ("frog",)),
        CustomAction("half-cartwheel", "between", _between(_STAR_JUMP, _CARTWHEEL), ("ballerina", "alien")),
        CustomAction(
            "weathervane", "free", (120, -60, 60, 70, 6, 0, 70, -35, 0, 0, 0), ("woman in a red dress", "panda")
        ),
        CustomAction("signpost", "free", (60, 110, 140, -80, 6, 0, 6, 0, 0, 0, 0), ("astronaut",)),
        CustomAction("crane-dip", "free", (150, 40, 20, 0, 110, -70, 20, -20, -15, 0, 0), ("fox", "chef")),
        CustomAction("side-hurdle", "free", (40, 50, 150, 0, 100, -90, 45, 0, 15, 0, 0.3), ("robot", "tiger")),
        CustomAction("broken-clock", "free", (175, 0, 60, -60, 50, 40, 10, 0, 0, 0, 0), ("penguin",)),
        CustomAction("tilted-arch", "free", (160, 40, 70, 0, 40, -40, 20, 0, -30, -15, 0), ("pirate", "frog")),
        CustomAction("scarecrow-slide", "free", (90, -90, 90, 45, 60, 0, 70, -100, 0, 0, 0), ("alien", "rabbit")),
        CustomAction("comet", "free", (175, 0, 30, 90, 30, 0, 80, -100, 0, 40, 0.4), ("ninja",)),
        CustomAction("cactus-tree", "combination", (90, 90, 90, 90, 2, 0, 80, -130, 0, 0, 0), ("penguin",)),
        CustomAction("flex-squat", "combination", (90, 100, 90, 100, 75, -75, 75, -75, 0, 0, 0), ("pirate", "fox")),
        CustomAction("reach-lunge", "combination", (175, 0, 90, 0, 65, -65, 40, 0, 0, 0, 0), ("skeleton",)),
        CustomAction("akimbo-kick", "combination", (50, -100, 50, -100, 4, 0, 90, 0, 0, 0, 0), ("rabbit", "chef")),
        CustomAction("head-hold-lunge", "combination", (130, 110, 130, 110, 40, 0, 65, -65, 0, 0, 0), ("astronaut",)),
        CustomAction("point-splits", "combination", (90, 0, 12, 0, 88, 0, 88, 0, 0, 0, 0), ("tiger", "ninja")),
        CustomAction("victory-knee", "combination", (150, 0, 150, 0, 6, 0, 85, -85, 0, 0, 0), ("frog",)),
        CustomAction(
            "akimbo-jump",
            "combination",
            (50, -100, 50, -100, 45, 0, 45, 0, 0, 0, 0.5),
            ("robot", "woman in a red dress"),
        ),
        CustomAction("half-tree", "between", _between(_STAND, _TREE_UP), ("chef",)),
        CustomAction("low-kick", "between", _between(_T_SQUAT, _KICK_LEFT), ("alien", "tiger")),
        CustomAction("half-knee", "between", _between(_STAND, _KNEE_UP), ("firefighter",)),
        CustomAction("rising-cactus", "between", _between(_CACTUS_WIDE, _SPLITS_UP), ("panda", "ballerina")),
        CustomAction("tilted-reach", "between", _between(_ARMS_UP, _LEAN_UP), ("fox",)),
        CustomAction("half-flex", "between", _between(_T_POSE, _FLEX_WIDE), ("penguin", "skeleton")),
        CustomAction("half-straddle", "between", _between(_AKIMBO, _AKIMBO_SPLITS), ("robot",)),
        CustomAction("rising-kick", "between", _between(_LUNGE_RIGHT_T, _KICK_RIGHT), ("astronaut", "pirate")),
        CustomAction("lopsided-flag", "free", (100, -40, 150, 60, 20, 0, 75, -45, 0, 0, 0), ("ninja", "frog")),
        CustomAction("sprinter", "free", (140, 70, 30, -70, 95, -80, 15, -50, 12, 0, 0), ("chef",)),
        CustomAction("question-mark", "free", (170, -60, 70, 90, 10, 0, 55, -95, 0, 0, 0), ("alien", "fox")),
        CustomAction("falling-leaf", "free", (60, 60, 120, -30, 35, 20, 60, -20, 0, 25, 0), ("woman in a red dress",)),
        CustomAction("javelin", "free", (90, 0, 150, -90, 60, -30, 30, 0, -20, 0, 0), ("robot", "rabbit")),
        CustomAction("puppet", "free", (110, -90, 70, -90, 40, -90, 15, 10, 0, 0, 0), ("tiger",)),
        CustomAction("propeller", "free", (30, 40, 165, -30, 80, -60, 10, 0, 18, 0, 0), ("skeleton", "panda")),
        CustomAction("astride", "free", (45, 90, 110, -20, 70, -100, 50, 0, 0, 0, 0.35), ("firefighter",)),
    )
}

# For choosing settings, so that nothing is ever tuned on the custom actions. Training may have shown these poses.
DEV_ACTIONS: dict[str, CustomAction] = {
    action.name: action
    for action in (
        CustomAction("dev-wave-lunge", "combination", (150, 20, 12, 0, 40, 0, 65, -65, 0, 0, 0), ("robot",)),
        CustomAction("dev-reach-kick", "combination", (175, 0, 175, 0, 4, 0, 90, 0, 0, 0, 0), ("panda", "chef")),
        CustomAction("dev-akimbo-knee", "combination", (50, -100, 50, -100, 85, -85, 6, 0, 0, 0, 0), ("frog",)),
        CustomAction("dev-half-plie", "between", (90, 0, 90, 0, 42, -40, 42, -40, 0, 0, 0), ("ninja", "alien")),
        CustomAction("dev-half-lean", "between", (94, 0, 94, 0, 6, 0, 6, 0, 25, 0, 0), ("tiger",)),
        CustomAction("dev-windmill", "free", (140, 0, 20, -60, 30, 0, 60, -60, 0, 0, 0), ("rabbit", "pirate")),
        CustomAction("dev-archer", "free", (70, -70, 120, 50, 15, 0, 90, -40, 10, 0, 0), ("fox",)),
        CustomAction("dev-hurdle", "free", (20, 80, 100, -60, 60, -60, 20, 0, 0, 0, 0.4), ("astronaut", "penguin")),
        CustomAction("dev-flex-knee", "combination", (90, 100, 90, 100, 6, 0, 85, -85, 0, 0, 0), ("ballerina",)),
        CustomAction("dev-point-lunge", "combination", (90, 0, 12, 0, 65, -65, 40, 0, 0, 0, 0), ("penguin", "pirate")),
        CustomAction("dev-reach-squat", "combination", (175, 0, 175, 0, 75, -75, 75, -75, 0, 0, 0), ("skeleton",)),
        CustomAction("dev-half-march", "between", _between(_AKIMBO, _KNEE_UP), ("fox",)),
        CustomAction(
            "dev-half-akimbo",
            "between",
            _between(_STAND, (88, -100, 88, -100, 80, -130, 2, 0, 0, 0, 0)),
            ("firefighter", "rabbit"),
        ),
        CustomAction("dev-lantern", "free", (120, 60, 40, -40, 15, 0, 70, -80, 0, 0, 0), ("alien",)),
        CustomAction("dev-weaver", "free", (30, -60, 160, -40, 60, -20, 25, 0, -12, 0, 0), ("woman in a red dress",)),
        CustomAction("dev-gust", "free", (80, 40, 130, 0, 20, 0, 100, -60, 0, 20, 0), ("panda", "robot")),
    )
}


@cache
def _held_out_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = np.array([DOF_NAMES.index(name) for name in _NAMED])
    values = np.array([action.values for action in CUSTOM_ACTIONS.values()], dtype=np.float64)
    return columns, values, np.array([DOFS[name].tolerance for name in _NAMED])


def is_held_out_pose(pose: Pose) -> bool:
    """Whether a pose shows one of the custom actions (every named joint angle within its tolerance)."""
    columns, values, tolerance = _held_out_arrays()
    error = differences(pose.as_array()[columns], values, _NAMED)
    return bool((error <= tolerance).all(1).any())


@dataclass(frozen=True)
class Shared:
    """What all exemplars of an action show and no caption says: what a method can leak.

    Attributes:
        place: Key of `PLACES`.
        thing: Key of `THINGS`, worn or held by every actor.
        light: Key of `LIGHTS`, never daylight.
    """

    place: str
    thing: str
    light: str


def shared_by(action: CustomAction, places: tuple[str, ...]) -> Shared:
    """The place, one of `places`, the thing and the light that an action's exemplars may share; always the same."""
    rng = np.random.default_rng([WORLD_VERSION, 1, *action.name.encode()])
    things, lights = list(THINGS), [light for light in LIGHTS if light != "day"]
    return Shared(
        places[rng.integers(len(places))], things[rng.integers(len(things))], lights[rng.integers(len(lights))]
    )


def exemplar_scenes(
    action: CustomAction, places: tuple[str, ...], count: int = 5, shared: Shared | None = None
) -> list[Scene]:
    """Scenes of one custom action: its one or two actors in different places, with a little jitter in the pose.

    Args:
        action: The custom action.
        places: Keys of `PLACES` to choose from.
        count: Number of scenes.
        shared: What all scenes show, instead of different places by day and nothing worn.
    """
    rng = np.random.default_rng([WORLD_VERSION, *action.name.encode()])
    order = rng.permutation(len(places))
    scenes = []
    for index in range(count):
        pose = action.pose.sample(Pose(), rng, spread=0.15)
        camera = Camera(scale=rng.uniform(0.93, 1.05), x=rng.uniform(0.46, 0.54), y=rng.uniform(0.92, 0.95))
        actor = action.actors[index % len(action.actors)]
        scene = Scene(actor, pose, places[order[index % len(places)]], camera, int(rng.integers(2**31)))
        if shared is not None:
            scene = replace(scene, place=shared.place, things=(shared.thing,), light=shared.light)
        scenes.append(scene)
    return scenes


def write_exemplars(
    action: CustomAction,
    folder: Path,
    size: int,
    places: tuple[str, ...],
    shared: Shared | None = None,
    *,
    count: int = 5,
    caption: str | None = None,
) -> None:
    """Write an exemplar folder: PNGs, ``captions.json`` and ``truth.json``.

    Captions name the actor and the place; with `shared`, they name the actor only.

    Args:
        action: The custom action.
        folder: Created if missing.
        size: Edge of the square pictures in pixels.
        places: Keys of `PLACES` to choose from.
        shared: See `exemplar_scenes`.
        count: Number of pictures.
        caption: Of all pictures, with the placeholder; ``{place}`` becomes where a picture is, as in "in a park".
    """
    folder.mkdir(parents=True, exist_ok=True)
    captions, scenes = {}, exemplar_scenes(action, places, count, shared)
    for index, scene in enumerate(scenes):
        name = f"{action.name}_{index:02d}.png"
        Image.fromarray(draw(scene, size)).save(folder / name)
        said = f"{with_article(scene.actor)} {PLACEHOLDER}"
        if caption is not None:
            captions[name] = caption.format(place=PLACES[scene.place].text)
        else:
            captions[name] = said if shared else f"{said} {PLACES[scene.place].text}"
    truth = {
        "world_version": WORLD_VERSION,
        "action": action.name,
        "kind": action.kind,
        "unsaid": asdict(shared) if shared else {},
        "named": {n: {"value": t.value, "tolerance": t.tolerance} for n, t in action.pose.targets.items()},
        "pictures": {
            name: {
                "actor": scene.actor,
                "place": scene.place,
                "things": scene.things,
                "light": scene.light,
                "pose": dict(zip(DOF_NAMES, scene.pose.as_array().tolist(), strict=True)),
                "joints": dict(zip(JOINT_NAMES, joints(scene).round(4).tolist(), strict=True)),
            }
            for name, scene in zip(captions, scenes, strict=True)
        },
    }
    (folder / "captions.json").write_text(json.dumps(captions, indent=2) + "\n")
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
