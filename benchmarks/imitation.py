"""What each way to imitate an action gets right, what it carries over, and what it costs, on the dev actions.

python benchmarks/imitation.py WORK_FOLDER benchmarks/results/imitation.json [--methods ...] [--actions ...]

The five exemplars of an action share a place, a thing and a light that neither captions nor prompts name. Each way
draws ten other actors with the same noise; every second prompt leaves the place unsaid. What is finished lies in the
work folder, so the command goes on where it was stopped; the results hold all that is there.

`--photographs` also learns poses that people took for photographs, from their keypoints alone, and says how far the
limbs of five other actors lie from those in the photographs.
"""

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import judges_dir
from twinact.bench.contestants import settings_of
from twinact.bench.poses import photographed_pose, photographed_poses, write_pose_exemplars
from twinact.bench.world import WORDS, JudgedPictures, world_task
from twinact.configs import LearnConfig, RunConfig
from twinact.intent.prompts import PLACES
from twinact.jobs.job import Job
from twinact.jobs.models import default_space, open_model
from twinact.jobs.resources import choose_resources
from twinact.jobs.run import run_job
from twinact.readers.choice import open_reader
from twinact.sample import generate
from twinact.sheets import contact_sheet
from twinact.space.ordering import reordered, shipped_words
from twinact.storage import tensor_hash
from twinact.world.judges.judges import Judges
from twinact.world.splits import DEV_ACTIONS

ACTORS = 10
SEEN = "the phrase that looks most like the exemplars"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "instant": {"steps": 0},
    "refined": {},
    "refined, one clause": {"clauses": 1},
    "refined, two clauses": {"clauses": 2},
    "refined, 1 exemplar": {"exemplars": 1},
    "refined, 3 exemplars": {"exemplars": 3},
    "refined, 10 exemplars": {"exemplars": 10},
    "refined, LoRA": {"lora_rank": 8},
    "refined and denoising": {"denoising_weight": 1.0, "steps": 80},
    "refined and denoising, LoRA": {"denoising_weight": 1.0, "steps": 80, "lora_rank": 8},
    "denoising": {"pose_weight": 0.0, "steps": 100},
    "denoising, rank 16": {"pose_weight": 0.0, "rank": 16, "steps": 100},
    "denoising, outside, rank 64": {"pose_weight": 0.0, "rank": 64, "steps": 100, "ordering": "outside"},
    "denoising, contrast, rank 64": {"pose_weight": 0.0, "rank": 64, "steps": 100, "ordering": "contrast"},
    "textual inversion": {"method": "textual-inversion", "steps": 100},
    "textual inversion at 0.001": {"method": "textual-inversion", "steps": 100, "learning_rate": 0.001},
    "textual inversion at 0.02": {"method": "textual-inversion", "steps": 100, "learning_rate": 0.02},
    **{
        f"textual inversion from the seen phrase at {rate:g}": {
            "method": "textual-inversion", "steps": 100, "learning_rate": rate, "start": SEEN,
        }
        for rate in (0.001, 0.005, 0.02)
    },
    "core": {"method": "core", "steps": 100},
    "conceptprism": {"method": "conceptprism", "steps": 100},
}  # fmt: skip
"""Settings of each way that learns; the others are words, chosen with knowledge of the truth. An "ordering" is that of
the space's components, of which `rank` takes the first; "exemplars" is how many there are, five if nothing is said."""
EXEMPLARS = 5
SHARES = ("joint", "clean", "action", "actor", "leak", "shared_place", "shared_thing", "shared_light")
SHOWN = ("a panda", "a robot", "a frog", "a chef", "a woman in a red dress")
SHARED = ("shared_place", "shared_thing", "shared_light")
_JUDGED = {"leak": "leak_actor", **{name: name.replace("shared", "leak") for name in SHARED}}


