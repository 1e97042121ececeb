"""Carries out one run: a contestant learns an action, draws it, and the metric of the task measures the pictures."""

import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import twinact
from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.bench.contestants import AUTOENCODED, CONTESTANTS, settings_of
from twinact.bench.contracts import Metric, Row, Task
from twinact.bench.folder import PICTURES, RESULT, Bench
from twinact.bench.kinds import TASKS
from twinact.bench.memory import peak_bytes, reset_peak
from twinact.bench.plan import Run
from twinact.bench.scores import FAILED, Result
from twinact.bench.world import TRUE
from twinact.configs import LearnConfig, RunConfig
from twinact.errors import ConfigError, first_line
from twinact.intent.prompts import ACTORS, PLACES
from twinact.jobs.job import Job
from twinact.jobs.run import run_job
from twinact.nano.calibrate import round_trip
from twinact.readers import load_action_encoder
from twinact.runs.folder import RunFolder, library_versions
from twinact.runs.marker import Marker
from twinact.sample import generate
from twinact.sheets import contact_sheet, png_bytes
from twinact.storage import atomic_write_bytes, tensor_hash
from twinact.training.loop import TrainResult
from twinact.world.judges.judges import Judges
from twinact.world.scene import WORLD_VERSION

VERSION = 1
_DONE, _LEARNED = "done", "run"
_COST = Marker("cost.json", "cost")
# Prompts without the action, by which it is seen whether a method changed the rest of the model.
_PLAIN = tuple(f"{actor} {place}" for actor, place in zip(ACTORS[6:10], PLACES, strict=False))


@dataclass(frozen=True)
class Drawn:
    """The pictures of a run, and what they took.

    Attributes:
        pictures: One for each request.
        config: What was learned with; None where nothing was.
        cost: Passes of learning, by `twinact.runs.folder.Cost`.
        seconds: Of learning.
        size: Bytes of the action's file.
        drift: Mean change of pictures whose prompts say nothing of the action, in [0, 1].
        peak: Most bytes that the process, or the GPU, held at once while it learned; None where nobody can tell.
    """

    pictures: Sequence[Image.Image]
    config: LearnConfig | None = None
    cost: Mapping[str, int] | None = None
    seconds: float = 0.0
    size: int = 0
    drift: float | None = None
    peak: int | None = None

    @property
    def passes(self) -> int:
        """Passes of the denoiser; one backwards counts as two."""
        return 0 if self.cost is None else self.cost["search"] + self.cost["forward"] + 2 * self.cost["backward"]


