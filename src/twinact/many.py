"""Many actions at once: a folder of folders, one after another on this machine or on a cluster."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from twinact.backbones.base import Backbone
from twinact.configs import LearnConfig
from twinact.encoders import ActionEncoder
from twinact.errors import OutOfMemory, TwinactError
from twinact.processes import this_process
from twinact.run_report import report_run
from twinact.space import ActionSpace
from twinact.suited import run_config
from twinact.train import StepRecord, TrainResult
from twinact.workflow import action_encoder, learn, open_model

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Job:
    """One action to learn, such that any machine that sees the folders can.

    Attributes:
        exemplars: Folder of pictures.
        config: The settings.
        run_dir: The run's own folder.
        model: See `twinact.workflow.open_model`.
        space: File of the action space; None takes the model's own.
        run: What was said about how to carry it out; see `twinact.suited.run_config`.
    """

    exemplars: Path
    config: LearnConfig
    run_dir: Path
    model: str
    space: Path | None
    run: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a job; a row of the table of results.

    Attributes:
        name: Of the action.
        state: "learned", "already done" or "failed".
        tries: How often it was begun.
        seconds: Of the last try.
        loss: Of the last step, None without one.
        action: File of the action, None when it failed.
        problem: Why it failed, in one line.
        may_pass: Whether another try could succeed: its process died or lacked memory, nothing is wrong with the job.
    """

    name: str
    state: str
    tries: int
    seconds: float
    loss: float | None = None
    action: Path | None = None
    problem: str | None = None
    may_pass: bool = False


def carry_out(job: Job, searching: Callable[[int, int], None] | None = None,
              progress: Callable[[StepRecord], None] | None = None) -> TrainResult:  # fmt: skip
    """Learn the action of a job and write its report; errors as `twinact.workflow.learn`."""
    run = run_config(job.run, job.model, job.config.batch_size, job.run_dir)
    backbone, encoder = _opened(job.model, run.precision, run.memory)
    space = None if job.space is None else ActionSpace.load(job.space)
    result = learn(
        job.exemplars,
        job.config,
        job.run_dir,
        backbone=backbone,
        encoder=encoder,
        space=space,
        searching=searching,
        progress=progress,
        run=run,
    )
    if this_process().is_main:
        report_run(job.run_dir, job.exemplars, result.action)
    return result


def attempt(job: Job, tries: int = 1, advance: Advance | None = None) -> Outcome:
    """Carry out a job and tell how it ended; errors become part of the outcome, a KeyboardInterrupt does not."""
    began = time.monotonic()
    name = job.config.name

    def searching(done: int, total: int) -> None:
        if advance is not None:
            advance(done, total, f"{name}: nearest phrase")

    def progress(record: StepRecord) -> None:
        if advance is not None:
            advance(record.step, record.steps, f"learning {name}")

    try:
        result = carry_out(job, searching, progress)
    except TwinactError as error:
        passing = isinstance(error, OutOfMemory)
        return Outcome(name, "failed", tries, time.monotonic() - began, problem=str(error), may_pass=passing)
    except Exception as error:  # of a driver, a disk, a library: the other actions do not depend on it
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(name, "failed", tries, time.monotonic() - began, problem=told, may_pass=True)
    state = "already done" if result.already_done else "learned"
    loss = result.terms.get("loss")
    return Outcome(name, state, tries, time.monotonic() - began, loss=loss, action=result.action_path)


def learn_here(
    jobs: Iterable[Job], retries: int, *, advance: Advance | None = None, report: Callable[[Outcome], None]
) -> list[Outcome]:
    """Carry out jobs one after another; one that fails does not keep the others from being learned.

    Args:
        jobs: In order.
        retries: Further tries of a job whose failure may pass; each goes on from the last checkpoint.
        advance: Receives progress as (part, whole, stage).
        report: Receives every outcome.
    """
    outcomes = []
    for job in jobs:
        outcome = attempt(job, advance=advance)
        # All processes of a run must agree, and only one of them may have seen why it failed.
        while this_process().any(outcome.may_pass) and outcome.tries <= retries:
            outcome = attempt(job, outcome.tries + 1, advance)
        report(outcome)
        outcomes.append(outcome)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as aligned lines with a heading."""
    rows = [("action", "state", "tries", "seconds", "loss", "file or problem")]
    for one in outcomes:
        loss = "" if one.loss is None else f"{one.loss:.4f}"
        rows.append(
            (one.name, one.state, str(one.tries), f"{one.seconds:.0f}", loss, str(one.action or one.problem or ""))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    padded = [[*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)


@lru_cache(maxsize=1)
def _opened(model: str, precision: str, memory: str) -> tuple[Backbone, ActionEncoder | None]:
    return open_model(model, precision, memory), action_encoder(model)