def measured(way: str, name: str, work: Path, backbone: Backbone, judges: JudgedPictures, run: RunConfig) -> None:
    """Learn and draw one dev action in one way, and write what was measured, unless it is there."""
    target = work / way.replace(" ", "-").replace(",", "") / f"{name}.json"
    if target.is_file():
        return
    settings = dict(WAYS.get(way, {}))
    count = settings.pop("exemplars", EXEMPLARS)
    task = world_task(DEV_ACTIONS[name], ACTORS, unsaid=True, exemplars=count)
    folder, exemplars = target.with_suffix(""), work / f"exemplars-{count}" / task.name
    if not exemplars.is_dir():
        task.write_exemplars(exemplars, backbone.image_size)
    row: dict[str, Any] = {"task": task.name, "kind": task.kind, "passes": 0, "seconds": 0.0, "told": []}
    prompts, vectors = task.words.get(way), None
    if prompts is None:
        space = ordered_space(settings.pop("ordering", None), backbone, work)
        config = LearnConfig.from_dict({"name": task.name, **settings})
        job = Job(exemplars=exemplars, config=config, run_dir=folder, space=space, run=asdict(run))
        began = time.perf_counter()
        if config.start == SEEN:
            look = replace(
                job, config=settings_of("seen phrase", {"name": task.name}), run_dir=work / "seen" / task.name
            )
            seen = run_job(look, backbone=backbone, tell=row["told"].append)
            row["passes"] = seen.cost.search
            job = replace(job, config=replace(config, start=seen.action.meta["config"]["start"]))
        learned = run_job(job, backbone=backbone, tell=row["told"].append)
        row["seconds"] = round(time.perf_counter() - began, 1)
        # Backward passes count twice; every one of them had its forward pass.
        row["passes"] += learned.cost.search + learned.cost.forward + 2 * learned.cost.backward
        prompts, vectors = tuple(request.prompt for request in task.requests), {PLACEHOLDER: learned.action.vectors}
    seeds = [request.seed for request in task.requests]
    pictures = generate(backbone, prompts, vectors, seeds=seeds)
    judged = judges.measure(pictures, task)
    for share in SHARES:
        name = _JUDGED.get(share, share)
        hits = [one[name] for one in judged if one[name] is not None]
        row[share] = (int(sum(hits)), len(hits))
    row["angles"] = float(np.mean([one["near"] for one in judged]))
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, columns=5).save(target.with_suffix(".png"))
    target.write_text(json.dumps(row))
    print(way, task.name, {n: row[n] for n in ("joint", "clean", "angles", *SHARED, "passes", "seconds")}, flush=True)


def ordered_space(ordering: str | None, backbone: Backbone, work: Path) -> Path | None:
    """The file of the model's own space with other leading components; None for the model's own."""
    if ordering is None:
        return None
    target = work / f"{ordering}.space.safetensors"
    if not target.is_file():
        tables = backbone.token_tables()
        reordered(default_space(backbone), tables, shipped_words(tables), ordering).save(target)
    return target


def photographed(name: str, work: Path, backbone: Backbone, run: RunConfig) -> dict[str, Any]:
    """Angles in degrees between the limbs in the photographs of a pose and in drawings of other actors, as JSON."""
    stem = re.sub(r"[^a-z]+", "-", name)
    stem = stem if len(stem) <= 28 else f"{stem[:13]}-{stem[-14:].strip('-')}"  # names of actions are no longer
    target = work / "photographs" / f"{stem}.json"
    if target.is_file():
        found: dict[str, Any] = json.loads(target.read_text())
        return found
    folder = work / "photographs" / stem
    write_pose_exemplars(name, folder / "exemplars", 256)
    job = Job(exemplars=folder / "exemplars", config=LearnConfig(name=stem), run_dir=folder / "run", run=asdict(run))
    action = run_job(job, backbone=backbone, tell=lambda _text: None).action
    prompts = [f"{actor} {PLACEHOLDER} {place}" for actor, place in zip(SHOWN, PLACES, strict=False)]
    pictures = generate(backbone, prompts, {PLACEHOLDER: action.vectors}, seeds=range(len(prompts)))
    contact_sheet(pictures, columns=len(pictures)).save(target.with_suffix(".png"))
    wanted, drawn = photographed_pose(name), open_reader("own", backbone).read(pictures)
    angles = torch.rad2deg((drawn.directions * wanted.directions).sum(dim=2).clamp(-1, 1).arccos())
    found = {"pose": name, "degrees": angles[:, wanted.weights > 0].flatten().tolist()}
    target.write_text(json.dumps(found))
    print(name, round(float(np.median(found["degrees"])), 1), flush=True)
    return found


