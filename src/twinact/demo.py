"""The demo: one action from five pictures, learned, drawn with others elsewhere, moved, judged, and told on a page.

Everything is kept in one folder. The same call goes on where an earlier one stopped: learning resumes, and a picture
that is there is not drawn again.
"""

import io
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from twinact import __version__
from twinact.action import Action
from twinact.backbones.base import Backbone
from twinact.bench.judges import Judges
from twinact.bench.metrics import score
from twinact.bench.tasks import Ask, best_text, said, true_drawing
from twinact.configs import LearnConfig, RunConfig
from twinact.demo_folder import MARKER, DemoFolder
from twinact.errors import ConfigError
from twinact.exemplars import load_exemplars
from twinact.files import atomic_write_bytes
from twinact.nano import judges_dir
from twinact.nano.recipe import RECIPE
from twinact.phrases import load_phrases
from twinact.plots import map_png, scree_png
from twinact.report import report_html
from twinact.report_data import MethodResult, Picture, ReportData, Seen, Strip
from twinact.shots import (
    Sampler,
    Shot,
    StripPlan,
    adjust_strips,
    combine_strip,
    draw_shots,
    grid_asks,
    phrase_action,
    png_bytes,
    strongest_components,
)
from twinact.space import ActionSpace
from twinact.suited import suited_here
from twinact.terminal import progress, say
from twinact.workflow import SPACE_FILE, action_encoder, learn, open_model
from twinact.world.captions import with_article
from twinact.world.places import PLACES
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, write_exemplars

