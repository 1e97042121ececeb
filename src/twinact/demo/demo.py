"""The demo learns an action from five pictures, draws it elsewhere with other actors, moves it, judges it and reports.

Everything is kept in one folder. The same call goes on where an earlier one stopped: learning resumes, and a picture
that is there is not drawn again.
"""

import io
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import judges_dir
from twinact.bench.metrics import carried_over, score
from twinact.bench.tasks import Ask, best_text, true_drawing
from twinact.configs import LearnConfig, RunConfig
from twinact.console import progress, say
from twinact.data.exemplars import load_exemplars
from twinact.demo.config import DemoConfig
from twinact.demo.folder import MARKER, DemoFolder
from twinact.demo.learning import FREE, FREE_RATE, OURS, Learned, action_file, learn_all
from twinact.demo.report import report_html
from twinact.demo.report_data import MethodResult, Picture, ReportData, Seen, Strip, Taught
from twinact.demo.shots import Sampler, Shot, actor_asks, draw_shots, grid_asks, where_of
from twinact.demo.strips import StripPlan, mixing_strips, slider_strips
from twinact.intent import Meant
from twinact.jobs.models import open_model
from twinact.jobs.resources import choose_resources
from twinact.nano.recipe import RECIPE
from twinact.phrases import headings
from twinact.phrases.wording import said
from twinact.report.plots import map_png, scree_png
from twinact.runs.folder import library_versions
from twinact.sheets import png_bytes
from twinact.storage import atomic_write_bytes
from twinact.world.captions import with_article
from twinact.world.judges.judges import Judges
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, CustomAction, shared_by, write_exemplars
from twinact.world.things import THINGS

_EXPLAINED = 8  # nearest phrases and largest coefficients that the report shows


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
    run = RunConfig(precision=choose_resources("nano").precision)
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
        write_exemplars(custom, folder.exemplars, backbone.image_size, RECIPE.places, shared_by(custom, RECIPE.places))
    learned = learn_all(backbone, folder, config, run)

    asked = grid_asks(custom, config.actors, config.places)
    words = best_text(custom, pairs=True)
    grids = {
        OURS.title: [Shot(ask.prompt, ask.seed, learned.ours) for ask in asked],
        "words": [Shot(said(ask.prompt, words), ask.seed) for ask in asked],
        FREE.title: [Shot(ask.prompt, ask.seed, learned.free) for ask in asked],
    }
    with folder.stage("words for sliders and mixtures"):
        meant = Meant.of(backbone, learned.space)
        adjusting = slider_strips(learned.ours, config.sliders, learned.space, asked, meant)
        mixing = mixing_strips(learned.ours, learned.mixed, config.mixed, learned.space, asked, meant)
    shown = [Shot(ask.prompt, ask.seed, learned.photographed) for ask in asked[config.places - 1 :: config.places]]
    asked_of_actor = actor_asks(custom, config.actor)
    acting = [Shot(ask.prompt, ask.seed, learned.ours, learned.actor) for ask in asked_of_actor]
    every = [shot for shots in grids.values() for shot in shots]
    every += [shot for plan in (*adjusting, *mixing) for row in plan.rows for shot in row]
    every += [*shown, *acting]
    with folder.stage("drawing"), progress("drawing pictures") as advance:
        sampler = Sampler(config.draw_steps, config.guidance)
        drawn = dict(zip(every, draw_shots(backbone, every, folder.pictures, sampler, advance), strict=True))
    with folder.stage("judging"):
        judges = Judges.load(judges_dir())
        truths = [true_drawing(ask.asked, ask.seed, backbone.image_size) for ask in asked]
        ceiling = score(judges.judge(truths), [ask.asked for ask in asked])
        how = {
            OURS.title: f"A point in the space of {len(learned.space.phrases)} phrases, learned from the exemplars' "
            f"limbs. {learned.cost[OURS.name]}",
            "words": f"Nothing is learned. The words nearest to the true pose: “{words}”.",
            FREE.title: "Free vectors, learned by denoising the exemplars from the phrase that looks most like them; "
            f"tuned on other actions. {learned.cost[FREE.name]}",
        }
        methods = tuple(
            judge_method(judges, name, how[name], [drawn[shot] for shot in shots], asked, config.places)
            for name, shots in grids.items()
        )
        acted = judge_method(judges, config.actor, "", [drawn[shot] for shot in acting], asked_of_actor, len(acting))
    say("writing the report")
    data = ReportData(
        name=custom.name,
        shown=tuple(map(with_article, custom.actors)),
        exemplars=_exemplars(folder.exemplars, backbone.image_size),
        explanation=learned.ours.explain(learned.space, _EXPLAINED),
        phrase_count=len(learned.space.phrases),
        map_png=map_png(learned.space, headings(), {custom.name: learned.ours}),
        scree_png=scree_png(learned.space),
        actors=tuple(with_article(ask.asked.actor) for ask in asked[:: config.places]),
        places=tuple(map(where_of, asked[: config.places])),
        unsaid=_unsaid(custom),
        truths=tuple(
            Picture(
                png_bytes(truth, optimize=True), f"what is asked for: {with_article(ask.asked.actor)} doing the action"
            )
            for truth, ask in zip(truths[:: config.places], asked[:: config.places], strict=True)
        ),
        methods=methods,
        ceiling=ceiling,
        adjusting=tuple(_strip(plan, drawn) for plan in adjusting),
        mixing=tuple(_strip(plan, drawn) for plan in mixing),
        taught=(
            Taught(
                "A pose that people took for photographs",
                f"{config.photographed[0].upper()}{config.photographed[1:]}: nano has never seen a photograph. It was "
                "given the limbs of people in public photographs, as a pose network reads them, and nothing else.",
                tuple(_pictures(folder.photographs, "limbs in a photograph")),
                tuple(
                    Picture(drawn[shot], f"the photographed pose: {with_article(ask.asked.actor)}")
                    for shot, ask in zip(shown, asked[config.places - 1 :: config.places], strict=True)
                ),
            ),
            Taught(
                f"A customised actor: {with_article(config.actor)}",
                "Nano has never seen this actor either. Words and a LoRA were learned from these pictures, and do the "
                f"action that was learned above: {acted.scores.joint.successes} of {acted.scores.joint.count} pictures "
                "have both right.",
                tuple(_pictures(folder.actor, with_article(config.actor))),
                acted.pictures[0],
            ),
        ),
        settings=_settings(backbone, config, len(set(drawn.values()))),
        seconds=folder.seconds,
        versions={**library_versions(), "python": platform.python_version()},
        commands=_commands(out, config, learned, asked[0]),
    )
    atomic_write_bytes(folder.report, report_html(data).encode())
    for method in methods:
        say(f"{method.name}: right and nothing carried over in {method.scores.clean}")
    say(f"report: {folder.report}")
    return folder.report


