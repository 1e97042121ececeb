"""Carries out many jobs one after another on this machine; `twinact.jobs.cluster` does the same on a cluster."""

import io
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from rich.console import Console
from rich.table import Table

from twinact.backbones.backbone import Backbone
from twinact.errors import OutOfMemory, TwinactError, first_line
from twinact.jobs.job import Advance, Job, Outcome
from twinact.jobs.models import open_with_message
from twinact.jobs.run import run_job
from twinact.training.processes import this_process


def attempt(job: Job, tries: int = 1, advance: Advance | None = None) -> Outcome:
    """Carry out a job and return how it ended; errors become part of the outcome, a KeyboardInterrupt does not."""
    began = time.monotonic()
    name = job.config.name

    try:
        result = run_job(job, opening=_open_once, advance=advance)
    except TwinactError as error:
        passing = isinstance(error, OutOfMemory)
        return Outcome(name, "failed", tries, time.monotonic() - began, problem=str(error), may_pass=passing)
    except Exception as error:  # of a driver, a disk, a library: the other actions do not depend on it
        told = f"{type(error).__name__}: {first_line(error)}"
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
    rows = Table("action", "state", "tries", "seconds", "loss", "file or problem", box=None, pad_edge=False)
    for one in outcomes:
        loss = "" if one.loss is None else f"{one.loss:.4f}"
        rows.add_row(
            one.name, one.state, str(one.tries), f"{one.seconds:.0f}", loss, str(one.action or one.problem or "")
        )
    # Wide enough for any row: lines that a program reads must not be wrapped.
    console = Console(file=io.StringIO(), width=sum(len(str(one.action or one.problem)) for one in outcomes) + 200)
    with console.capture() as captured:
        console.print(rows, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@lru_cache(maxsize=1)
def _open_once(model: str, precision: str, memory: str) -> Backbone:
    """Jobs often want the same model one after another; it goes by its path, so paths must be absolute."""
    return open_with_message(model, precision, memory)
