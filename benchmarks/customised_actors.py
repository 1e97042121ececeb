"""Whether customised actors do customised actions: actors that nano never saw, doing the dev actions.

python benchmarks/customised_actors.py WORK_FOLDER benchmarks/results/customised_actors.json [--actors ...]
    [--actions ...] [--pictures 4] [--figure docs/images/customised_actors.png]

Each held-out actor is learned from eight pictures, each action from five of other actors. Every actor then does every
action; known actors do it in the same places, with the same noise. What is finished lies in the work folder, so the
command goes on where it was stopped; the results hold the actors and actions that were given. The figure has the actors
in rows, an exemplar first, and the actions in columns, the first picture of each, good or bad.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from twinact import ACTOR_PLACEHOLDER, PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import judges_dir
from twinact.bench.actors import PICTURES, actor_config, write_actor_exemplars
from twinact.bench.contracts import Task
from twinact.bench.metrics import score
from twinact.bench.world import world_task
from twinact.configs import LearnConfig, RunConfig
from twinact.jobs.job import Job
from twinact.jobs.models import open_model
from twinact.jobs.resources import choose_resources
from twinact.jobs.run import run_job
from twinact.sample import generate
from twinact.sheets import contact_sheet
from twinact.statistics import Share
from twinact.storage import tensor_hash
from twinact.world.bodies import HELD_OUT_ACTORS
from twinact.world.judges.judges import Judges
from twinact.world.places import PLACES
from twinact.world.splits import DEV_ACTIONS

KNOWN = "known"
"""The actors that nano knows, as they are called among the others."""
SHARES = ("actor", "action", "joint")


class Bench:
    """What is learned, drawn and judged once, and kept in the work folder."""

    def __init__(self, work: Path, pictures: int) -> None:
        self.work, self.pictures = work, pictures
        self.run = RunConfig(precision=choose_resources("nano").precision)
        self.backbone: Backbone = open_model("nano", self.run.precision)
        self.judges = Judges.load(judges_dir())
        self.config = actor_config()

    def task(self, action: str) -> Task:
        """A dev action with as many known actors as there are pictures."""
        return world_task(DEV_ACTIONS[action], self.pictures)

    def actor(self, name: str) -> Action:
        """A customised actor."""
        exemplars = self.exemplars(name)
        if not (exemplars / "captions.json").is_file():  # written last
            write_actor_exemplars(name, exemplars, self.backbone.image_size)
        return self._learned(exemplars, self.config)

    def exemplars(self, actor: str) -> Path:
        return self.work / "exemplars" / actor.replace(" ", "-")

    def action(self, name: str) -> Action:
        """A customised action."""
        exemplars = self.work / "exemplars" / name
        if not (exemplars / "truth.json").is_file():
            self.task(name).write_exemplars(exemplars, self.backbone.image_size)
        return self._learned(exemplars, LearnConfig(name=name))

    def _learned(self, exemplars: Path, config: LearnConfig) -> Action:
        job = Job(exemplars=exemplars, config=config, run_dir=self.work / "runs" / exemplars.name, run=asdict(self.run))
        return run_job(job, backbone=self.backbone, tell=lambda _text: None).action

    def drawn(self, actor: str, action: str) -> Path:
        """The folder with the pictures of an actor doing an action, and ``counts.json`` with how many are right."""
        folder = self.work / "drawn" / f"{actor.replace(' ', '-')}-{action}-{self.pictures}"
        if (folder / "counts.json").is_file():  # written last
            return folder
        wanted = [request.wanted for request in self.task(action).requests]
        seeds = [request.seed for request in self.task(action).requests]
        prompts = [request.prompt for request in self.task(action).requests]
        vectors, loras = {PLACEHOLDER: self.action(action).vectors}, []
        if actor != KNOWN:
            who = self.actor(actor)
            vectors[ACTOR_PLACEHOLDER], loras = who.vectors, [who.lora]
            prompts = [f"{ACTOR_PLACEHOLDER} {PLACEHOLDER} {PLACES[one.place].text}" for one in wanted]
            wanted = [replace(one, actor=actor) for one in wanted]
        images = generate(self.backbone, prompts, vectors, loras=loras, seeds=seeds)
        scores = score(self.judges.judge(images), wanted)
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(folder / f"{number}.png")
        counts = {name: getattr(scores, name).successes for name in SHARES}
        (folder / "counts.json").write_text(json.dumps({**counts, "pictures": len(images)}))
        print(actor, action, counts, flush=True)
        return folder


def shares(folders: Sequence[Path]) -> dict[str, Any]:
    """Shares over the pictures of some folders, as JSON."""
    rows: list[Mapping[str, int]] = [json.loads((folder / "counts.json").read_text()) for folder in folders]
    count = sum(row["pictures"] for row in rows)
    return {name: Share(sum(row[name] for row in rows), count).as_json() for name in SHARES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="folder for runs and pictures")
    parser.add_argument("target", type=Path, help="results file")
    parser.add_argument("--actors", nargs="*", default=list(HELD_OUT_ACTORS), choices=HELD_OUT_ACTORS)
    parser.add_argument("--actions", nargs="*", default=list(DEV_ACTIONS), choices=DEV_ACTIONS)
    parser.add_argument("--pictures", type=int, default=4, help="of every actor doing every action; at most 14")
    parser.add_argument("--figure", type=Path, help="picture to write")
    given = parser.parse_args()
    bench, began = Bench(given.work, given.pictures), time.perf_counter()
    folders = {
        (actor, action): bench.drawn(actor, action) for action in given.actions for actor in (KNOWN, *given.actors)
    }
    results = {
        "model": bench.backbone.model_id,
        "judges": tensor_hash(bench.judges.state_dict())[:8],
        "precision": bench.run.precision,
        "pictures per pair": given.pictures,
        "exemplars per actor": PICTURES,
        "sampler steps": bench.backbone.steps,
        "actors": {actor: shares([folders[actor, action] for action in given.actions]) for actor in given.actors},
        "customised actors": shares([folders[actor, action] for actor in given.actors for action in given.actions]),
        "known actors": shares([folders[KNOWN, action] for action in given.actions]),
        "learning an actor": bench.config.to_dict(),
    }
    given.target.write_text(json.dumps(results, indent=2) + "\n")
    if given.figure is not None:
        paths = [
            path
            for actor in given.actors
            for path in (
                bench.exemplars(actor) / "01.png",
                *(folders[actor, action] / "0.png" for action in given.actions),
            )
        ]
        sheet = contact_sheet([Image.open(path).convert("RGB") for path in paths], columns=1 + len(given.actions))
        sheet.save(given.figure, optimize=True)
    print(f"{time.perf_counter() - began:.0f} s", {n: results[n] for n in ("customised actors", "known actors")})


if __name__ == "__main__":
    main()
