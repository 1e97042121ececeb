"""``twinact bench``: tune all methods alike, run them, and report who is ahead and what leaks."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.options import CLUSTERS, AsJson, Precision, check_cluster
from twinact.console import say

app = typer.Typer(
    help="Compare all methods: does the action come through, and does nothing else?", no_args_is_help=True
)

Out = Annotated[Path, typer.Option("--out", help="Folder of the benchmark.")]
PresetName = Annotated[
    str,
    typer.Option(help="smoke (five minutes on two cores), standard (a day), full (weeks), or dev: no test actions."),
]
Model = Annotated[str, typer.Option("--model", help="'nano', or a folder of a model of its world, with its judges.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task; may be given again.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Only this method; may be given again.")]
Cluster = Annotated[str | None, typer.Option(help=f"Where to run: {', '.join(CLUSTERS)}; here if not given.")]


@app.command("tune")
def tune(
    out: Out,
    preset: PresetName = "standard",
    model: Model = "nano",
    method: Methods = None,
    cluster: Cluster = None,
    precision: Precision = None,
) -> None:
    """Look for settings of every method on the dev actions: equally many, by one criterion, all of them kept.

    Goes on where it stopped. Several processes may share the folder.
    """
    _fill(out, preset, "tune", model, None, method, cluster, precision)


@app.command("run")
def run(
    out: Out,
    preset: PresetName = "standard",
    model: Model = "nano",
    task: Tasks = None,
    method: Methods = None,
    cluster: Cluster = None,
    precision: Precision = None,
) -> None:
    """Run every method on the actions of every task, with the settings that tuning has found, else with the defaults.

    Goes on where it stopped. Several processes may share the folder. A run that fails is told and stops no other.
    """
    _fill(out, preset, "run", model, task, method, cluster, precision)


@app.command("report")
def report(out: Out, as_json: AsJson = False) -> None:
    """Write report.html, results.json and table.md from the runs that are there."""
    say("reading the results")
    from twinact.bench.folder import Bench
    from twinact.bench.report import RESULTS, TABLE, write_report

    page = write_report(Bench.load(out))
    say(f"report: {page}")
    typer.echo((out / (RESULTS if as_json else TABLE)).read_text(encoding="utf-8"), nl=False)


def _fill(
    out: Path,
    preset: str,
    stage: str,
    model: str,
    tasks: list[str] | None,
    methods: list[str] | None,
    cluster: str | None,
    precision: str | None,
) -> None:
    check_cluster(cluster, "run here")
    say(f"preparing the benchmark in {out}")
    from twinact.bench.folder import MARKER
    from twinact.bench.presets import PRESETS
    from twinact.bench.stages import fill, fill_on_ray
    from twinact.configs.settings import check_choice

    check_choice("preset", preset, PRESETS)
    MARKER.read(out)  # refuses a folder that is not ours before anything takes time
    how = {"model": model, "precision": precision, "tasks": tasks or (), "contestants": methods or ()}
    if cluster is None:
        fill(out, PRESETS[preset], stage, **how)  # type: ignore[arg-type]
    else:
        fill_on_ray(out, PRESETS[preset], stage, **how)
    following = f"run --preset {preset}" if stage == "tune" else "report"
    say(f"next: twinact bench {following} --out {shlex.quote(str(out))}")
