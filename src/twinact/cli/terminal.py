"""What all commands share: how they speak, how they show progress, and options that mean the same everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from twinact.backbones.base import Backbone

SCHEMA_VERSION = 1
"""Of the JSON that commands print and write into pictures."""

Model = Annotated[str, typer.Option("--model", help="'nano', a folder in diffusers layout, or a Hugging Face name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def say(text: str) -> None:
    """Tell something that is no result."""
    typer.echo(text, err=True)


def open_model(model: str) -> "Backbone":
    """Open a model and say so, since that takes seconds."""
    say(f"opening model {model}")
    from twinact import workflow

    return workflow.open_model(model)


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with the time left on stderr; yields a function of (done, total)."""
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def with_suffix(path: Path, suffix: str) -> Path:
    """`path` with its double suffix, given with or without."""
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)
