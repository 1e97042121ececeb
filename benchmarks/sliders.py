"""How far sliders move the limbs that they name, and what else moves with them, on the dev actions.

python benchmarks/sliders.py WORK_FOLDER benchmarks/results/sliders.json [--actions ...] [--sliders ...] [--strips 1]

Each action is learned from five pictures. A strip is one prompt with one noise, drawn with the slider at five amounts;
the judges read the pose in every picture. What is finished lies in the work folder, so the command goes on where it was
stopped; the results hold the actions and sliders that were given.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.shipped import judges_dir
from twinact.bench.world import world_task
from twinact.configs import LearnConfig, RunConfig
from twinact.jobs.job import Job
from twinact.jobs.models import open_model
from twinact.jobs.resources import choose_resources
from twinact.jobs.run import run_job
from twinact.sample import generate
from twinact.sheets import contact_sheet
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.space.limbs import LEFT_ARM, LEFT_LEG, LIMBS, RIGHT_ARM, RIGHT_LEG, TRUNK, miss
from twinact.space.sliders import SLIDERS
from twinact.statistics import share
from twinact.storage import tensor_hash
from twinact.world.judges.judges import Judges
from twinact.world.pose import Pose
from twinact.world.splits import DEV_ACTIONS

AMOUNTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
STEP_BACK = 5.0
"""Degrees that a limb may go back from one picture of a monotone strip to the next: the judges err by about that."""
_DOFS = {
    TRUNK: ("torso_lean",),
    LEFT_ARM: ("l_shoulder", "l_elbow"),
    RIGHT_ARM: ("r_shoulder", "r_elbow"),
    LEFT_LEG: ("l_hip", "l_knee"),
    RIGHT_LEG: ("r_hip", "r_knee"),
}


def angles(pose: Pose) -> dict[str, Tensor]:
    """Joint angles of each limb by its name, in degrees, as `twinact.space.limbs.joint_angles` has them."""
    return {limb.name: torch.tensor([getattr(pose, dof) for dof in dofs]) for limb, dofs in _DOFS.items()}


def measured(name: str, poses: Sequence[Pose]) -> dict[str, Any]:
    """What the judged poses of a strip say of its slider.

    Returns:
        "turn": degrees by which the slider's limbs turn from end to end, in the mean. "monotone": whether none of them
        goes back. "others": for every other limb, the mean degrees by which its segments turn from end to end.
    """
    slider, seen = SLIDERS[name], [angles(pose) for pose in poses]
    way = 1.0 if slider.high[0] > slider.low[0] else -1.0
    lifted = np.array([[way * float(one[limb.name][0]) for limb in slider.limbs] for one in seen])  # (pictures, limbs)
    others = [limb.name for limb in LIMBS if limb not in slider.limbs]
    return {
        "turn": round(float((lifted[-1] - lifted[0]).mean()), 1),
        "monotone": bool((np.diff(lifted, axis=0) >= -STEP_BACK).all()),
        "others": {limb: round(float(miss(seen[-1][limb], seen[0][limb])), 1) for limb in others},
    }


def summary(strips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several strips, as JSON."""
    others = [angle for strip in strips for angle in strip["others"].values()]
    return {
        "strips": len(strips),
        "mean turn in degrees": round(float(np.mean([strip["turn"] for strip in strips])), 1),
        "monotone": share([strip["monotone"] for strip in strips]),
        "median turn of other limbs in degrees": round(float(np.median(others)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="folder for runs and pictures")
    parser.add_argument("target", type=Path, help="results file")
    parser.add_argument("--actions", nargs="*", default=list(DEV_ACTIONS), choices=DEV_ACTIONS)
    parser.add_argument("--sliders", nargs="*", default=list(SLIDERS), choices=SLIDERS)
    parser.add_argument("--strips", type=int, default=1, help="of every slider on every action, each of another actor")
    given = parser.parse_args()
    run, began = RunConfig(precision=choose_resources("nano").precision), time.perf_counter()
    nano, judges = open_model("nano", run.precision), Judges.load(judges_dir())
    strips: dict[str, list[dict[str, Any]]] = {name: [] for name in given.sliders}
    for action_name in given.actions:
        task = world_task(DEV_ACTIONS[action_name], given.strips)
        exemplars, run_dir = given.work / "exemplars" / action_name, given.work / "runs" / action_name
        if not (exemplars / "truth.json").is_file():  # written last
            task.write_exemplars(exemplars, nano.image_size)
        job = Job(exemplars=exemplars, config=LearnConfig(name=action_name), run_dir=run_dir, run=asdict(run))
        action = run_job(job, backbone=nano, tell=lambda _text: None).action
        space = ActionSpace.load(run_dir / SPACE_FILE)
        for name in given.sliders:
            moved = {f"<act{i}>": action.slid(space, name, amount).vectors for i, amount in enumerate(AMOUNTS)}
            for number, request in enumerate(task.requests):
                target = given.work / "strips" / f"{action_name}-{name.replace(' ', '-')}-{number}.json"
                if not target.is_file():
                    prompts = [request.prompt.replace(PLACEHOLDER, placeholder) for placeholder in moved]
                    seeds = [request.seed] * len(prompts)
                    pictures = generate(nano, prompts, moved, seeds=seeds)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    contact_sheet(pictures, columns=len(pictures)).save(target.with_suffix(".png"))
                    found = measured(name, [verdict.pose for verdict in judges.judge(pictures)])
                    target.write_text(json.dumps(found))
                    print(action_name, name, found, flush=True)
                strips[name].append(json.loads(target.read_text()))
    results = {
        "model": nano.model_id,
        "judges": tensor_hash(judges.state_dict())[:8],
        "precision": run.precision,
        "sampler steps": nano.steps,
        "amounts": AMOUNTS,
        "actions": given.actions,
        "all sliders": summary([strip for found in strips.values() for strip in found]),
        "sliders": {name: summary(found) for name, found in strips.items()},
    }
    given.target.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{time.perf_counter() - began:.0f} s", results["all sliders"])


if __name__ == "__main__":
    main()
