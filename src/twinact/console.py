"""Writes messages and progress to stderr, so that stdout carries results only."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import typer

_SECONDS_BETWEEN_LINES = 20.0
_quiet = False


def keep_quiet(quiet: bool) -> None:
    """Whether `say` and `progress` of this process write nothing from now on."""
    global _quiet
    _quiet = quiet


def is_main_process() -> bool:
    """Whether this is the process that speaks, among those that ``accelerate launch`` started; without torch."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Write a message that is not a result to stderr; only the main process does, unless it is to keep quiet."""
    if is_main_process() and not _quiet:
        typer.echo(text, err=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar with the time left on stderr; yields a function of (done, total, and the stage where there are several).

    The bar is there from the first call on, so that what fails before is told in one line. Where stderr is no terminal
    a line is written now and then.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    bar = Progress(*columns, console=console, disable=_quiet or not (is_main_process() and console.is_terminal))
    task = bar.add_task(what, total=None)
    began = told = time.monotonic()
    before = 0

    def advance(done: int, total: int, stage: str = what) -> None:
        nonlocal began, told, before
        now = time.monotonic()
        if bar.tasks[task].description != stage:
            bar.reset(task, description=stage)  # another stage has another pace
            began, before = now, done
        bar.update(task, completed=done, total=total)
        bar.start()
        if not console.is_terminal and now - told > _SECONDS_BETWEEN_LINES:
            left = (total - done) * (now - began) / max(done - before, 1)
            say(f"{stage}: {done}/{total}, {timedelta(seconds=round(left))} left")
            told = now

    try:
        yield advance
    finally:
        bar.stop()