class Runner:
    """Carries out runs on one model.

    Args:
        backbone: The model.
        judges: What the metrics are made from.
        run: How learning is carried out.
    """

    def __init__(self, backbone: Backbone, judges: Judges, run: RunConfig | None = None) -> None:
        self._backbone, self._judges, self._run = backbone, judges, run or RunConfig()

    def settings(self) -> dict[str, Any]:
        """What decides results besides a preset, as JSON."""
        backbone = self._backbone
        reader = None if backbone.folder is None else load_action_encoder(backbone.folder)
        return {
            "model": backbone.model_id,
            "weights": _fingerprint(*backbone.pipeline().components.values(), reader),
            "judges": _fingerprint(self._judges),
            "world_version": WORLD_VERSION,
            "precision": self._run.precision,
            "guidance": backbone.guidance,
        }

    def carry_out(self, bench: Bench, run: Run) -> Result:
        """Run, and write the result; an error is a result, too.

        Raises:
            KeyboardInterrupt: Stopped; it is to be carried out again.
            DataError: The folder cannot be written.
        """
        folder, began = bench.path(run), time.perf_counter()
        shutil.rmtree(folder / _LEARNED, ignore_errors=True)  # of a process that was killed
        facts = {
            "version": VERSION, "run": run.to_dict(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": code_version(), "versions": library_versions(), "device": _device(self._backbone),
        }  # fmt: skip
        try:
            task = TASKS[run.task].make(run.action, bench.preset.pictures)
            drawn = self._draw(bench, run, task)
            rows = self._metric(run.task).measure(drawn.pictures, task)
        except Exception as error:  # whatever it is, the other runs do not depend on it
            told = f"{type(error).__name__}: {first_line(error)}"
            seconds = round(time.perf_counter() - began, 2)
            result = Result(facts | {"status": FAILED, "error": told, "passes": 0, "seconds": seconds, "pictures": []})
        else:
            sheet = contact_sheet(drawn.pictures, columns=len(drawn.pictures))
            atomic_write_bytes(folder / PICTURES, png_bytes(sheet, optimize=True))
            result = Result(facts | {
                "status": _DONE, "error": None, "config": None if drawn.config is None else drawn.config.to_dict(),
                "cost": drawn.cost, "passes": drawn.passes, "seconds": round(drawn.seconds, 2), "peak": drawn.peak,
                "bytes": drawn.size, "drift": drawn.drift, "pictures": [_rounded(row) for row in rows],
            })  # fmt: skip
        atomic_write_bytes(folder / RESULT, (json.dumps(result, indent=1) + "\n").encode())
        shutil.rmtree(folder / _LEARNED, ignore_errors=True)  # settings and seed make it again
        return result

    @cache  # noqa: B019 - a runner lives as long as its process
    def _metric(self, kind: str) -> Metric:
        return TASKS[kind].metric(self._judges)

    def _draw(self, bench: Bench, run: Run, task: Task) -> Drawn:
        name = run.contestant
        if name == AUTOENCODED:
            spoilt = round_trip(self._backbone)(task.drawings[TRUE](self._backbone.image_size))
            return Drawn([Image.fromarray(np.asarray(one)) for one in spoilt])
        if name in task.drawings:
            return Drawn(task.drawings[name](self._backbone.image_size))
        if not CONTESTANTS[name].learns:
            return Drawn(self._pictures(bench, task.words[name], [one.seed for one in task.requests]))
        return self._learn_and_draw(bench, run, task)

    def _learn_and_draw(self, bench: Bench, run: Run, task: Task) -> Drawn:
        with tempfile.TemporaryDirectory() as exemplars:
            task.write_exemplars(Path(exemplars), self._backbone.image_size)
            start, searched = self._start(run, Path(exemplars))
            more = {**run.settings, **start, "seed": run.seed}
            if run.passes is not None:
                more["steps"] = self._steps(bench, run, run.passes - searched, more, Path(exemplars))
            config = settings_of(run.contestant, more)
            reset_peak(self._backbone.device)
            began = time.perf_counter()
            learned = self._learned(Path(exemplars), config, bench.path(run) / _LEARNED)
            seconds, peak = time.perf_counter() - began, peak_bytes(self._backbone.device)
        action, prompts = learned.action, [one.prompt for one in task.requests]
        pictures = self._pictures(bench, prompts, [one.seed for one in task.requests], action)
        cost = asdict(learned.cost) | {"search": learned.cost.search + searched}
        return Drawn(
            pictures, config, cost, seconds, learned.action_path.stat().st_size,
            self._drift(bench, action), peak,
        )  # fmt: skip

    def _learned(self, exemplars: Path, config: LearnConfig, folder: Path) -> TrainResult:
        job = Job(exemplars=exemplars, config=config, run_dir=folder, run=asdict(self._run))
        return run_job(job, backbone=self._backbone, tell=lambda text: None)

    def _start(self, run: Run, exemplars: Path) -> tuple[dict[str, Any], int]:
        """The starting phrase of a contestant that takes it from another one, as a setting, and the passes it took."""
        other = CONTESTANTS[run.contestant].start
        if other is None:
            return {}, 0
        with tempfile.TemporaryDirectory() as scratch:
            found = self._learned(exemplars, settings_of(other, {}), Path(scratch) / "run")
        return {"start": found.action.meta["config"]["start"]}, found.cost.search

    def _steps(self, bench: Bench, run: Run, passes: int, more: Mapping[str, Any], exemplars: Path) -> int:
        """As many steps of a run as fit into the passes that are left, seen from what two steps take; that is kept.

        Raises:
            ConfigError: Not even one does.
        """
        two = settings_of(run.contestant, {**more, "steps": 2, "seed": 0})
        shared = {**two.to_dict(), "task": run.task, "start": None}  # which phrase it is costs nothing
        digits = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]
        folder = bench.folder / "cost" / digits
        kept = _COST.read(folder)
        if kept is None:
            with tempfile.TemporaryDirectory() as scratch:
                cost = self._learned(exemplars, two, Path(scratch) / "run").cost
                records = RunFolder(Path(scratch) / "run", two.name).log.records()
            first, each = (one["forward"] + 2 * one["backward"] for one in records)
            kept = _COST.write(folder, {"first": cost.search + first, "each": each})
        first, each = kept["settings"]["first"], kept["settings"]["each"]
        if first > passes:
            raise ConfigError(f"{passes} passes are too few for {run.contestant!r}: its first step takes {first}")
        return 1 + (passes - first) // max(each, 1)

    def _pictures(
        self, bench: Bench, prompts: Sequence[str], seeds: Sequence[int], action: Action | None = None
    ) -> list[Image.Image]:
        vectors: Mapping[str, Sequence[Tensor]] | None = None if action is None else {PLACEHOLDER: action.vectors}
        loras = [] if action is None else [action.lora]
        return generate(self._backbone, prompts, vectors, loras=loras, seeds=seeds, steps=bench.preset.sampler_steps)

    def _drift(self, bench: Bench, action: Action) -> float:
        """Zero without looking where only token vectors were learned: other prompts do not meet them."""
        if not action.lora:
            return 0.0
        steps = bench.preset.sampler_steps
        pairs = zip(self._plain(steps, action.lora), self._without_lora(steps), strict=True)
        changes = [np.abs(np.asarray(one, float) - np.asarray(other, float)) for one, other in pairs]
        return round(float(np.mean(changes)) / 255, 6)

    @cache  # noqa: B019 - as above
    def _without_lora(self, steps: int) -> list[Image.Image]:
        return self._plain(steps)

    def _plain(self, steps: int, *loras: Mapping[str, Tensor]) -> list[Image.Image]:
        return generate(self._backbone, _PLAIN, loras=loras, seeds=range(len(_PLAIN)), steps=steps)


@cache
def code_version() -> str:
    """The version of twinact, and 8 hex digits over its source."""
    digest = hashlib.sha256()
    root = Path(twinact.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{twinact.__version__}+{digest.hexdigest()[:8]}"


def _rounded(row: Row) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in row.items()}


def _device(backbone: Backbone) -> str:
    if backbone.device.type == "cuda":
        return torch.cuda.get_device_name(backbone.device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def _fingerprint(*parts: Any) -> str:
    """8 hex digits that tell weights apart; what is no module has none."""
    modules = {str(index): part for index, part in enumerate(parts) if isinstance(part, nn.Module)}
    weights = {f"{i}.{name}": tensor for i, module in modules.items() for name, tensor in module.state_dict().items()}
    return tensor_hash(weights)[:8]
