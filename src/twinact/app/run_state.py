"""How a run of the page stands, read off its folder."""

from dataclasses import dataclass
from pathlib import Path

from twinact.runs.folder import MARKER, PREVIEW_FOLDER, RunFolder, settings_of

SAID = ".page.log"
"""File of a run folder that holds what the process says."""
_LAST_LINES, _LAST_BYTES = 40, 20_000
_PACE = 20  # steps whose mean time says how long the rest takes


@dataclass(frozen=True)
class RunState:
    """How a run stands, read off its folder.

    Attributes:
        name: Of the action.
        phase: "waiting", "starting", "learning", "done", "stopped" or "failed".
        step, steps: Finished steps and all of them.
        seconds_left: None while nothing is known.
        seconds: Seconds of learning so far.
        losses: One a step.
        previews: Steps and sheets, in order.
        said: The last lines that the process wrote.
        problem: Why it failed.
    """

    name: str
    phase: str
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    seconds: float = 0.0
    losses: tuple[float, ...] = ()
    previews: tuple[tuple[int, Path], ...] = ()
    said: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def at_work(self) -> bool:
        """Whether it is running or will be."""
        return self.phase in ("waiting", "starting", "learning")


def look(run_dir: Path, name: str, alive: bool, asked_for: str | None) -> RunState:
    """How the run in a folder stands.

    Args:
        run_dir: The run's folder.
        name: Of its action.
        alive: Whether its process is at work.
        asked_for: "waiting" for one that is to begin, "begun" for one that has and was not stopped; None otherwise.

    Raises:
        DataError: The folder holds something else.
    """
    folder = RunFolder(run_dir, name)
    records = folder.log.records()
    settings = settings_of(run_dir) if (run_dir / MARKER.file).is_file() else None
    steps = int((settings or {}).get("steps", 0)) or len(records)
    said, problem = _last_lines(run_dir / SAID), None
    if folder.done:
        phase = "done"
    elif alive:
        phase = "learning" if records else "starting"
    elif asked_for == "waiting":
        phase = "waiting"
    elif asked_for == "begun" and (problem := _problem(said)):
        phase = "failed"
    else:
        phase = "stopped"
    seconds = [record["seconds"] for record in records]
    pace = sum(seconds[-_PACE:]) / len(seconds[-_PACE:]) if seconds else None
    return RunState(
        name=name,
        phase=phase,
        step=records[-1]["step"] if records else 0,
        steps=steps,
        seconds_left=pace * (steps - len(records)) if pace is not None and phase == "learning" else None,
        seconds=sum(seconds),
        losses=tuple(record["terms"]["loss"] for record in records),
        previews=_previews(run_dir / PREVIEW_FOLDER),
        said=said,
        problem=problem,
    )


def _last_lines(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return tuple(file.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:])
    except OSError:
        return ()


def _problem(said: tuple[str, ...]) -> str | None:
    """Why a process ended that is not done and was not stopped; None when it was killed without a word."""
    last = next((line for line in reversed(said) if line.strip()), "")
    if last.startswith("error: "):
        return last.removeprefix("error: ")
    return f"the process ended unexpectedly: {last}" if "Traceback (most recent call last):" in said else None


def _previews(folder: Path) -> tuple[tuple[int, Path], ...]:
    found = []
    for path in sorted(folder.glob("step_*.png")):
        digits = path.stem.removeprefix("step_")
        if digits.isascii() and digits.isdigit() and not path.is_symlink():
            found.append((int(digits), path))
    return tuple(found)
