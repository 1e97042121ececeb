"""Says beforehand what a job will take, by trying: three steps in a folder that is thrown away, or a few of drawing.

Passes are counted, and what a pass takes is measured on this machine with this model, so that no table of machines is
needed. Everything that a job checks before its first step is checked, too.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from twinact.backbones.backbone import Backbone
from twinact.configs import RunConfig
from twinact.console import say
from twinact.jobs.job import Job
from twinact.jobs.models import adopted, default_space
from twinact.jobs.run import preflight, run_job
from twinact.runs.folder import PREVIEW_PROMPTS, RunFolder
from twinact.sample import generate
from twinact.training.start import posed_search_passes, search_passes

_TRIED_STEPS = 3
_BACKWARD = 2  # what a pass back takes, in passes forward


@dataclass(frozen=True)
class Estimate:
    """What something will take.

    Attributes:
        forward: Pictures that the denoiser will see.
        backward: Those of these through which gradients flow.
        seconds: On this machine, while nothing else runs on it.
        memory_bytes: Of the GPU, or of this process where there is none.
        disk_bytes: That will be written.
    """

    forward: int
    backward: int
    seconds: float
    memory_bytes: int
    disk_bytes: int


def estimate_job(job: Job, backbone: Backbone, tell: Callable[[str], None] = say) -> Estimate:
    """What is left of a job; nothing of it is written, and a run in its folder is left as it is.

    Args:
        job: What is to be learned.
        backbone: Its model, open.
        tell: As in `twinact.jobs.run.run_job`.

    Raises:
        TwinactError: As `twinact.jobs.run.run_job`, before the first step.
    """
    seen = preflight(job, tell)
    folder = RunFolder(job.run_dir, job.config.name)
    if folder.done:
        return Estimate(0, 0, 0.0, 0, 0)
    left = job.config.steps - (folder.last_step if seen.begun is not None else 0)
    searched, start = 0, job.config.start
    if job.config.method.takes_space:
        given = None if seen.space is None else adopted(seen.space, backbone, lambda _text: None)
        space = given or default_space(backbone, slots=job.config.slots)
        if start is None:
            start = space.phrases[0]
            posed = job.config.method.takes_pose and space.poses is not None
            if seen.begun is None and posed:
                searched = posed_search_passes(space, job.config)
            elif seen.begun is None and job.config.method.seeks_start:
                searched = search_passes(space, len(seen.photographs.images))
    tried = replace(job.config, steps=min(_TRIED_STEPS, max(1, job.config.steps)), start=start)
    quiet = {**job.run, "tracker": "none", "preview_every": 0, "checkpoint_every": _TRIED_STEPS}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(prefix="twinact-") as place:
        trial = replace(job, config=tried, run_dir=Path(place) / "run", run=quiet)
        run_job(trial, backbone=backbone, tell=lambda text: None)
        records = RunFolder(trial.run_dir, tried.name).log.records()
        written = sum(path.stat().st_size for path in trial.run_dir.rglob("*") if path.is_file())
    forward, backward = records[-1]["forward"], records[-1]["backward"]
    seconds = median(record["seconds"] for record in records[1:] or records)  # the first one also warms up
    one_pass = seconds / max(1, forward + _BACKWARD * backward)
    previews = _preview_passes(backbone, job.run, left)
    return Estimate(
        forward=left * forward + searched + previews,
        backward=left * backward,
        seconds=left * seconds + one_pass * (searched + previews),
        memory_bytes=_memory_bytes(),
        disk_bytes=written,
    )


def estimate_drawing(
    backbone: Backbone, pictures: int, *, vectors: Mapping[str, Any], steps: int, batch_size: int, **options: Any
) -> Estimate:
    """What drawing takes, without the loading of the model.

    Args:
        backbone: The model, open.
        pictures: How many, in all.
        vectors: As for `twinact.sample.generate`.
        steps: Denoising steps.
        batch_size: Pictures at once.
        options: Others of `twinact.sample.generate`.

    Raises:
        TwinactError: As `twinact.sample.generate`.
    """
    at_once = min(batch_size, pictures)
    prompt = " ".join(vectors) or "a picture"

    def drawing(count: int) -> float:
        began = time.perf_counter()
        generate(
            backbone, [prompt] * at_once, vectors, seeds=range(at_once), steps=count, batch_size=at_once, **options
        )
        return time.perf_counter() - began

    drawing(1)  # warms up
    few, more = min(2, steps), min(4, steps)
    first, second = drawing(few), drawing(more)
    step = max(0.0, second - first) / (more - few) if more > few else 0.0
    batches = pictures / at_once
    guidance = options.get("guidance")
    width, height = options.get("size") or (backbone.image_size, backbone.image_size)
    return Estimate(
        forward=pictures * steps * backbone.passes_a_step(backbone.guidance if guidance is None else guidance),
        backward=0,
        seconds=batches * (first + step * (steps - few)),
        memory_bytes=_memory_bytes(),
        disk_bytes=pictures * width * height * 2,  # PNG keeps about two thirds of three bytes a pixel
    )


def _preview_passes(backbone: Backbone, run: Mapping[str, Any], steps: int) -> int:
    """Passes of all previews of so many steps; the first sheet also shows the model without the action."""
    every = run.get("preview_every", RunConfig.preview_every)
    if not every or not steps:
        return 0
    sheets = 2 + -(-steps // every)
    return sheets * len(PREVIEW_PROMPTS) * backbone.steps * backbone.passes_a_step(backbone.guidance)


def _memory_bytes() -> int:
    """The most that was taken of the GPU, else what this process takes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return int(psutil.Process().memory_info().rss)


def in_words(estimate: Estimate) -> str:
    """An estimate in lines for a person."""
    minutes, seconds = divmod(round(estimate.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    told = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    where = "GPU" if torch.cuda.is_available() else "this machine"
    return (
        f"passes  {estimate.forward:,} of the denoiser forward, {estimate.backward:,} back\n"
        f"time    about {told}\n"
        f"memory  about {estimate.memory_bytes / 2**30:.1f} GiB of {where}\n"
        f"disk    about {estimate.disk_bytes / 1e6:.1f} MB"
    )
