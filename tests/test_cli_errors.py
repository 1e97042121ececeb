"""What the command line says when it is stopped, when the disk fails, and to whom wants the traceback."""

import errno
import os
from pathlib import Path

import pytest

from commands import invoke, refused
from small import exemplars_in
from twinact.action import Action


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
    assert result.stderr == "stopped\n"


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        (("learn", "leap"), True),
        (("demo",), True),
        (("bench", "custom", "--out", "new"), True),
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

    for place in ("suited.suited_here", "suited.begun_with", "begun.Marker.read", "world.splits.write_exemplars"):
        monkeypatch.setattr(f"twinact.{place}", stop)
    result = invoke(*command)
    assert result.exit_code == 130
    assert result.stderr.endswith("stopped; run the same command again to go on\n" if goes_on else "stopped\n")


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "; free some space"), (errno.EROFS, "; choose another folder"), (errno.EIO, "")]
)
def test_disk_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, code: int, remedy: str) -> None:
    def failing(path: object) -> None:
        raise OSError(code, os.strerror(code), "somewhere")

    monkeypatch.setattr(Action, "load", failing)
    message = refused("adjust", "x.action.safetensors", "--component", "0:0", "--amount", "1", "--out", "new")
    assert message == f"error: {os.strerror(code)}: 'somewhere'{remedy}"
