"""What all commands have: an example in their help, `--json`, `--quiet`, `--print-config`, and options set elsewhere.

An option takes its value from the command line, else from the environment, else from ``twinact.toml`` in the current
folder, else from the user's own file of that name. In the environment, ``--batch-size`` of ``twinact learn`` is
``TWINACT_LEARN_BATCH_SIZE``, or ``TWINACT_BATCH_SIZE`` for every command that has it; in files it is ``batch_size``
under ``[learn]``, or above all tables. Arguments without a name are given on the command line alone.
"""

import inspect
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from twinact import console
from twinact.cli.examples import EXAMPLES
from twinact.cli.options import SCHEMA_VERSION
from twinact.configs.settings import unknown_setting
from twinact.errors import ConfigError, DataError
from twinact.storage import read_file

CONFIG_FILE = "twinact.toml"
_MAX_BYTES = 1_000_000
_COMMON = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")],
    "print_config": Annotated[
        bool, typer.Option("--print-config", help="Print every option, its value and where that comes from, and stop.")
    ],
}
# Of commands that print the files that they wrote and have no document of their own.
_JSON = Annotated[bool, typer.Option("--json", help="Print the files that were written as one JSON document.")]
_NOT_SET_OUTSIDE = {"help", "print_config"}
Layer = tuple[str, dict[str, Any]]
"""Where options were set, in words, and their values by their names."""


class Command(TyperCommand):
    """A command whose options may be set outside the command line."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        unset = extra.get("resilient_parsing") or {"-h", "--help"} & set(args)  # help comes whatever the files say
        if parent is None or parent.resilient_parsing or unset:
            return super().make_context(info_name, args, parent, **extra)
        path = (*parent.command_path.split()[1:], str(info_name))
        layers = [*_of_environment(path, self), *_of_files(path, self, parent.find_root().command)]
        values: dict[str, Any] = {}
        for _, own in reversed(layers):
            values |= own
        context = super().make_context(info_name, args, parent, default_map=values, **extra)
        context.meta["layers"] = layers
        return context

    def invoke(self, ctx: Any) -> Any:
        console.keep_quiet(ctx.params["quiet"])
        if ctx.params["print_config"]:
            for line in _configuration(self, ctx):
                typer.echo(line)
            return None
        if not ctx.params.get("files_as_json"):
            return super().invoke(ctx)
        lines = io.StringIO()
        with redirect_stdout(lines):
            result = super().invoke(ctx)
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "files": lines.getvalue().splitlines()}, indent=2))
        return result


def equip(app: typer.Typer, path: tuple[str, ...] = ()) -> None:
    """Make every command of an app, and of those below it, a `Command` with its examples."""
    for one in app.registered_commands:
        assert one.callback is not None
        name = one.name or one.callback.__name__
        examples = EXAMPLES.get(" ".join((*path, name)), ())
        one.cls = Command
        one.callback = _with_common(one.callback)
        one.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
    for group in app.registered_groups:
        if group.typer_instance is not None and group.name is not None:
            equip(group.typer_instance, (*path, group.name))


def _with_common(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose signature also has what all commands take and `Command.invoke` acts on."""
    signature = inspect.signature(callback)

    @wraps(callback)
    def called(*args: Any, **options: Any) -> Any:
        return callback(*args, **{name: value for name, value in options.items() if name not in common})

    common = _COMMON if "as_json" in signature.parameters else {"files_as_json": _JSON, **_COMMON}
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=False, annotation=what) for name, what in common.items()]
    whole = signature.replace(parameters=[*signature.parameters.values(), *added])
    called.__signature__ = whole  # type: ignore[attr-defined]
    return called


def _options(command: Any) -> dict[str, Any]:
    """The options of a command that may be set outside the command line, by their long names with underscores."""
    found = {}
    for one in command.params:
        if one.param_type_name == "option" and one.name not in _NOT_SET_OUTSIDE:
            found[max(one.opts, key=len).lstrip("-").replace("-", "_")] = one
    return found


def _of_environment(path: tuple[str, ...], command: Any) -> Iterator[Layer]:
    for prefix in (("twinact", *path), ("twinact",)):
        for name, option in _options(command).items():
            variable = "_".join((*prefix, name)).replace("-", "_").upper()
            if value := os.environ.get(variable):
                yield f"environment {variable}", {option.name: [value] if option.multiple else value}


def _of_files(path: tuple[str, ...], command: Any, root: Any) -> Iterator[Layer]:
    mine = _options(command)
    for file in (Path(CONFIG_FILE), Path(typer.get_app_dir("twinact")) / CONFIG_FILE):
        if not file.is_file():
            continue
        content = _read(file)
        try:
            _check(content, root)
        except ConfigError as error:
            raise ConfigError(f"in '{file}': {error}") from None
        tables: Any = content
        for name in path:
            tables = tables.get(name, {})
        for values in (tables, content):
            # A command may be called as an option is.
            found = {name: value for name, value in values.items() if name in mine and not isinstance(value, dict)}
            yield str(file), {mine[name].name: value for name, value in found.items()}


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(read_file(file, _MAX_BYTES).decode())
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise ConfigError(f"settings in '{file}' cannot be read ({error}); repair the file or remove it") from error


def _check(values: Mapping[str, Any], command: Any) -> None:
    """Refuse names that are neither an option of a command, or of one below it, nor a command; and values of other
    kinds, because true would be taken for 1 and a list for text."""
    inner = getattr(command, "commands", {})
    known = _all_options(command)
    for name, value in values.items():
        if name in inner and (isinstance(value, dict) or name not in known):
            if not isinstance(value, dict):
                raise ConfigError(f"{name!r} is {str(value)[:40]!r} and a command; write its settings below [{name}]")
            _check(value, inner[name])
        elif name not in known:
            raise unknown_setting(name, sorted({*known, *inner}))
        elif not any(_suits(value, option) for option in known[name]):
            raise ConfigError(f"setting {name!r} cannot be {str(value)[:40]!r}; write it as on the command line")


def _suits(value: object, option: Any) -> bool:
    """Whether a value is of a kind that an option can mean."""
    if option.multiple:
        return isinstance(value, (str, int, float)) or (isinstance(value, list) and all(map(_plain, value)))
    return isinstance(value, (bool, str)) if option.is_flag else _plain(value)


def _plain(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _all_options(command: Any) -> dict[str, list[Any]]:
    """The options of a command and of all below it, by name."""
    found = {name: [option] for name, option in _options(command).items()}
    for one in getattr(command, "commands", {}).values():
        for name, options in _all_options(one).items():
            found.setdefault(name, []).extend(options)
    return found


def _configuration(command: Any, ctx: Any) -> Iterator[str]:
    """Every option as a line of a settings file, with where its value comes from."""
    for name, option in _options(command).items():
        if option.name in _COMMON:
            continue
        value, source = ctx.params.get(option.name), ctx.get_parameter_source(option.name).name
        origin = {"COMMANDLINE": "command line", "DEFAULT": "default"}.get(source)
        if origin is None:
            origin = next(where for where, values in ctx.meta["layers"] if option.name in values)
        if value is None or value == []:
            yield f"# {name} is not set"
        else:
            plain = [str(one) if isinstance(one, Path) else one for one in (value if option.multiple else [value])]
            yield f"{name} = {json.dumps(plain if option.multiple else plain[0])}  # {origin}"
