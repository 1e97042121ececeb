"""The folder of a benchmark: which runs are there, and who works at which.

Layout: ``bench.json`` (settings that all runs share), ``runs/<task>/<contestant>/<settings>/<action>_<seed>/`` with
``result.json`` and ``pictures.png``, ``cost/`` (what a step takes), and what `twinact.bench.report` writes.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twinact.bench.plan import Results, Run
from twinact.bench.presets import Preset
from twinact.bench.scores import FAILED, Result
from twinact.errors import DataError, FolderInUse
from twinact.runs.lock import lock
from twinact.runs.marker import Marker
from twinact.storage import misfit, read_file

MARKER = Marker("bench.json", "bench", version=2)
RESULT, PICTURES = "result.json", "pictures.png"
_SECONDS_BETWEEN_LOOKS = 2.0
_MAX_BYTES = 10_000_000
_SCHEMA = {"version": int, "status": str, "passes": int, "seconds": float, "pictures": list, "error": str | None}

Plan = Callable[[Results], Sequence[Run]]
"""What is to be run, given what is there."""


class Bench:
    """A benchmark's folder.

    Args:
        folder: New, empty, or begun with the same settings.
        preset: How much is run.
        settings: What else decides the results: the model, metrics, precision, as JSON.

    Raises:
        ConfigError: The folder was begun with other settings; the message names those that differ.
        DataError: It holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, preset: Preset, settings: dict[str, Any]) -> None:
        self.folder, self.preset = folder, preset
        self.settings = MARKER.begin(folder, {"preset": preset.to_dict(), **settings})["settings"]
        self._known: dict[str, Result] = {}

    @classmethod
    def load(cls, folder: Path) -> "Bench":
        """A benchmark that was begun, with its own settings.

        Raises:
            DataError: There is none in the folder.
        """
        found = MARKER.read(folder)
        if found is None:
            raise DataError(f"folder '{folder}' holds no benchmark; run twinact bench run --out {folder}")
        settings = dict(found["settings"])
        try:
            preset = Preset.from_dict(settings.pop("preset"))
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / MARKER.file} cannot be used ({error}); give a new folder") from error
        return cls(folder, preset, settings)

    def path(self, run: Run) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / run.key

    def results(self) -> dict[str, Result]:
        """All results by the runs' keys.

        Raises:
            DataError: One is damaged.
        """
        runs = self.folder / "runs"
        for path in runs.glob(f"*/*/*/*/{RESULT}"):
            key = path.parent.relative_to(runs).as_posix()
            if key not in self._known:
                self._known[key] = _read(path)
        return dict(self._known)

    def fill(self, plan: Plan, carry_out: Callable[[Run], Result], tell: Callable[[str], None]) -> Results:
        """Carry out what is planned and not there yet, beside any other processes that do so, until all is there.

        Args:
            plan: Asked again after every run.
            carry_out: Writes a run's result, failures included, and returns it.
            tell: Receives a line about every run.

        Returns:
            The results.
        """
        while True:
            results = self.results()
            wanted = [run for run in {run.key: run for run in plan(results)}.values() if run.key not in results]
            if not wanted:
                return results
            if not any(self._done(run, carry_out, tell, len(wanted)) for run in wanted):
                time.sleep(_SECONDS_BETWEEN_LOOKS)  # others are at work on all that is left

    def _done(self, run: Run, carry_out: Callable[[Run], Result], tell: Callable[[str], None], left: int) -> bool:
        """Whether the run was carried out here, or has been by somebody else; False where somebody is at it."""
        try:
            claim = lock(self.path(run))
        except FolderInUse:
            return False
        with claim:
            if (self.path(run) / RESULT).is_file():
                return True
            result = carry_out(run)
        self._known[run.key] = result
        right = f"{100 * result.mean('clean'):.0f} % right, nothing leaked"
        told = f"failed: {result['error']}" if result["status"] == FAILED else right
        tell(f"{run.contestant} {run.task} {run.action}: {told} ({result['seconds']:.0f} s), {left - 1} left for now")
        return True


def _read(path: Path) -> Result:
    try:
        content = json.loads(read_file(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it to run it again") from error
    wrong = misfit(content, _SCHEMA) if isinstance(content, dict) else "it is no object"
    if wrong is not None:
        raise DataError(f"{path} cannot be used: {wrong}; delete it to run it again")
    return Result(content)
