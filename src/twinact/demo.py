"""The demo: one action from five pictures, learned, drawn with others elsewhere, moved, judged, and told on a page.

Everything is kept in one folder. The same call goes on where an earlier one stopped: learning resumes, and a picture
that is there is not drawn again.
"""

import hashlib
import io
import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from twinact import __version__
from twinact.action import Action
from twinact.backbones.base import Backbone
from twinact.bench.judges import Judges, Verdict
from twinact.bench.metrics import Asked, Scores, score
from twinact.bench.tasks import Ask, best_text
from twinact.cli.terminal import progress, say
from twinact.configs import LearnConfig
from twinact.errors import ConfigError, DataError
from twinact.exemplars import PLACEHOLDER
from twinact.files import atomic_write_bytes, tensor_hash
from twinact.nano import judges_dir
from twinact.nano.recipe import RECIPE
from twinact.phrases import load_phrases
from twinact.plots import map_png, scree_png
from twinact.report import MethodResult, Picture, ReportData, Seen, Strip, report_html
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.train import TrainResult
from twinact.workflow import SPACE_FILE, action_encoder, learn, open_model
from twinact.world.captions import is_participle, with_article
from twinact.world.draw import draw
from twinact.world.places import PLACES
from twinact.world.pose import Pose
from twinact.world.scene import Scene
from twinact.world.splits import CUSTOM_ACTIONS, CustomAction, exemplar_scenes, write_exemplars

DEMO_ACTION = "signpost"
TOWARD = "arms stretched overhead"
COMBINED = "squatting low"
MARKER = "demo.json"
REPORT = "report.html"
_KIND, _VERSION = "twinact-demo", 1
_BATCH = 8
_SEED = 1000  # of the first picture of the grids


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
    """

    action: str = DEMO_ACTION
    toward: str = TOWARD
    combined: str = COMBINED
    learn_steps: int = LearnConfig.steps
    draw_steps: int = 25
    guidance: float = 4.0
    actors: int = 6
    places: int = 4


@dataclass(frozen=True)
class Shot:
    """One picture to draw: a prompt with the placeholder for `action`, or words alone."""

    prompt: str
    seed: int
    action: Action | None = None


def run_demo(out: Path, config: DemoConfig | None = None) -> Path:
    """Run the whole demo on nano, or go on with one that was stopped, or say that it is done.

    Args:
        out: The demo's own folder.
        config: None takes the defaults.

    Returns:
        The report.

    Raises:
        DataError: `out` holds something else, or cannot be written.
        ConfigError: `out` holds a demo with other settings or of another model.
        CheckpointError: The installation has no embedded model.
        KeyboardInterrupt: Stopped; run again to go on.
    """
    config = config or DemoConfig()
    custom, report = CUSTOM_ACTIONS[config.action], out / REPORT
    _check_folder(out)
    say("opening nano, the embedded model")
    backbone = open_model()
    folder = DemoFolder(out, {**asdict(config), "model": backbone.model_id})
    if report.is_file():
        say(f"this demo is already done: {report}")
        return report

    if not (out / "exemplars" / "truth.json").is_file():  # written last
        write_exemplars(custom, out / "exemplars", backbone.image_size, RECIPE.places)
    learned = {name: _learn(backbone, folder, config, name) for name in ("twinact", "textual-inversion")}
    space = ActionSpace.load(out / "learn-twinact" / SPACE_FILE)
    ours, free = learned["twinact"].action, learned["textual-inversion"].action

    asked = grid_asks(custom, config.actors, config.places)
    words = best_text(custom, pairs=True)
    grids = {
        "TwinAct": [Shot(ask.prompt, ask.seed, ours) for ask in asked],
        "words": [Shot(said(ask.prompt, words), ask.seed) for ask in asked],
        "Textual Inversion": [Shot(ask.prompt, ask.seed, free) for ask in asked],
    }
    adjusting = adjust_strips(ours, space, asked, config)
    combining = [combine_strip(ours, space, asked, config)]
    every = [s for shots in grids.values() for s in shots]
    every += [s for strip in (*adjusting, *combining) for row in strip.rows for s in row]
    with folder.stage("drawing"), progress("drawing pictures") as advance:
        pngs = dict(zip(every, draw_shots(backbone, every, out / "pictures", config, advance), strict=True))

    with folder.stage("judging"):
        judges = Judges.load(judges_dir())
        truths = true_drawings(custom, asked, backbone.image_size)
        methods = tuple(
            _method(name, words, [pngs[shot] for shot in shots], asked, judges, config.places)
            for name, shots in grids.items()
        )
        ceiling = score(judges.judge(truths), [ask.asked for ask in asked])
    with folder.stage("report"):
        headings = {phrase.text: phrase.heading for phrase in load_phrases()}
        data = ReportData(
            name=custom.name,
            shown=tuple(map(with_article, custom.actors)),
            exemplars=_exemplars(out / "exemplars"),
            explanation=ours.explain(space, 8),
            phrase_count=len(space.phrases),
            map_png=map_png(space, headings, {custom.name: ours}),
            scree_png=scree_png(space),
            actors=tuple(with_article(ask.asked.actor) for ask in asked[:: config.places]),
            places=tuple(PLACES[ask.asked.place].text for ask in asked[: config.places]),
            truths=tuple(_truth(truths[i], asked[i]) for i in range(0, len(asked), config.places)),
            methods=methods,
            ceiling=ceiling,
            adjusting=tuple(_strip(plan, pngs) for plan in adjusting),
            combining=tuple(_strip(plan, pngs) for plan in combining),
            settings=_settings(backbone, config, words, len(pngs)),
            seconds=folder.seconds,
            versions={name: version(name) for name in ("torch", "diffusers", "transformers")}
            | {"twinact": __version__, "python": platform.python_version()},
            commands=_commands(out, config, asked, ours),
        )
        atomic_write_bytes(report, report_html(data).encode())
    for method in methods:
        say(f"{method.name}: action and actor right in {method.scores.joint}")
    say(f"report: {report}")
    return report


class DemoFolder:
    """The folder of one demo, with its settings and the seconds that its stages took in ``demo.json``.

    Raises:
        ConfigError: The folder was begun with other settings.
        DataError: It holds something else, or cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = settings
        self.seconds: dict[str, float] = {}
        found = _check_folder(path)
        if found is None:
            self._write()
            return
        self.seconds = dict(found["seconds"])
        before = found["settings"]
        different = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
        if different:
            told = ", ".join(f"{key} was {before.get(key)!r} and is {settings.get(key)!r}" for key in different)
            raise ConfigError(f"demo folder '{path}' was made with other settings: {told}; give a new folder")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds inside to those of the stage, also when it is stopped half-way."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self._write()

    def _write(self) -> None:
        content = {"kind": _KIND, "version": _VERSION, "settings": self._settings, "seconds": self.seconds}
        atomic_write_bytes(self.path / MARKER, (json.dumps(content, indent=2) + "\n").encode())


