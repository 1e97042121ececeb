"""How far sliders move the limbs that they name, and whether parts of two actions go together, on the dev actions.

python benchmarks/sliders.py WORK_FOLDER benchmarks/results/sliders.json [--actions ...] [--sliders ...] [--strips 1]
    [--pairs 12] [--no-ask]

Each action is learned from five pictures. A strip is one prompt with one noise, drawn with the slider at five amounts;
the judges read the pose in every picture, and so see what else moves. For a pair, five actors are drawn with the arms
of one action and the legs of another, by words alone and refined; a part is right where all its joint angles lie within
the world's tolerances.
What is finished lies in the work folder, so the command goes on where it was stopped; the results hold what was asked
for.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import judges_dir
from twinact.bench.world import world_task
from twinact.configs import LearnConfig, RunConfig
from twinact.intent import Meant
from twinact.jobs.job import Job
from twinact.jobs.models import open_model
from twinact.jobs.resources import choose_resources
from twinact.jobs.run import run_job
from twinact.sample import generate
from twinact.sheets import contact_sheet
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.space.limbs import LEFT_ARM, LEFT_LEG, LIMBS, PARTS, RIGHT_ARM, RIGHT_LEG, TRUNK, miss
from twinact.space.sliders import SLIDERS
from twinact.statistics import share
from twinact.storage import tensor_hash
from twinact.training.refine import refined
from twinact.world.judges.judges import Judges
from twinact.world.pose import PartialPose, Pose
from twinact.world.splits import DEV_ACTIONS

ACTORS = 5
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


def pairs_of(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Pairs of actions, the first for the arms: every action with the next one, with the one after that, and so on."""
    size = len(names)
    return [(names[i % size], names[(i + 1 + i // size) % size]) for i in range(min(count, size * (size - 1)))]


def together(names: tuple[str, str], poses: Sequence[Pose]) -> dict[str, list[bool]]:
    """In which pictures of a pair each part is right, and both."""
    found = {}
    for part, name in zip(("arms", "legs"), names, strict=True):
        dofs = {dof for limb in PARTS[part] for dof in _DOFS[limb]}
        targets = DEV_ACTIONS[name].pose.targets
        wanted = PartialPose({dof: target for dof, target in targets.items() if dof in dofs})
        found[part] = [wanted.holds(pose) for pose in poses]
    return {**found, "both": [all(parts) for parts in zip(*found.values(), strict=True)]}


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


@dataclass(frozen=True)
class Bench:
    """What draws and judges.

    Attributes:
        nano: The model.
        judges: Read poses.
        work: Folder of all that is finished.
        run: Precision.
        ask: Whether the model is asked what it means.
        actions: Those that are learned already.
    """

    nano: Backbone
    judges: Judges
    work: Path
    run: RunConfig
    ask: bool
    actions: dict[str, tuple[Action, ActionSpace, Meant | None]] = field(default_factory=dict)

    def learned(self, name: str) -> tuple[Action, ActionSpace, Meant | None]:
        """A dev action, its space, and who tells what the model means."""
        if name in self.actions:
            return self.actions[name]
        exemplars, run_dir = self.work / "exemplars" / name, self.work / "runs" / name
        if not (exemplars / "truth.json").is_file():  # written last
            world_task(DEV_ACTIONS[name], 1).write_exemplars(exemplars, self.nano.image_size)
        job = Job(exemplars=exemplars, config=LearnConfig(name=name), run_dir=run_dir, run=asdict(self.run))
        action = run_job(job, backbone=self.nano, tell=lambda _text: None).action
        space = ActionSpace.load(run_dir / SPACE_FILE)
        self.actions[name] = action, space, Meant.of(self.nano, space) if self.ask else None
        return self.actions[name]

    def strip(self, name: str, slider: str, number: int) -> dict[str, Any]:
        """What `measured` says of a strip."""
        target = self.work / "strips" / f"{name}-{slider.replace(' ', '-')}-{number}.json"
        if not target.is_file():
            action, space, meant = self.learned(name)
            request = world_task(DEV_ACTIONS[name], number + 1).requests[number]
            moved = {f"<act{i}>": action.slid(space, slider, amount, ask=meant) for i, amount in enumerate(AMOUNTS)}
            prompts = [request.prompt.replace(PLACEHOLDER, placeholder) for placeholder in moved]
            poses = self._poses(prompts, moved, [request.seed] * len(prompts), target)
            self._finish(target, measured(slider, poses))
        return _read(target)

    def pair(self, first: str, second: str, refine: bool = False) -> dict[str, list[bool]]:
        """What `together` says of a pair, as words have it or refined from there."""
        target = self.work / f"pairs{'-refined' if refine else ''}" / f"arms-of-{first}-legs-of-{second}.json"
        if not target.is_file():
            (action, space, meant), (other, _, _) = self.learned(first), self.learned(second)
            whole = action.with_parts(space, [(other, ["legs"])], ask=meant)
            moved = {PLACEHOLDER: refined(self.nano, space, whole) if refine else whole}
            requests = world_task(DEV_ACTIONS[first], ACTORS).requests
            prompts, seeds = [one.prompt for one in requests], [one.seed for one in requests]
            self._finish(target, together((first, second), self._poses(prompts, moved, seeds, target)))
        return _read(target)

    def _poses(
        self, prompts: Sequence[str], moved: Mapping[str, Action], seeds: Sequence[int], target: Path
    ) -> list[Pose]:
        vectors = {placeholder: action.vectors for placeholder, action in moved.items()}
        pictures = generate(self.nano, prompts, vectors, seeds=seeds)
        target.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures, columns=len(pictures)).save(target.with_suffix(".png"))
        return [verdict.pose for verdict in self.judges.judge(pictures)]

    def _finish(self, target: Path, found: Mapping[str, Any]) -> None:
        target.write_text(json.dumps(found))
        print(target.stem, found, flush=True)


def _read(target: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="folder for runs and pictures")
    parser.add_argument("target", type=Path, help="results file")
    parser.add_argument("--actions", nargs="*", default=list(DEV_ACTIONS), choices=DEV_ACTIONS)
    parser.add_argument("--sliders", nargs="*", default=list(SLIDERS), choices=SLIDERS)
    parser.add_argument("--strips", type=int, default=1, help="of every slider on every action, each of another actor")
    parser.add_argument("--pairs", type=int, default=12, help="of the actions, to take parts from")
    parser.add_argument("--no-ask", dest="ask", action="store_false", help="take the likeliest words, without a pass")
    given = parser.parse_args()
    run, began = RunConfig(precision=choose_resources("nano").precision), time.perf_counter()
    nano, judges = open_model("nano", run.precision), Judges.load(judges_dir())
    bench = Bench(nano, judges, given.work, run, given.ask)
    strips = {
        slider: [bench.strip(name, slider, number) for name in given.actions for number in range(given.strips)]
        for slider in given.sliders
    }
    pairs = {
        how: [bench.pair(first, second, refine) for first, second in pairs_of(given.actions, given.pairs)]
        for how, refine in (("pairs", False), ("pairs, refined", True))
    }
    results = {
        "model": nano.model_id,
        "judges": tensor_hash(judges.state_dict())[:8],
        "precision": run.precision,
        "sampler steps": nano.steps,
        "the model is asked": given.ask,
        "amounts": AMOUNTS,
        "actions": given.actions,
        "all sliders": summary([strip for found in strips.values() for strip in found]),
        "sliders": {name: summary(found) for name, found in strips.items()},
    }
    for how, found in pairs.items():
        if found:
            rights = {part: share([hit for pair in found for hit in pair[part]]) for part in ("arms", "legs", "both")}
            results[how] = {"count": len(found), **rights}
    given.target.write_text(json.dumps(results, indent=2) + "\n")
    print(
        f"{time.perf_counter() - began:.0f} s",
        results["all sliders"],
        results.get("pairs", ""),
        results.get("pairs, refined", ""),
    )


if __name__ == "__main__":
    main()
