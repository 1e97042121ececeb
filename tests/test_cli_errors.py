"""What the command line says when it is stopped, when the disk fails, and to whom wants the traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands import invoke, refused
from small import exemplars_in
from twinact.action import Action
from twinact.errors import DataError, OutOfMemory


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_debug_shows_the_traceback() -> None:
    result = invoke("learn", "nowhere", env={"TWINACT_DEBUG": "1"})
    assert type(result.exception).__name__ == "DataError"


def test_stopping_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Action, "load", stop)
    result = invoke("adjust", "x.action.safetensors", "--component", "0:0", "--amount", "1", "--out", "new")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[1:] == ["stopped"]


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        (("learn", "leap"), True),
        (("demo",), True),
        (("bench", "tune", "--out", "new"), True),
        (("bench", "run", "--out", "new"), True),
        (("nano", "train", "--out", "new"), True),
        (("nano", "evaluate"), False),
        (("world", "exemplars", "--out", "new"), False),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_only_what_goes_on_is_said_to(
    command: tuple[str, ...], goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exemplars_in(tmp_path / "leap")

    def stop(*paths: object, **options: object) -> None:
        raise KeyboardInterrupt

    for place in (
        "jobs.resources.choose_resources",
        "jobs.run.settings_of",
        "runs.marker.Marker.read",
        "world.splits.write_exemplars",
    ):
        monkeypatch.setattr(f"twinact.{place}", stop)
    result = invoke(*command)
    assert result.exit_code == 130
    assert result.stderr.endswith("stopped; run the same command again to go on\n" if goes_on else "stopped\n")


@pytest.mark.parametrize(
    ("code", "remedy", "exit_code"),
    [(errno.ENOSPC, "; free some space", 3), (errno.EROFS, "; choose another folder", 1), (errno.EIO, "", 1)],
)
def test_disk_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, code: int, remedy: str, exit_code: int) -> None:
    def failing(path: object) -> None:
        raise OSError(code, os.strerror(code), "somewhere")

    monkeypatch.setattr(Action, "load", failing)
    command = ("adjust", "x.action.safetensors", "--component", "0:0", "--amount", "1", "--out", "new")
    message = refused(*command, code=exit_code)
    assert message == f"error: {os.strerror(code)}: 'somewhere'{remedy}"


def test_what_does_not_fit_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(path: object) -> None:
        raise OutOfMemory("it does not fit")

    def full(path: object) -> None:
        raise DataError("the disk is full") from OSError(errno.ENOSPC, "full")

    for failing in (large, full):
        monkeypatch.setattr(Action, "load", failing)
        refused("strip", "x.action.safetensors", "--out", "new", code=1)  # there is no file
        refused("explain", "x.action.safetensors", code=3)


@pytest.mark.parametrize("out", [".", "", "/", ".."])
@pytest.mark.parametrize(
    "command",
    [
        ("adjust", "x.action.safetensors", "--component", "0:0", "--amount", "1"),
        ("combine", "x.action.safetensors", "y.action.safetensors"),
        ("refine", "x.action.safetensors"),
        ("import", "x.safetensors", "--name", "leap"),
        ("space", "build"),
    ],
    ids=lambda command: command[0],
)
def test_an_output_without_a_name_is_wrong_usage(command: tuple[str, ...], out: str, tmp_path: Path) -> None:
    result = invoke(*command, "--out", out)
    assert result.exit_code == 2 and "give the name of a file" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [".", "", "/"])
def test_a_folder_that_is_no_folder_of_pictures_is_refused(out: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert "is not empty" in refused("generate", "x.action.safetensors", "--prompt", "a <act>", "--out", out)


def test_a_folder_is_not_called_as_a_picture_is(tmp_path: Path) -> None:
    told = refused("generate", "x.action.safetensors", "--prompt", "a <act>", "--out", "panda.PNG")
    assert "has the name of a picture" in told and not list(tmp_path.iterdir())


def test_a_model_in_the_home_of_nobody_is_no_folder(tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(1, 8)}, tmp_path / "x.safetensors")
    for command in (
        ("space", "build", "--out", "x"),
        ("learn", "leap"),
        ("nano", "evaluate"),
        ("import", tmp_path / "x.safetensors", "--name", "leap", "--out", "y"),
    ):
        exemplars_in(tmp_path / "leap", 1)
        (tmp_path / "leap" / "0.txt").write_text("a cat <act> in a park")
        told = refused(*command, "--model", "~nosuchuser/sd")
        assert "'~nosuchuser/sd' is not a folder" in told


def test_half_a_character_in_a_prompt_is_wrong_usage(tmp_path: Path) -> None:
    for option in ("--prompt", "--negative-prompt"):
        told = refused("generate", "x.action.safetensors", "--prompt", "a <act>", option, "a \udcff <act>", code=2)
        assert "has half a character" in told
    exemplars_in(tmp_path / "leap")
    assert "has half a character" in refused("learn", "leap", "--start", "a \udcff", code=2)


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "x"}, {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "2", "RANK": "x"}], ids=str
)
def test_processes_that_are_not_counted_are_wrong_usage(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exemplars_in(tmp_path / "leap")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = invoke("learn", "leap")
    assert result.exit_code == 2, result.exception
    assert "environment variable " in result.stderr and "unset it" in result.stderr


def test_a_folder_that_the_terminal_cannot_show_is_no_error() -> None:
    """A command of its own, since those of twinact take seconds to import what they need."""
    code = (
        "import sys, typer\n"
        "from twinact import cli\n"
        "cli.app.command('tell')(lambda: [typer.echo('日本/a'), typer.echo('日本/b', err=True)] and None)\n"
        "sys.argv = ['twinact', 'tell']\n"
        "cli.main()\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=280)
    assert told.returncode == 0, told.stderr
    assert (told.stdout, told.stderr) == (rb"\u65e5\u672c/a" + b"\n", rb"\u65e5\u672c/b" + b"\n")
