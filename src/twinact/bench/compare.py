"""The comparison on the custom actions: learned in the action space, plain textual inversion, and words alone."""

import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.begun import Marker
from twinact.bench.judges import Judges
from twinact.bench.metrics import Scores, Share, score
from twinact.bench.tasks import Ask, asks, best_text, said, true_drawing
from twinact.configs import LearnConfig, RunConfig
from twinact.encoders import ActionEncoder
from twinact.files import atomic_write_bytes, tensor_hash
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.shots import png_bytes
from twinact.workflow import learn
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, CustomAction, write_exemplars

MARKER = Marker("bench.json", "bench")
METHODS = ("twinact", "textual-inversion", "one phrase", "two phrases")
_LEARNED = ("twinact", "textual-inversion")


def compare(
    backbone: Backbone,
    encoder: ActionEncoder | None,
    judges: Judges,
    out: Path,
    *,
    actions: Sequence[CustomAction] = tuple(CUSTOM_ACTIONS.values()),
    methods: Sequence[str] = METHODS,
    config: LearnConfig,
    actors: int = 10,
    steps: int = 25,
    guidance: float = RECIPE.guidance,
    run: RunConfig | None = None,
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Learn and draw every action with every method, with equal prompts and seeds, and judge the pictures.

    Pictures and learned actions are kept in `out`; the same call goes on where an earlier one stopped, and several may
    fill one folder at once with different actions. Judging is done anew in every call.

    Args:
        backbone, encoder, judges: The embedded model's parts.
        out: Folder for runs, pictures and ``results.json``; new, empty, or begun with the same model, config, sampler
            and actors. Actions and methods may differ.
        actions: Custom actions to learn.
        methods: Of `METHODS`.
        config: For both learned methods; `name` and `method` are replaced, everything else is equal.
        actors: Actors per action, none of them in its exemplars.
        steps, guidance: Of the sampler.
        run: How learning is carried out; None takes the defaults.
        report: Receives a line about every action and method.
        progress: Called with the steps and pictures that are done, and the number that this call has to do.

    Returns:
        What ``results.json`` holds: per method the judged shares over all pictures, per kind and per action, and what
        the judges make of true drawings of the same prompts.

    Raises:
        ConfigError: `out` was begun with other settings; the message names those that differ.
        DataError: It holds something else, or cannot be written.
    """
    run = run or RunConfig()
    settings = {
        "model": backbone.model_id,
        "precision": run.precision,
        "weights": _fingerprint(*backbone.pipeline().components.values(), encoder),
        "world_version": WORLD_VERSION,
        "config": {k: v for k, v in config.to_dict().items() if k not in ("name", "method")},
        "sampler": {"steps": steps, "guidance": guidance},
        "actors per action": actors,
    }
    MARKER.begin(out, settings)
    plan = {action: asks(action, RECIPE.actors, RECIPE.places, actors) for action in actions}
    work = {
        (action.name, method): len(asked) + config.steps * (method in _LEARNED)
        for action, asked in plan.items()
        for method in methods
        if not _drawn(out, action, method, asked)
    }
    finished, whole = 0, sum(work.values())
    rows: list[dict[str, Any]] = []
    truths: list[Scores] = []
    for action, asked in plan.items():
        drawn = [true_drawing(ask.asked, ask.seed, backbone.image_size) for ask in asked]
        truths.append(score(judges.judge(drawn), [ask.asked for ask in asked]))
        for method in methods:
            began = time.perf_counter()

            def advance(done: int, before: int = finished) -> None:
                if progress is not None:
                    progress(before + done, whole)

            pictures = _pictures(backbone, encoder, out, action, method, asked, config, steps, guidance, run, advance)
            finished += work.get((action.name, method), 0)
            scores = score(judges.judge(pictures), [ask.asked for ask in asked])
            rows.append({"action": action.name, "kind": action.kind, "method": method, "scores": scores})
            report(f"{action.name} {method}: action {scores.action} joint {scores.joint} "
                   f"({time.perf_counter() - began:.0f} s)")  # fmt: skip
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        **settings,
        "judges": _fingerprint(judges),
        "device": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "overall": {m: summary([r["scores"] for r in rows if r["method"] == m]) for m in methods},
        "true drawings": summary(truths),
        "by kind": {
            kind: {m: summary([r["scores"] for r in rows if r["method"] == m and r["kind"] == kind]) for m in methods}
            for kind in dict.fromkeys(action.kind for action in actions)
        },
        "by action": [{**row, "scores": summary([row["scores"]])} for row in rows],
    }
    atomic_write_bytes(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    return results


def summary(scores: Sequence[Scores]) -> dict[str, Any]:
    """Shares pooled over actions, each with its Wilson 95 % interval."""
    pooled: dict[str, Any] = {}
    for name in ("joint", "action", "actor", "place", "leak"):
        shares: list[Share] = [getattr(s, name) for s in scores]
        pooled[name] = Share(sum(s.successes for s in shares), sum(s.count for s in shares)).as_json()
    pooled["angles within tolerance"] = round(sum(s.near for s in scores) / len(scores), 4)
    pooled["pictures"] = sum(s.joint.count for s in scores)
    return pooled


def words_for(action: CustomAction, method: str) -> str | None:
    """What a text-only method writes instead of the placeholder; None for a learned one."""
    return None if method in _LEARNED else best_text(action, pairs=method == "two phrases")


def _fingerprint(*parts: Any) -> str:
    """8 hex digits that tell weights apart; what is no module has none."""
    modules = {str(index): part for index, part in enumerate(parts) if isinstance(part, nn.Module)}
    weights = {f"{i}.{name}": tensor for i, module in modules.items() for name, tensor in module.state_dict().items()}
    return tensor_hash(weights)[:8]


def _paths(out: Path, action: CustomAction, method: str, asked: Sequence[Ask]) -> list[Path]:
    folder = out / method.replace(" ", "-") / action.name / "pictures"
    return [folder / f"{index:02d}_{ask.seed}.png" for index, ask in enumerate(asked)]


def _drawn(out: Path, action: CustomAction, method: str, asked: Sequence[Ask]) -> bool:
    return all(path.exists() for path in _paths(out, action, method, asked))


def _pictures(
    backbone: Backbone, encoder: ActionEncoder | None, out: Path, action: CustomAction, method: str,
    asked: Sequence[Ask], config: LearnConfig, steps: int, guidance: float, run: RunConfig,
    advance: Callable[[int], None],
) -> list[Image.Image]:  # fmt: skip
    paths = _paths(out, action, method, asked)
    if _drawn(out, action, method, asked):
        return [_read(path) for path in paths]
    vectors: Mapping[str, Sequence[torch.Tensor]] | None = None
    loras: list[Mapping[str, torch.Tensor]] = []
    words = words_for(action, method)
    prompts = [ask.prompt if words is None else said(ask.prompt, words) for ask in asked]
    if words is None:
        with tempfile.TemporaryDirectory() as exemplars:
            write_exemplars(action, Path(exemplars), backbone.image_size, RECIPE.places)
            result = learn(
                exemplars,
                replace(config, name=action.name, method=method),
                paths[0].parent.with_name("run"),
                backbone=backbone,
                encoder=encoder,
                progress=lambda record: advance(record.step),
                run=run,
            )
        vectors = {PLACEHOLDER: result.action.vectors}
        loras = [result.action.lora]
    learned = config.steps if words is None else 0
    pictures = generate(
        backbone, prompts, vectors, loras=loras, seeds=[ask.seed for ask in asked], steps=steps, guidance=guidance,
        progress=lambda done, _total: advance(learned + done),
    )  # fmt: skip
    for path, picture in zip(paths, pictures, strict=True):
        atomic_write_bytes(path, png_bytes(picture))
    return pictures


def _read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
