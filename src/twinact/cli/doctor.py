"""``twinact doctor``: whether twinact runs on this machine, and what to do if not."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.options import SCHEMA_VERSION, AsJson
from twinact.console import say

_MARKS = {"fine": "ok", "missing": "--", "broken": "!!"}


def doctor(
    out: Annotated[Path, typer.Option("--out", help="Folder where runs would be written.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Look at this machine: hardware, libraries, models, readers, disk, and which models fit.

    Ends with 1 when something is broken. What is told names neither users nor folders, so that it can go into a bug
    report as it is.
    """
    say("looking at this machine")
    from twinact.jobs.doctor import BROKEN, examine

    group, broken, findings = "", 0, []
    for finding in examine(out, say):
        broken += finding.state == BROKEN
        findings.append(asdict(finding))
        if as_json:
            continue
        if finding.group != group:
            group = finding.group
            typer.echo(group)
        typer.echo(f"  {_MARKS[finding.state]}  {finding.name}: {finding.told}")
        if finding.advice:
            typer.echo(f"      {finding.advice}")
    if as_json:
        typer.echo(
            json.dumps({"schema_version": SCHEMA_VERSION, "healthy": not broken, "findings": findings}, indent=2)
        )
    if broken:
        say(f"{broken} of {len(findings)} things are broken: see the lines with {_MARKS[BROKEN]}")
        raise typer.Exit(1)
    say("nothing is broken")
