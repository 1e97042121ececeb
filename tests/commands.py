"""The command line in this process, and what its folders hold."""

from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner, Result

from twinact.cli import app


def invoke(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def done(*arguments: str | Path) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    return result


def refused(*arguments: str | Path, code: int = 1) -> str:
    """The one line that says why."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.stderr + repr(result.exception)
    assert result.stdout == ""
    remarks = (
        "learning ",
        "loading ",
        "reading ",
        "evaluating ",
        "preparing ",
        "opening model",
        "for this CPU",
        "words that",
    )
    lines = [line for line in result.stderr.splitlines() if not line.startswith(remarks)]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
