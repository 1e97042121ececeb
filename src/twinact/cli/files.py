"""``twinact inspect`` and ``strip``: what files are, who can read them, and what they hold about people."""

import json
from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.options import SCHEMA_VERSION, AsJson
from twinact.cli.outputs import new_file
from twinact.console import say

_PROGRAMS = "comfyui, a1111, forge, invokeai or diffusers"


def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A space, action, export, picture, or the folder of a run or model.")
    ],
    program: Annotated[
        str | None, typer.Option("--for", help=f"Say whether this program will read the file: {_PROGRAMS}.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a file is, what it holds, and whether another program will read it.

    With --for, ends with 1 when the program will not.
    """
    say(f"reading {file}")
    from twinact.export.readable import obstacles
    from twinact.report.inspection import in_words, inspect

    facts = inspect(file)
    against = None if program is None else obstacles(file, program)
    if as_json:
        judged = {} if program is None else {"program": program, "obstacles": against}
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **facts, **judged}, indent=2))
    else:
        for line in in_words(facts):
            typer.echo(line)
        for line in against or ():
            typer.echo(f"{program} does not read it: {line}")
        if against == []:
            typer.echo(f"{program} reads it")
    if against:
        raise typer.Exit(1)


def strip(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An action, an embedding, a LoRA or a picture.")],
    out: Annotated[Path, typer.Option("--out", help="File of the copy.")],
) -> None:
    """Write a copy of a file without what it holds about people. Captions, exemplars, authors, GPS, prompts, paths.

    Tensors keep their bits; pictures keep pixels, colour profile and orientation.
    """
    target = new_file(out)
    say(f"reading {file}")
    from twinact.export.personal import personal
    from twinact.export.personal import strip as strip_file

    held = [] if file.is_dir() else personal(file)
    typer.echo(strip_file(file, target))
    say(f"left out: {', '.join(held)}" if held else "it held nothing about people")
