"""``twinact learn`` over a folder of folders, here or on a cluster, and the table of what came of it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer

from twinact.cli.terminal import SCHEMA_VERSION
from twinact.configs import LearnConfig, check_name
from twinact.errors import ConfigError, DataError
from twinact.terminal import is_main_process, progress, say

CLUSTERS = ("ray",)


def action_name(folder: Path) -> str:
    """What an action learned from a folder is called unless its name is given.

    Raises:
        ConfigError: The folder's name makes none.
    """
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower())
    try:
        check_name(name)
    except ConfigError as error:
        raise ConfigError(f"folder '{folder}' names its action: {error}; rename it, or give --name") from None
    return name


def action_folders(folder: Path) -> list[Path]:
    """The folders in a folder that holds nothing else; empty when it holds files, as a folder of pictures does.

    Raises:
        DataError: There is no such folder.
        ConfigError: Two of them would make actions of the same name.
    """
    if not folder.is_dir():
        raise DataError(f"exemplar folder '{folder}' is not a folder; give one with PNG, JPEG or WEBP pictures")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if not all(entry.is_dir() for entry in entries):
        return []
    names: dict[str, Path] = {}
    for entry in entries:
        other = names.setdefault(action_name(entry), entry)
        if other is not entry:
            raise ConfigError(
                f"folders '{other.name}' and '{entry.name}' both make an action called {action_name(entry)!r}; "
                "rename one"
            )
    return entries


def learn_many(
    folders: Sequence[Path],
    configs: Sequence[LearnConfig],
    run: Mapping[str, Any],
    out: Path,
    *,
    model: str,
    space: Path | None,
    similarity_given: bool,
    cluster: str | None,
    retries: int,
    as_json: bool,
) -> None:
    """Learn one action per folder into ``out/<name>`` and print the table; exit code 1 when one failed.

    Args:
        folders, configs: Exemplars and settings, one each per action.
        run: What was said about how to carry each out, by the names of `RunConfig`.
        out: Holds the run folders.
        model, space: As in the command line.
        similarity_given: Whether the similarity weight was asked for; if not, models without encoder do without.
        cluster: Of `CLUSTERS`; None learns here.
        retries: See `twinact.many`.
        as_json: Print a JSON document instead of the table.
    """
    from twinact import workflow
    from twinact.many import Job, Outcome, learn_here, table

    if not similarity_given and workflow.action_encoder(model) is None:
        configs = [replace(config, similarity_weight=0.0) for config in configs]
        say("this model has no action encoder: learning without the similarity term")
    local = Path(model).expanduser()
    jobs = [
        Job(
            folder.resolve(),
            config,
            (out / config.name).resolve(),
            str(local.resolve()) if local.is_dir() else model,
            None if space is None else space.resolve(),
            run,
        )
        for folder, config in zip(folders, configs, strict=True)
    ]

    def report(outcome: Outcome) -> None:
        say(f"{outcome.name}: {outcome.state}" + (f" ({outcome.problem})" if outcome.problem else ""))

    if cluster is None:
        with progress("opening the model") as advance:
            outcomes = learn_here(jobs, retries, advance=advance, report=report)
    else:
        from twinact.cluster import learn_on_ray

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