def summary(rows: Sequence[Mapping[str, Any]], words: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over actions with 95 % bootstrap intervals over actions, as JSON; leaks are differences to words."""

    def over(values: Sequence[float]) -> dict[str, float]:
        kept = np.array([value for value in values if not np.isnan(value)])
        if not len(kept):
            return {}
        drawn = kept[np.random.default_rng(0).integers(len(kept), size=(4000, len(kept)))].mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        return {"mean": round(float(kept.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}

    def ratio(row: Mapping[str, Any], name: str) -> float:
        hits, count = row.get(name, (0, 0))
        return hits / count if count else np.nan

    found: dict[str, Any] = {"actions": len(rows)}
    found |= {name: over([ratio(row, name) for row in rows]) for name in SHARES}
    found["angles"] = over([row["angles"] for row in rows])
    kinds = dict.fromkeys(row["kind"] for row in rows)
    found["joint by kind"] = {k: over([ratio(row, "joint") for row in rows if row["kind"] == k]) for k in kinds}
    paired = [(row, words[row["task"]]) for row in rows if row["task"] in words]
    found["leak above words"] = {
        name: over([ratio(row, name) - ratio(other, name) for row, other in paired]) for name in SHARED
    }
    found |= {name: over([row[name] for row in rows]) for name in ("passes", "seconds")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="folder for runs and pictures")
    parser.add_argument("target", type=Path, help="results file")
    parser.add_argument("--methods", nargs="*", default=[*WORDS, *WAYS])
    parser.add_argument("--actions", nargs="*", default=list(DEV_ACTIONS))
    parser.add_argument("--photographs", action="store_true", help="also learn poses from photographs' keypoints")
    given = parser.parse_args()
    run = RunConfig(precision=choose_resources("nano").precision)
    backbone, eyes = open_model("nano", run.precision), Judges.load(judges_dir())
    judges = JudgedPictures(eyes)
    for way in given.methods:
        for name in given.actions:
            measured(way, name, given.work, backbone, judges, run)
    rows = {
        way: [json.loads(path.read_text()) for path in sorted((given.work / folder).glob("*.json"))]
        for way, folder in ((way, way.replace(" ", "-").replace(",", "")) for way in (*WORDS, *WAYS))
    }
    words = {row["task"]: row for row in rows[WORDS[0]]}
    results = {
        "model": backbone.model_id,
        "judges": f"judges {tensor_hash(eyes.state_dict())[:8]}",
        "precision": run.precision,
        "device": f"{torch.get_num_threads()} CPU threads",
        "pictures per action": ACTORS,
        "sampler steps": backbone.steps,
        "settings": {way: dict(settings) for way, settings in WAYS.items()},
        "methods": {way: summary(found, words) for way, found in rows.items() if found},
    }
    if given.photographs:
        found = [photographed(name, given.work, backbone, run) for name in photographed_poses()]
        every = np.array([angle for one in found for angle in one["degrees"]])
        results["photographs"] = {
            "poses": {one["pose"]: round(float(np.median(one["degrees"])), 1) for one in found},
            "median degrees": round(float(np.median(every)), 1),
            "share within 20 degrees": round(float((every <= 20).mean()), 3),
            "pictures per pose": len(SHOWN),
        }
    given.target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
