"""How the package speaks to a person: messages and progress on stderr, so that stdout carries results only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


def is_main_process() -> bool:
    """Whether this is the process that speaks, among those that ``accelerate launch`` started; without torch."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Tell something that is no result; other processes than the main one keep quiet."""
    if is_main_process():
        typer.echo(text, err=True)


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with the time left on stderr; yields a function of (done, total, and the stage where there are several)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not is_main_process()) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int, stage: str = what) -> None:
            if bar.tasks[task].description != stage:
                bar.reset(task, description=stage)  # another stage has another pace
            bar.update(task, completed=done, total=total)

        yield advance
