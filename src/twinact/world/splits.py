"""The custom actions: 24 poses held out of everything that is trained, and their exemplar folders."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from twinact import PLACEHOLDER
from twinact.world.captions import with_article
from twinact.world.draw import draw, joints
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose, Target
from twinact.world.scene import WORLD_VERSION, Camera, Scene
from twinact.world.skeleton import JOINT_NAMES

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
    error = np.abs(pose.as_array()[columns] - values)
    rotation = _NAMED.index("root_rotation")
    error[:, rotation] = np.minimum(error[:, rotation], 360 - error[:, rotation])
    return bool((error <= tolerance).all(1).any())


def exemplar_scenes(action: CustomAction, places: tuple[str, ...], count: int = 5) -> list[Scene]:
    """Scenes of one custom action: its one or two actors in different places, with a little jitter in the pose.

    Args:
        action: The custom action.
        places: Keys of `PLACES` to choose from.
        count: Number of scenes.
    """
    rng = np.random.default_rng([WORLD_VERSION, *action.name.encode()])
    order = rng.permutation(len(places))
    scenes = []
    for index in range(count):
        pose = action.pose.sample(Pose(), rng, spread=0.15)
        camera = Camera(scale=rng.uniform(0.93, 1.05), x=rng.uniform(0.46, 0.54), y=rng.uniform(0.92, 0.95))
        actor = action.actors[index % len(action.actors)]
        scenes.append(Scene(actor, pose, places[order[index % len(places)]], camera, int(rng.integers(2**31))))
    return scenes


def write_exemplars(action: CustomAction, folder: Path, size: int, places: tuple[str, ...]) -> None:
    """Write an exemplar folder: PNGs, ``captions.json`` naming actor and place, and ``truth.json``.

    Args:
        action: The custom action.
        folder: Created if missing.
        size: Edge of the square pictures in pixels.
        places: Keys of `PLACES` to choose from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    captions, scenes = {}, exemplar_scenes(action, places)
    for index, scene in enumerate(scenes):
        name = f"{action.name}_{index:02d}.png"
        Image.fromarray(draw(scene, size)).save(folder / name)
        captions[name] = f"{with_article(scene.actor)} {PLACEHOLDER} {PLACES[scene.place].text}"
    truth = {
        "world_version": WORLD_VERSION,
        "action": action.name,
        "kind": action.kind,
        "named": {n: {"value": t.value, "tolerance": t.tolerance} for n, t in action.pose.targets.items()},
        "pictures": {
            name: {
                "actor": scene.actor,
                "place": scene.place,
                "pose": dict(zip(DOF_NAMES, scene.pose.as_array().tolist(), strict=True)),
                "joints": dict(zip(JOINT_NAMES, joints(scene).round(4).tolist(), strict=True)),
            }
            for name, scene in zip(captions, scenes, strict=True)
        },
    }
    (folder / "captions.json").write_text(json.dumps(captions, indent=2) + "\n")
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