DEMO_ACTION = "rising-star"
_NAMES = {"twinact": "TwinAct", "textual-inversion": "Textual Inversion"}
_EXPLAINED = 8  # nearest phrases and largest coefficients that the report shows


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo learns and draws.

    Attributes:
        action: Key of `CUSTOM_ACTIONS`.
        toward: Phrase that the action is moved towards.
        combined: Phrase whose action is combined with it.
        learn_steps: Optimiser steps of each learned method.
        draw_steps, guidance: Of the sampler.
        actors, places: Rows and columns of the grids.

    Raises:
        ConfigError: There is no such action.
    """

    action: str = DEMO_ACTION
    toward: str = "raising both arms"
    combined: str = "squatting low"
    learn_steps: int = LearnConfig.steps
    draw_steps: int = Sampler.steps
    guidance: float = Sampler.guidance
    actors: int = 6
    places: int = 4

    def __post_init__(self) -> None:
        if self.action not in CUSTOM_ACTIONS:
            raise ConfigError(f"action {self.action!r} must be one of {', '.join(CUSTOM_ACTIONS)}")


@dataclass(frozen=True)
class _Learned:
    """What the learning stages left: the action, its space, free vectors, and two phrases as actions."""

    ours: Action
    space: ActionSpace
    free: Action
    toward: Action
    combined: Action


def run_demo(out: Path, config: DemoConfig | None = None) -> Path:
    """Run the whole demo on nano, or go on with one that was stopped, or say that it is done.

    Args:
        out: The demo's own folder.
        config: None takes the defaults.

    Returns:
        The report.

    Raises:
        DataError: `out` holds something else, or cannot be written.
        ConfigError: `out` holds a demo with other settings, or of another model or version of the world.
        CheckpointError: The installation has no embedded model.
        KeyboardInterrupt: Stopped; run again to go on.
    """
    config = config or DemoConfig()
    MARKER.read(out)  # refuses a folder that is not ours before anything takes time
    say("opening nano, the embedded model")
    run = RunConfig(precision=suited_here("nano").precision)
    backbone = open_model("nano", run.precision)
    folder = DemoFolder(
        out,
        {**asdict(config), "model": backbone.model_id, "precision": run.precision, "world_version": WORLD_VERSION},
    )
    if folder.report.is_file():
        say(f"this demo is already done: {folder.report}")
        return folder.report
    custom = CUSTOM_ACTIONS[config.action]
    if not (folder.exemplars / "truth.json").is_file():  # written last
        write_exemplars(custom, folder.exemplars, backbone.image_size, RECIPE.places)
    learned = _learn(backbone, folder, config, run)

    asked = grid_asks(custom, config.actors, config.places)
    words = best_text(custom, pairs=True)
    grids = {
        "TwinAct": [Shot(ask.prompt, ask.seed, learned.ours) for ask in asked],
        "words": [Shot(said(ask.prompt, words), ask.seed) for ask in asked],
        "Textual Inversion": [Shot(ask.prompt, ask.seed, learned.free) for ask in asked],
    }
    adjusting = adjust_strips(learned.ours, learned.toward, config.toward, learned.space, asked)
    combining = [combine_strip(learned.ours, learned.combined, config.combined, learned.space, asked)]
    every = [shot for shots in grids.values() for shot in shots]
    every += [shot for plan in (*adjusting, *combining) for row in plan.rows for shot in row]
    with folder.stage("drawing"), progress("drawing pictures") as advance:
        sampler = Sampler(config.draw_steps, config.guidance)
        drawn = dict(zip(every, draw_shots(backbone, every, folder.pictures, sampler, advance), strict=True))
    with folder.stage("judging"):
        judges = Judges.load(judges_dir())
        truths = [true_drawing(ask.asked, ask.seed, backbone.image_size) for ask in asked]
        ceiling = score(judges.judge(truths), [ask.asked for ask in asked])
        how = {
            "TwinAct": f"Vectors in the space of {len(learned.space.phrases)} phrases, learned from the exemplars.",
            "words": f"Nothing is learned. The words nearest to the true pose: “{words}”.",
            "Textual Inversion": "As many free vectors, learned with the same exemplars, steps and seed.",
        }
        methods = tuple(
            judge_method(judges, name, how[name], [drawn[shot] for shot in shots], asked, config.places)
            for name, shots in grids.items()
        )
    say("writing the report")
    headings = {phrase.text: phrase.heading for phrase in load_phrases()}
    data = ReportData(
        name=custom.name,
        shown=tuple(map(with_article, custom.actors)),
        exemplars=_exemplars(folder.exemplars, backbone.image_size),
        explanation=learned.ours.explain(learned.space, _EXPLAINED),
        phrase_count=len(learned.space.phrases),
        map_png=map_png(learned.space, headings, {custom.name: learned.ours}),
        scree_png=scree_png(learned.space),
        actors=tuple(with_article(ask.asked.actor) for ask in asked[:: config.places]),
        places=tuple(PLACES[ask.asked.place].text for ask in asked[: config.places]),
        truths=tuple(
            Picture(png_bytes(truth), f"what is asked for: {with_article(ask.asked.actor)} doing the action")
            for truth, ask in zip(truths[:: config.places], asked[:: config.places], strict=True)
        ),
        methods=methods,
        ceiling=ceiling,
        adjusting=tuple(_strip(plan, drawn) for plan in adjusting),
        combining=tuple(_strip(plan, drawn) for plan in combining),
        settings=_settings(backbone, config, len(set(drawn.values()))),
        seconds=folder.seconds,
        versions={"twinact": __version__}
        | {name: version(name) for name in ("torch", "diffusers", "transformers")}
        | {"python": platform.python_version()},
        commands=_commands(out, config, learned, asked[0]),
    )
    atomic_write_bytes(folder.report, report_html(data).encode())
    for method in methods:
        say(f"{method.name}: action and actor right in {method.scores.joint}")
    say(f"report: {folder.report}")
    return folder.report


def judge_method(
    judges: Judges, name: str, how: str, pngs: Sequence[bytes], asked: Sequence[Ask], columns: int
) -> MethodResult:
    """Judge the pictures of one method, and lay them out.

    Args:
        judges: Of nano.
        name, how: What the report calls the method, and says about it.
        pngs: One picture for each of `asked`.
        asked: Row by row.
        columns: Pictures a row.
    """
    verdicts = judges.judge([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs])
    pictures = []
    for png, verdict, ask in zip(pngs, verdicts, asked, strict=True):
        wanted = ask.asked
        seen = Seen(
            action=wanted.action.holds(verdict.pose),
            actor=verdict.actor == wanted.actor,
            leak=verdict.actor in wanted.leaked_actors,
        )
        who = f"{with_article(wanted.actor)} {PLACES[wanted.place].text}"
        pictures.append(Picture(png, f"{name}: {who}", seen))
    rows = tuple(tuple(pictures[start : start + columns]) for start in range(0, len(pictures), columns))
    return MethodResult(name, how, rows, score(verdicts, [ask.asked for ask in asked]))


def _learn(backbone: Backbone, folder: DemoFolder, config: DemoConfig, run: RunConfig) -> _Learned:
    actions = {}
    for method, title in _NAMES.items():
        settings = LearnConfig(name=config.action, method=method, steps=config.learn_steps)
        with folder.stage(f"learning, {title}"), progress(f"learning {config.action} with {title}") as advance:
            actions[method] = learn(
                folder.exemplars,
                settings,
                folder.run(method),
                backbone=backbone,
                encoder=action_encoder(),
                searching=lambda done, total: advance(done, total, "looking for the nearest phrase"),
                progress=lambda record: advance(record.step, record.steps),
                run=run,
            ).action
            advance(config.learn_steps, config.learn_steps)  # a finished run takes no step
    space = ActionSpace.load(folder.run("twinact") / SPACE_FILE)
    phrases = [phrase_action(text, space, backbone.token_tables()) for text in (config.toward, config.combined)]
    for phrase in phrases:  # for the commands that the report gives
        phrase.save(_action_file(folder.run("twinact"), phrase.name))
    return _Learned(actions["twinact"], space, actions["textual-inversion"], *phrases)


def _action_file(run: Path, name: str) -> Path:
    return run / f"{name}.action.safetensors"


def _exemplars(folder: Path, size: int) -> tuple[tuple[Picture, str], ...]:
    data = load_exemplars(folder, size)
    return tuple(
        (Picture(path.read_bytes(), f"exemplar: {caption}"), caption)
        for path, caption in zip(data.paths, data.captions, strict=True)
    )


def _strip(plan: StripPlan, drawn: Mapping[Shot, bytes]) -> Strip:
    rows = tuple(
        tuple(
            Picture(drawn[shot], f"{plan.title}, {label}: {shot.prompt}")
            for shot, label in zip(row, plan.labels, strict=True)
        )
        for row in plan.rows
    )
    return Strip(plan.title, plan.text, plan.labels, rows)


def _settings(backbone: Backbone, config: DemoConfig, pictures: int) -> dict[str, str]:
    learned = LearnConfig(name=config.action, steps=config.learn_steps)
    free = LearnConfig(name=config.action, method="textual-inversion")
    return {
        "model": backbone.model_id,
        "pictures": f"{pictures} of {backbone.image_size} × {backbone.image_size}",
        "machine": f"{platform.machine()}, {backbone.device.type}, {torch.get_num_threads()} threads",
        "precision": str(backbone.dtype).removeprefix("torch."),
        "learning": f"{learned.steps} steps of {learned.batch_size} pictures, {learned.slots} vectors",
        "learning rates": f"{learned.rate:g}, Textual Inversion {free.rate:g}",
        "similarity weight": f"{learned.similarity_weight:g}",
        "prior weight": f"{learned.prior_weight:g}",
        "seed": str(learned.seed),
        "sampler": f"{type(backbone.pipeline().scheduler).__name__}, {config.draw_steps} steps",
        "guidance": f"{config.guidance:g}",
    }


def _commands(out: Path, config: DemoConfig, learned: _Learned, first: Ask) -> tuple[tuple[str, str], ...]:
    """Command lines with what they do, to be given in the folder that holds the demo's."""
    root = Path(out.resolve().name)  # no path of this machine belongs on the page
    name = config.action
    action, toward, combined = (
        shlex.quote(_action_file(root / "learn-twinact", a.name).as_posix())
        for a in (learned.ours, learned.toward, learned.combined)
    )
    slot, index = strongest_components(learned.ours, learned.space, 1)[0]
    exemplars = shlex.quote((root / "exemplars").as_posix())
    sampling = f"--steps {config.draw_steps} --guidance {config.guidance:g}"
    return (
        ("all of this page, in a new folder", "twinact demo --out another-demo"),
        ("the action alone", f"twinact learn {exemplars} --name {name} --steps {config.learn_steps}"),
        (
            "the first picture of the first grid",
            f"twinact generate {action} --prompt {shlex.quote(first.prompt)} --seed {first.seed} {sampling}",
        ),
        ("along a component", f"twinact adjust {action} --component {slot}:{index} --amount 1.5 --out moved"),
        ("halfway towards a phrase", f"twinact adjust {action} --toward {toward} --amount 0.5 --out halfway"),
        ("two actions together", f"twinact combine {action} {combined} --out both"),
    )
