"""The command line. Results go to stdout, messages to stderr.

Exit codes: 0 done, 1 something given cannot be used, 2 wrong usage or setting, 3 too little memory or disk, 130
stopped. Everything heavy is imported inside the commands, so that help and mistakes in options come at once.
"""

import errno
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from twinact import __version__
from twinact.cli import actions, bench, doctor, exports, files, hub, learn, pictures, read, space, world
from twinact.cli import app as page
from twinact.cli.command import equip
from twinact.cli.examples import FIRST
from twinact.console import is_main_process, say
from twinact.errors import ConfigError, OutOfMemory, TwinactError

# Commands that go on where they were stopped; the others do not.
_GOING_ON = {"learn", "demo", "bench tune", "bench run", "nano train"}
# What to do about failures of the disk, which may come up anywhere.
_REMEDIES = {
    errno.ENOSPC: "; free some space",
    errno.EDQUOT: "; free some space",
    errno.EACCES: "; choose another folder",
    errno.EROFS: "; choose another folder",
}


class _Commands(TyperGroup):
    """Turns the errors that a person can cause into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # typer does not export the class of its contexts
        rest = ctx.args  # after the command's own name; the name of a nested one comes first
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            name = ctx.invoked_subcommand
            going_on = name in _GOING_ON or f"{name} {rest[0] if rest else ''}" in _GOING_ON
            say("stopped; run the same command again to go on" if going_on else "stopped")
            raise typer.Exit(130) from None
        except (TwinactError, OSError) as error:
            if isinstance(error, BrokenPipeError) or os.environ.get("TWINACT_DEBUG") == "1":
                raise
            message = str(error)
            if isinstance(error, OSError):
                message = f"{error.strerror or error}" + (f": '{error.filename}'" if error.filename else "")
                message += _REMEDIES.get(error.errno or 0, "")
            rank = "" if is_main_process() else f"process {os.environ['RANK']}: "
            typer.echo(f"{rank}error: {message}", err=True)
            raise typer.Exit(_code(error)) from None


def _code(error: TwinactError | OSError) -> int:
    """The exit code of an error that a person can cause."""
    if isinstance(error, ConfigError):
        return 2
    full = getattr(error.__cause__ or error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return 3 if full or isinstance(error, OutOfMemory) else 1


app = typer.Typer(
    cls=_Commands,
    name="twinact",
    help="Teach a text-to-image model an action from a few pictures, apart from who does it and where.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a folder may be called what a terminal cannot show
    app(prog_name="twinact")


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        typer.echo(f"twinact {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(FIRST, nl=False)


for command in (learn.learn, pictures.generate, read.read):
    app.command()(command)
for of_actions in (actions.adjust, actions.combine, actions.refine, actions.explain):
    app.command()(of_actions)
app.command()(page.app)

app.command()(doctor.doctor)
app.command()(files.inspect)
app.command()(files.strip)
app.command()(hub.push)
app.command()(hub.pull)
app.command("export")(exports.export)
app.command("import")(exports.import_)


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="Folder for the report.")] = Path("demo")) -> None:
    """Learn actions on nano and write a report. A few minutes on two cores."""
    say("preparing the demo")
    from twinact.demo.demo import run_demo

    typer.echo(run_demo(out))


app.add_typer(space.app, name="space")
app.add_typer(world.nano_app, name="nano")
app.add_typer(world.app, name="world")
app.add_typer(bench.app, name="bench")
equip(app)
