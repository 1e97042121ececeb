"""``twinact bench``: how well methods learn the custom actions."""

import json
from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.terminal import AsJson, Precision, open_model
from twinact.configs import LearnConfig, RunConfig
from twinact.errors import ConfigError
from twinact.terminal import progress, say

app = typer.Typer(help="Compare methods on the held-out actions.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `custom` a command of its own, although it is the only one."""


@app.command("custom")
def custom(
    out: Annotated[Path, typer.Option("--out", help="Folder for runs, pictures and results.json.")],
    action: Annotated[list[str] | None, typer.Option(help="Only this action; may be given again.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the learned methods.")] = LearnConfig.steps,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice in learning.")] = LearnConfig.seed,
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Learn, draw and judge the custom actions with TwinAct, Textual Inversion and words alone.

    Actions whose names start with "dev-" are for choosing settings; they are only run when named.
    Stopped runs go on when the command is given again with the same settings. Several processes may fill one folder
    with different actions; the command without actions then judges all 24. Half an hour for these on two cores.
    """
    from twinact import workflow
    from twinact.bench.compare import MARKER, compare
    from twinact.bench.judges import Judges
    from twinact.nano import judges_dir
    from twinact.suited import suited_here
    from twinact.world.splits import CUSTOM_ACTIONS, DEV_ACTIONS

    known = CUSTOM_ACTIONS | DEV_ACTIONS
    for name in action or ():
        if name not in known:
            raise ConfigError(f"action {name!r} must be one of {', '.join(known)}")
    MARKER.read(out)  # refuses a folder that is not ours before anything takes time
    run = RunConfig(precision=suited_here("nano", precision).precision)
    backbone = open_model("nano", run.precision)
    with progress("learning and drawing") as advance:
        results = compare(
            backbone,
            workflow.action_encoder("nano"),
            Judges.load(judges_dir()),
            out,
            actions=[known[name] for name in action or CUSTOM_ACTIONS],
            config=LearnConfig(name="bench", steps=steps, seed=seed),
            run=run,
            report=say,
            progress=advance,
        )
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    for method, scores in results["overall"].items():
        parts = (f"{n} {100 * scores[n]['share']:.0f} %" for n in ("joint", "action", "actor", "leak"))
        typer.echo(f"{method}: {', '.join(parts)}")