def _check_folder(path: Path) -> dict[str, Any] | None:
    """What ``demo.json`` says, None for a new or empty folder; DataError for anything else."""
    if path.exists() and not path.is_dir():
        raise DataError(f"demo folder '{path}' is a file; give a new or empty folder")
    if not path.is_dir() or not any(path.iterdir()):
        return None
    try:
        found = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if found["kind"] == _KIND and found["version"] == _VERSION and found.keys() >= {"settings", "seconds"}:
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"demo folder '{path}' is not empty and holds no demo of twinact; give a new or empty folder")


def grid_asks(custom: CustomAction, actors: int, places: int) -> list[Ask]:
    """Prompts for every pair of an actor and a place, row by row; only actors that the exemplars do not show.

    Places that the exemplars do not show come first.
    """
    others = [actor for actor in RECIPE.actors if actor not in custom.actors]
    chosen = [others[i * len(others) // actors] for i in range(actors)]
    shown = {scene.place for scene in exemplar_scenes(custom, RECIPE.places)}
    where = sorted(RECIPE.places, key=lambda place: place in shown)[:places]
    return [
        Ask(
            f"{with_article(actor)} {PLACEHOLDER} {PLACES[place].text}",
            _SEED + index,
            Asked(custom.pose, actor, place, custom.actors),
        )
        for index, (actor, place) in enumerate((actor, place) for actor in chosen for place in where)
    ]


def said(prompt: str, words: str) -> str:
    """A prompt with words for the action, joined to the actor as people do: "a fox jumping", "a fox with arms up"."""
    return prompt.replace(PLACEHOLDER, words if is_participle(words) else f"with {words}")


def draw_shots(
    backbone: Backbone,
    shots: Sequence[Shot],
    folder: Path,
    config: DemoConfig,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[bytes]:
    """PNG files of all shots, drawn once and kept in `folder` under names that follow from what decides them."""
    paths = [folder / f"{_key(backbone, shot, config)}.png" for shot in shots]
    todo = {path: shot for path, shot in zip(paths, shots, strict=True) if not path.is_file()}
    done = 0
    for alone in (True, False):  # a prompt without placeholder may not be drawn together with vectors
        missing = [(path, shot) for path, shot in todo.items() if (shot.action is None) == alone]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            advance(done, len(todo))
            for (path, _), image in zip(batch, _draw(backbone, [shot for _, shot in batch], config), strict=True):
                atomic_write_bytes(path, _png(image))
            done += len(batch)
            advance(done, len(todo))
    return [path.read_bytes() for path in paths]


def _draw(backbone: Backbone, shots: Sequence[Shot], config: DemoConfig) -> list[Image.Image]:
    """One batch; every action has a placeholder of its own, so that different ones are drawn together."""
    prompts = [shot.prompt.replace(PLACEHOLDER, f"<act{i}>") for i, shot in enumerate(shots)]
    vectors = {f"<act{i}>": shot.action.vectors for i, shot in enumerate(shots) if shot.action is not None}
    return generate(
        backbone,
        prompts,
        vectors,
        seeds=[shot.seed for shot in shots],
        steps=config.draw_steps,
        guidance=config.guidance,
        batch_size=_BATCH,
    )


def _key(backbone: Backbone, shot: Shot, config: DemoConfig) -> str:
    vectors = "" if shot.action is None else tensor_hash({str(i): v for i, v in enumerate(shot.action.vectors)})
    facts = [backbone.model_id, shot.prompt, shot.seed, vectors, config.draw_steps, config.guidance]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
