"""Poses that people took for photographs, as keypoints: exemplars from another world than the model's.

`photographs/index.json` names the pictures that they were read from. The pictures are not shipped, their keypoints are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from twinact import PLACEHOLDER
from twinact.bench.contracts import Request, Row, Task
from twinact.nano.recipe import RECIPE
from twinact.readers.body import SEGMENTS
from twinact.readers.common import AGREEMENT_DEGREES, CommonPose, common_pose
from twinact.readers.drawn import draw_keypoints
from twinact.readers.keypoint_files import read_keypoints
from twinact.readers.latent import segment_directions
from twinact.world.captions import with_article
from twinact.world.draw import joints
from twinact.world.judges.judges import Judges
from twinact.world.places import PLACES
from twinact.world.scene import Scene

_FOLDER = Path(__file__).parent / "photographs"


def photographed_poses() -> dict[str, tuple[Path, ...]]:
    """Name of each pose → its keypoint files, one a photograph: thirteen poses from the front, four or five of each."""
    index = json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))
    return {one["name"]: tuple(_FOLDER / picture["file"] for picture in one["pictures"]) for one in index["poses"]}


def photographed_pose(name: str) -> CommonPose:
    """What the photographs of one of `photographed_poses` have in common."""
    return common_pose(read_keypoints(photographed_poses()[name]))


def write_pose_exemplars(name: str, folder: Path, size: int) -> None:
    """Write an exemplar folder of a photographed pose: its limbs, drawn on white, in the place of the photographs, and
    beside each its keypoint file.

    Args:
        name: One of `photographed_poses`.
        folder: Created if missing.
        size: Edge of the square pictures in pixels.
    """
    draw_keypoints(photographed_poses()[name], folder, size)


@dataclass(frozen=True)
class PoseAsked:
    """What a picture of a photographed pose should show.

    Attributes:
        pose: On which the photographs agree.
        actor: Key of `ACTORS`.
    """

    pose: CommonPose
    actor: str


def photographed_task(name: str, actors: int = 10) -> Task:
    """A photographed pose, learned from keypoints and drawn with some of nano's actors.

    Args:
        name: One of `photographed_poses`.
        actors: How many.
    """
    pose, rng = photographed_pose(name), np.random.default_rng(list(name.encode()))
    requests = []
    for number in rng.permutation(len(RECIPE.actors))[:actors]:
        actor, place = RECIPE.actors[number], RECIPE.places[int(rng.integers(len(RECIPE.places)))]
        prompt = f"{with_article(actor)} {PLACEHOLDER} {PLACES[place].text}"
        requests.append(Request(prompt, int(rng.integers(2**31)), PoseAsked(pose, actor)))
    return Task(
        name=photographed_poses()[name][0].parent.name,
        kind="photographed",
        write_exemplars=lambda folder, size: write_pose_exemplars(name, folder, size),
        requests=tuple(requests),
    )


class JudgedLimbs:
    """How far the limbs in pictures lie from those in photographs, as the judges see them.

    A pose is right (``action``) when every limb in which the photographs agree lies within `AGREEMENT_DEGREES` of
    theirs; ``near`` is the share of such limbs, and ``degrees`` their median angle. The model's own reader is not
    asked, because TwinAct's loss sees it.
    """

    def __init__(self, judges: Judges) -> None:
        self._judges = judges

    def measure(self, pictures: Sequence[Image.Image], task: Task) -> list[Row]:
        rows: list[Row] = []
        for verdict, request in zip(self._judges.judge(list(pictures)), task.requests, strict=True):
            wanted: PoseAsked = request.wanted
            seen = torch.from_numpy(joints(Scene(verdict.actor, verdict.pose, verdict.place))).float()
            directions = segment_directions(seen[None], SEGMENTS)[0]
            cosines = (directions * wanted.pose.directions).sum(dim=1).clamp(-1, 1)
            angles = torch.rad2deg(cosines.arccos())[wanted.pose.weights > 0]
            action, actor = bool((angles <= AGREEMENT_DEGREES).all()), verdict.actor == wanted.actor
            rows.append({
                "clean": float(action and actor),
                "joint": float(action and actor),
                "action": float(action),
                "actor": float(actor),
                "near": float((angles <= AGREEMENT_DEGREES).float().mean()),
                "degrees": float(angles.median()),
            })  # fmt: skip
        return rows
