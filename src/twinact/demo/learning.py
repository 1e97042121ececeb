"""What the demo learns: the action by two methods, a pose from photographs, and a customised actor."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.bench.actors import actor_config, write_actor_exemplars
from twinact.bench.contestants import settings_of
from twinact.bench.poses import photographed_poses, write_pose_exemplars
from twinact.configs import LearnConfig, RunConfig, TextualInversionConfig, TwinActConfig
from twinact.console import progress
from twinact.demo.config import DemoConfig
from twinact.demo.folder import DemoFolder
from twinact.demo.shots import phrase_action
from twinact.jobs.job import Job
from twinact.jobs.run import run_job
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.storage import ACTION_SUFFIX
from twinact.training.loop import TrainResult

OURS, FREE = TwinActConfig(), TextualInversionConfig()
FREE_RATE = 1e-3
"""Of Textual Inversion, from the phrase that looks most like the exemplars: its best ones; see docs/benchmark.md."""


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        ours, free: The action by TwinAct and by Textual Inversion.
        space: The space of the first one.
        mixed: A phrase as an action of that space.
        photographed: A pose that people took for photographs.
        actor: A customised actor.
        cost: What the action took by each method, in words.
    """

    ours: Action
    free: Action
    space: ActionSpace
    mixed: Action
    photographed: Action
    actor: Action
    cost: Mapping[str, str]


def learn_all(backbone: Backbone, folder: DemoFolder, config: DemoConfig, run: RunConfig) -> Learned:
    """Learn everything, or go on where it was stopped. The exemplars of the action are there already."""
    actions, cost = {}, {}
    look = settings_of("seen phrase", {"name": config.action})
    seen = _learn(backbone, folder, folder.exemplars, look, "seen", "the phrase that looks nearest", run)
    phrase = seen.action.meta["config"]["start"]
    ours = LearnConfig(name=config.action, method=OURS, steps=config.learn_steps)
    free = replace(ours, method=FREE, steps=config.free_steps, start=phrase, learning_rate=FREE_RATE)
    for settings, searched in ((ours, 0), (free, seen.cost.search)):
        method = settings.method
        result = _learn(backbone, folder, folder.exemplars, settings, method.name, method.title, run)
        actions[method.name] = result.action
        spent = searched + result.cost.search + result.cost.forward + 2 * result.cost.backward
        cost[method.name] = f"{spent:,} passes of the denoiser."
    space = ActionSpace.load(folder.run(OURS.name) / SPACE_FILE)
    mixed = phrase_action(config.mixed, space, backbone.token_tables())
    mixed.save(action_file(folder.run(OURS.name), mixed.name))  # for the commands that the report gives

    last = photographed_poses()[config.photographed][-1]
    if not (folder.photographs / last.name).is_file():
        write_pose_exemplars(config.photographed, folder.photographs, backbone.image_size)
    name = re.sub(r"[^a-z]+", "-", config.photographed)[:28].strip("-")
    # The start is near already, and every step takes time of the demo.
    posing = LearnConfig(name=name, method=OURS, steps=config.learn_steps // 4)
    pose = _learn(backbone, folder, folder.photographs, posing, "photographs", "photographs", run)

    if not (folder.actor / "captions.json").is_file():  # written last
        write_actor_exemplars(config.actor, folder.actor, backbone.image_size)
    looks = replace(actor_config(config.actor_steps), name=re.sub(r"[^a-z]+", "-", config.actor))
    actor = _learn(backbone, folder, folder.actor, looks, "actor", f"a {config.actor}", run)
    return Learned(actions[OURS.name], actions[FREE.name], space, mixed, pose.action, actor.action, cost)


def action_file(run: Path, name: str) -> Path:
    """Where a run folder keeps an action."""
    return run / f"{name}{ACTION_SUFFIX}"


def _learn(
    backbone: Backbone, folder: DemoFolder, exemplars: Path, config: LearnConfig, key: str, title: str, run: RunConfig
) -> TrainResult:
    job = Job(exemplars=exemplars, config=config, run_dir=folder.run(key), run=asdict(run))
    with folder.stage(f"learning, {title}"), progress(f"learning {config.name}, {title}") as advance:
        # What is unsaid, and unlike what nano draws, is so on purpose.
        result = run_job(job, backbone=backbone, advance=advance, tell=lambda _text: None)
        advance(config.steps, config.steps)  # a finished run takes no step
    return result
