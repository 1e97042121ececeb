"""Options that mean the same in every command, options made from settings, and opening models."""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from twinact.configs import BUDGETS, MEMORY, METHODS, PRECISIONS, LearnConfig, RunConfig
from twinact.configs.settings import kind
from twinact.console import say
from twinact.errors import ConfigError

if TYPE_CHECKING:
    from twinact.backbones.backbone import Backbone
    from twinact.jobs.estimate import Estimate

SCHEMA_VERSION = 1
"""Version of the JSON that commands print and write into pictures."""

Command = TypeVar("Command", bound=Callable[..., Any])

Model = Annotated[
    str,
    typer.Option(
        "--model", help="'nano', a folder in diffusers layout, a .safetensors file of a model, or a Hugging Face name."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help=f"One of {', '.join(PRECISIONS)}; what suits the machine if not given."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help=f"One of {', '.join(MEMORY)}: less memory and slower, or compiled and faster; or {', '.join(BUDGETS)} GiB "
        "that may be taken; what suits the machine if not given.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Tell passes, time, memory and disk by trying a few steps, and write nothing.")
]
CLUSTERS = ("ray",)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def with_settings(command: Command) -> Command:
    """Gives a command the options of `LearnConfig`, of all methods and of `RunConfig`, in place of its ``**settings``.

    A setting arrives as None when it was not given and has no default that the command line may state: settings of
    methods, and those whose value depends on something else.
    """
    signature = inspect.signature(command)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    offered: dict[str, inspect.Parameter] = {}
    for one in (*fields(LearnConfig), *fields(RunConfig)):
        if one.metadata:
            offered[one.name] = _option(one)
            continue
        method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]
        offered["method"] = _parameter("method", method, next(iter(METHODS)))
        names = {each.name: None for method in METHODS.values() for each in fields(method)}
        offered |= {name: _method_option(name) for name in names}
    taken = {one.name for one in own}
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *(option for name, option in offered.items() if name not in taken)]
    )
    return command


def _option(one: "Field[Any]") -> inspect.Parameter:
    """The option of a setting."""
    facts = one.metadata
    default = None if facts["unset"] or one.default is MISSING else one.default
    note = f"; {facts['unset']} if not given" if facts["unset"] else ""
    return _parameter(one.name, _type(one, _help(one) + note + "."), default)


def _method_option(name: str) -> inspect.Parameter:
    """The option of a setting that some methods have, with the default of each."""
    owners = {method.name: one for method in METHODS.values() for one in fields(method) if one.name == name}
    first = next(iter(owners.values()))
    defaults = {owner: one.metadata["unset"] or _shown(one.default) for owner, one in owners.items()}
    told = "; ".join(f"with {owner}, {default} if not given" for owner, default in defaults.items())
    return _parameter(name, _type(first, f"{_help(first)}; {told}."), None)


def _shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, int | float) else str(default)


def _help(one: "Field[Any]") -> str:
    """What a setting is and may be, without the full stop."""
    text: str = one.metadata["help"].rstrip(".")
    if one.metadata["choices"]:
        return f"One of {', '.join(one.metadata['choices'])}: {text[0].lower()}{text[1:]}"
    bounds = one.metadata["bounds"]
    if bounds is None:
        return text
    return f"{text}, {bounds.low:g} to {bounds.high:g}" if bounds.high <= 10 else text


def _type(one: "Field[Any]", help: str) -> Any:
    # Ranges are checked by the settings themselves, in the same words wherever they come from.
    return Annotated[kind(one) | None, typer.Option(help=help)]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def open_model(model: str, precision: str = "fp32", memory: str = "normal", device: str | None = None) -> "Backbone":
    """`twinact.jobs.models.open_model`, and says so before torch is imported, since both take seconds."""
    say(f"opening model {model}")
    from twinact.jobs import models

    return models.open_model(model, precision, memory, device)


def load_libraries() -> None:
    """Import what takes seconds, and say so first."""
    say("loading torch and diffusers")
    import twinact.backbones.backbone  # noqa: F401 - for the time that it takes


def tell_estimates(estimates: Sequence[tuple[str, "Estimate"]], as_json: bool) -> None:
    """Print what things will take, each with the folder that it would be written into, and their sum."""
    from twinact.jobs.estimate import Estimate, in_words

    names = [one.name for one in fields(Estimate)]
    combine = {name: max if name == "memory_bytes" else sum for name in names}
    whole = Estimate(**{name: combine[name](getattr(one, name) for _, one in estimates) for name in names})
    if as_json:
        folders = [{"folder": folder, **asdict(one)} for folder, one in estimates]
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(whole), "folders": folders}, indent=2))
        return
    typer.echo(in_words(whole))
    for folder, _ in estimates:
        typer.echo(f"into    {folder}")


def check_cluster(cluster: str | None, otherwise: str) -> None:
    """Refuses the name of a cluster that there is not; `otherwise` says what is done without one."""
    if cluster is not None and cluster not in CLUSTERS:
        raise ConfigError(f"cluster {cluster!r} must be one of {', '.join(CLUSTERS)}; leave it out to {otherwise}")


def with_suffix(path: Path, suffix: str) -> Path:
    """`path` with its double suffix, given with or without.

    Raises:
        ConfigError: It names no file.
    """
    if path.name in ("", ".."):
        raise ConfigError(f"output '{path}' is a folder; give the name of a file, which ends in {suffix}")
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)
