"""What all commands share: opening models, and options that mean the same everywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinact.configs import MEMORY, PRECISIONS
from twinact.terminal import say

if TYPE_CHECKING:
    from twinact.backbones.base import Backbone

SCHEMA_VERSION = 1
"""Of the JSON that commands print and write into pictures."""

Model = Annotated[str, typer.Option("--model", help="'nano', a folder in diffusers layout, or a Hugging Face name.")]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help=f"One of {', '.join(PRECISIONS)}; what suits the machine if not given."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help=f"One of {', '.join(MEMORY)}: less memory and slower, or compiled and faster; what suits the machine if "
        "not given.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def open_model(model: str, precision: str = "fp32", memory: str = "normal", device: str | None = None) -> "Backbone":
    """`twinact.workflow.open_model`, and say so, since that takes seconds."""
    say(f"opening model {model}")
    from twinact import workflow

    return workflow.open_model(model, precision, memory, device)


def with_suffix(path: Path, suffix: str) -> Path:
    """`path` with its double suffix, given with or without."""
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)
