"""``twinact learn``: one action from a folder of pictures, or one from each folder in a folder."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinact.cli.actions import tell_nearest
from twinact.cli.options import (
    CLUSTERS,
    SCHEMA_VERSION,
    AsJson,
    DryRun,
    Model,
    check_cluster,
    load_libraries,
    tell_estimates,
    with_settings,
)
from twinact.configs import LearnConfig, RunConfig, check_name
from twinact.console import is_main_process, progress, say
from twinact.data.folder import composed, holds_pictures, visible
from twinact.errors import ConfigError, DataError

if TYPE_CHECKING:
    from twinact.jobs.job import Job, Outcome


@with_settings
def learn(
    exemplars: Annotated[
        Path, typer.Argument(metavar="EXEMPLARS_DIR", help="Folder of pictures of the action, with captions.")
    ],
    *,
    model: Model = "nano",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder, or the folder of run folders for many actions; in runs if not given."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="File of the action space; the model's own if not given.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help=f"Where to learn many actions: {', '.join(CLUSTERS)}; here if not given.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="For many actions: further tries after a crash or a lack of memory.")
    ] = 1,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Learn the action that a folder of pictures shows, or one action from each folder in a folder.

    A run that was stopped goes on when the command is given again. With accelerate launch -m twinact learn ...,
    several GPUs share the pictures of each step.
    """
    settings["precision"] = _agreed_precision(settings["precision"])
    if settings["preview_every"] is None:
        settings["preview_every"] = max(1, settings["steps"] // 4)
    run_names = {one.name for one in fields(RunConfig)}
    given = {name: value for name, value in settings.items() if value is not None}
    run = {name: value for name, value in given.items() if name in run_names}
    RunConfig(**run)
    learned = {name: value for name, value in given.items() if name not in run_names}
    folders = action_folders(exemplars)
    name = learned.pop("name", None)
    if folders and name:
        raise ConfigError(f"name {name!r} is of one action and '{exemplars}' holds {len(folders)}; leave it out")
    check_cluster(cluster, "learn here")
    if cluster is not None and not folders:
        raise ConfigError(f"cluster {cluster!r} is for a folder that holds one folder per action; leave it out")
    names = [action_name(folder) for folder in folders] if folders else [name or action_name(exemplars)]
    configs = [LearnConfig.from_dict({**learned, "name": one}) for one in names]  # before anything is loaded
    say(f"learning {', '.join(names) if len(names) < 4 else f'{len(names)} actions'} on {model}")
    load_libraries()
    from twinact.jobs.job import Job

    if not folders:
        run_dir = out or Path("runs") / configs[0].name
        job = Job(exemplars=exemplars, config=configs[0], run_dir=run_dir, model=model, space=space, run=run)
        if dry_run:
            _try([job], as_json)
        else:
            _learn_one(job, as_json)
        return
    from twinact.backbones import as_folder

    local = as_folder(model)
    jobs = [
        Job(
            exemplars=folder.resolve(),
            config=config,
            run_dir=((out or Path("runs")) / config.name).resolve(),
            model=str(local.resolve()) if local.exists() else model,
            space=None if space is None else space.resolve(),
            run=run,
        )
        for folder, config in zip(folders, configs, strict=True)
    ]
    if space is not None:
        from twinact.space import ActionSpace

        ActionSpace.load(space)  # one that cannot be used is told once, not by every job
    if dry_run:
        _try(jobs, as_json)
    else:
        _learn_many(jobs, cluster, retries, as_json)


def _try(jobs: Sequence["Job"], as_json: bool) -> None:
    """Tell what jobs will take, and write nothing."""
    from twinact.jobs.estimate import estimate_job
    from twinact.jobs.models import open_with_message
    from twinact.jobs.resources import run_config
    from twinact.jobs.run import preflight

    for job in jobs:
        preflight(job)
    run = run_config(jobs[0].run, jobs[0].model, jobs[0].config.batch_size)
    backbone = open_with_message(jobs[0].model, run.precision, run.memory)
    say("trying a few steps")
    tried = [(str(job.run_dir), estimate_job(replace(job, run={**job.run, **asdict(run)}), backbone)) for job in jobs]
    if is_main_process():
        tell_estimates(tried, as_json)


def _learn_one(job: "Job", as_json: bool) -> None:
    from twinact.jobs.run import run_job
    from twinact.report.run_report import REPORT_FILE
    from twinact.space import ActionSpace
    from twinact.space.build import SPACE_FILE

    with progress(f"learning {job.config.name}") as advance:
        result = run_job(job, advance=advance)
    if not is_main_process():
        return
    if result.already_done:
        say("this run is already done")
    say(f"report: {job.run_dir / REPORT_FILE}")
    near = []
    if result.action.coefficients is not None:
        near = tell_nearest(result.action, ActionSpace.load(job.run_dir / SPACE_FILE))
    option = "" if job.model == "nano" else f" --model {shlex.quote(job.model)}"
    say(f'next: twinact generate {shlex.quote(str(result.action_path))}{option} --prompt "a panda <act> in a park"')
    if not as_json:
        typer.echo(result.action_path)
        return
    facts = {
        "schema_version": SCHEMA_VERSION,
        "action": str(result.action_path),
        "name": result.action.name,
        "model": result.action.model_id,
        "steps": job.config.steps,
        "resumed_from": result.resumed_from,
        "already_done": result.already_done,
        "terms": result.terms,
        "cost": asdict(result.cost),
        "nearest": [{"phrase": text, "similarity": round(similarity, 4)} for text, similarity in near],
    }
    typer.echo(json.dumps(facts, indent=2))


def _learn_many(jobs: Sequence["Job"], cluster: str | None, retries: int, as_json: bool) -> None:
    """Carry out jobs and print the table; exit code 1 when one failed."""
    from twinact.jobs.exemplar_pose import given_exemplars
    from twinact.jobs.many import learn_here, table

    for job in jobs if is_main_process() else ():  # before the hours that the others take
        try:
            given_exemplars(job.exemplars)
        except DataError as error:
            say(f"{job.config.name} will fail: {error}")

    def report(outcome: "Outcome") -> None:
        say(f"{outcome.name}: {outcome.state}" + (f" ({outcome.problem})" if outcome.problem else ""))

    if cluster is None:
        with progress("opening the model") as advance:
            outcomes = learn_here(jobs, retries, advance=advance, report=report)
    else:
        from twinact.jobs.cluster import learn_on_ray

        say(f"learning {len(jobs)} actions on the Ray cluster")
        outcomes = learn_on_ray(jobs, retries, report=report)
    if is_main_process():
        rows = [{**asdict(one), "action": one.action and str(one.action)} for one in outcomes]
        for row in rows:
            del row["may_pass"]
        document = {"schema_version": SCHEMA_VERSION, "actions": rows}
        typer.echo(json.dumps(document, indent=2) if as_json else table(outcomes))
    if any(one.state == "failed" for one in outcomes):
        raise typer.Exit(1)


def action_name(folder: Path) -> str:
    """What an action learned from a folder is called unless its name is given.

    Raises:
        ConfigError: The folder's name makes none.
    """
    # A number in front says how often kohya's scripts repeat the pictures.
    name = re.sub(r"^\d+_", "", composed(folder.resolve().name).lower())
    name = re.sub(r"[^a-z0-9_-]+", "-", name)
    try:
        check_name(name)
    except ConfigError as error:
        raise ConfigError(f"folder '{folder}' names its action: {error}; rename it, or give --name") from None
    return name


def action_folders(folder: Path) -> list[Path]:
    """The folders in a folder without pictures; empty when there are pictures in it.

    Raises:
        DataError: There is no such folder.
        ConfigError: Two of them would make actions of the same name.
    """
    if not folder.is_dir():
        raise DataError(f"exemplar folder '{folder}' is not a folder; give one with PNG, JPEG or WEBP pictures")
    entries = [] if holds_pictures(folder) else [entry for entry in visible(folder) if entry.is_dir()]
    names: dict[str, Path] = {}
    for entry in entries:
        other = names.setdefault(action_name(entry), entry)
        if other is not entry:
            raise ConfigError(
                f"folders '{other.name}' and '{entry.name}' both make an action called {action_name(entry)!r}; "
                "rename one"
            )
    return entries


def _agreed_precision(precision: str | None) -> str | None:
    """The precision that is given here or configured for accelerate; the two must not differ."""
    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if configured == "no":
        return precision
    if precision not in (None, configured):
        raise ConfigError(
            f"precision {precision!r} differs from the {configured!r} that accelerate is configured for; "
            f"give --precision {configured}, or accelerate launch --mixed_precision no"
        )
    return configured
