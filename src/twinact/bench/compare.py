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

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.bench.judges import Judges
from twinact.bench.metrics import Scores, Share, score
from twinact.bench.tasks import Ask, asks, best_text, said, true_drawing
from twinact.configs import LearnConfig
from twinact.encoders import ActionEncoder
from twinact.files import atomic_write_bytes
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.workflow import learn
from twinact.world.splits import CUSTOM_ACTIONS, CustomAction, write_exemplars

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
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Learn and draw every action with every method, with equal prompts and seeds, and judge the pictures.

    Pictures and learned actions are kept in `out`; the same call goes on where an earlier one stopped.

    Args:
        backbone, encoder, judges: The embedded model's parts.
        out: Folder for runs, pictures and ``results.json``.
        actions: Custom actions to learn.
        methods: Of `METHODS`.
        config: For both learned methods; `name` and `method` are replaced, everything else is equal.
        actors: Actors per action, none of them in its exemplars.
        steps, guidance: Of the sampler.
        report: Receives lines about progress.

    Returns:
        What ``results.json`` holds: per method the judged shares over all pictures, per kind and per action, and what
        the judges make of true drawings of the same prompts.
    """
    rows: list[dict[str, Any]] = []
    truths: list[Scores] = []
    for action in actions:
        asked = asks(action, RECIPE.actors, RECIPE.places, actors)
        drawn = [true_drawing(ask.asked, ask.seed, backbone.image_size) for ask in asked]
        truths.append(score(judges.judge(drawn), [ask.asked for ask in asked]))
        for method in methods:
            began = time.perf_counter()
            pictures = _pictures(backbone, encoder, out, action, method, asked, config, steps, guidance)
            scores = score(judges.judge(pictures), [ask.asked for ask in asked])
            rows.append({"action": action.name, "kind": action.kind, "method": method, "scores": scores})
            report(f"{action.name} {method}: action {scores.action} joint {scores.joint} "
                   f"({time.perf_counter() - began:.0f} s)")  # fmt: skip
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": backbone.model_id,
        "device": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "config": {k: v for k, v in config.to_dict().items() if k not in ("name", "method")},
        "sampler": {"steps": steps, "guidance": guidance},
        "actors per action": actors,
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


def _pictures(
    backbone: Backbone, encoder: ActionEncoder | None, out: Path, action: CustomAction, method: str,
    asked: Sequence[Ask], config: LearnConfig, steps: int, guidance: float,
) -> list[Image.Image]:  # fmt: skip
    folder = out / method.replace(" ", "-") / action.name / "pictures"
    paths = [folder / f"{index:02d}_{ask.seed}.png" for index, ask in enumerate(asked)]
    if all(path.exists() for path in paths):
        return [_read(path) for path in paths]
    vectors: Mapping[str, Sequence[torch.Tensor]] | None = None
    loras: list[Mapping[str, torch.Tensor]] = []
    words = words_for(action, method)
    prompts = [ask.prompt if words is None else said(ask.prompt, words) for ask in asked]
    if words is None:
        with tempfile.TemporaryDirectory() as exemplars:
            write_exemplars(action, Path(exemplars), backbone.image_size, RECIPE.places)
            settings = replace(config, name=action.name, method=method)
            result = learn(exemplars, settings, folder.parent / "run", backbone=backbone, encoder=encoder)
        vectors = {PLACEHOLDER: result.action.vectors}
        loras = [result.action.lora]
    seeds = [ask.seed for ask in asked]
    pictures = generate(backbone, prompts, vectors, loras=loras, seeds=seeds, steps=steps, guidance=guidance)
    folder.mkdir(parents=True, exist_ok=True)
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    return pictures


def _read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