def judge_method(
    judges: Judges, name: str, how: str, pngs: Sequence[bytes], asked: Sequence[Ask], columns: int
) -> MethodResult:
    """Judge the pictures of one method, and lay them out.

    Args:
        judges: Judges of nano.
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
            carried=tuple(name for name, shown in carried_over(verdict, wanted).items() if shown),
        )
        who = f"{with_article(wanted.actor)}, {where_of(ask)}"
        pictures.append(Picture(png, f"{name}: {who}", seen))
    rows = tuple(tuple(pictures[start : start + columns]) for start in range(0, len(pictures), columns))
    return MethodResult(name, how, rows, score(verdicts, [ask.asked for ask in asked]))


def _unsaid(custom: CustomAction) -> str:
    """What all exemplars share, in words."""
    shared = shared_by(custom, RECIPE.places)
    return f"{PLACES[shared.place].text}, {THINGS[shared.thing].words[0]}, {LIGHTS[shared.light].words[0]}"


def _exemplars(folder: Path, size: int) -> tuple[tuple[Picture, str], ...]:
    data = load_exemplars(folder, size)
    return tuple(
        (Picture(path.read_bytes(), f"exemplar: {caption}"), caption)
        for path, caption in zip(data.paths, data.captions, strict=True)
    )


def _pictures(folder: Path, alt: str) -> Iterator[Picture]:
    return (Picture(path.read_bytes(), alt) for path in sorted(folder.glob("*.png")))


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
    learned = LearnConfig(name=config.action, method=OURS.settled(True), steps=config.learn_steps)
    return {
        "model": backbone.model_id,
        "pictures": f"{pictures} of {backbone.image_size} × {backbone.image_size}",
        "machine": f"{platform.machine()}, {backbone.device.type}, {torch.get_num_threads()} threads",
        "precision": str(backbone.dtype).removeprefix("torch."),
        "steps of learning": f"{learned.steps}, {FREE.title} {config.free_steps} of {learned.batch_size} pictures",
        "vectors": str(learned.slots),
        "learning rates": f"{learned.rate:g}, {FREE.title} {FREE_RATE:g}",
        **{
            name.replace("_", " "): f"{value:g}" if isinstance(value, int | float) else value
            for name, value in asdict(learned.method).items()
            if value is not None
        },
        "seed": str(learned.seed),
        "sampler": f"{type(backbone.pipeline().scheduler).__name__}, {config.draw_steps} steps",
        "guidance": f"{config.guidance:g}",
    }


def _commands(out: Path, config: DemoConfig, learned: Learned, first: Ask) -> tuple[tuple[str, str], ...]:
    """Command lines with what they do, to be given in the folder that holds the demo's."""
    root = Path(out.resolve().name)  # no path of this machine belongs on the page
    name = config.action
    action, mixed = (
        shlex.quote(action_file(root / "learn-twinact", a.name).as_posix()) for a in (learned.ours, learned.mixed)
    )
    exemplars = shlex.quote((root / "exemplars").as_posix())
    sampling = f"--steps {config.draw_steps} --guidance {config.guidance:g}"
    return (
        ("all of this page, in a new folder", "twinact demo --out another-demo"),
        ("the action alone", f"twinact learn {exemplars} --name {name} --steps {config.learn_steps}"),
        (
            "the first picture of the first grid",
            f"twinact generate {action} --prompt {shlex.quote(first.prompt)} --seed {first.seed} {sampling}",
        ),
        (
            "a limb elsewhere",
            f"twinact adjust {action} --slider {shlex.quote(config.sliders[0])} --amount 1 --out moved",
        ),
        ("halfway towards a phrase", f"twinact adjust {action} --toward {mixed} --amount 0.5 --out halfway"),
        (
            "two actions together",
            f"twinact combine {action} {mixed} --parts {shlex.quote(f'legs of {learned.mixed.name}')} --out both",
        ),
    )
