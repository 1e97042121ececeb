"""The folder of a demo, with its settings and the seconds of its stages."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinact.runs.marker import Marker

MARKER = Marker("demo.json", "demo")


class DemoFolder:
    """The folder of one demo; settings, and the seconds that stages took, are in its ``demo.json``.

    Args:
        path: The folder; made if missing.
        settings: All that decides the result, as JSON; must equal what the folder was begun with.

    Raises:
        ConfigError: The folder was begun with other settings.
        DataError: It holds something else, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, settings
        self.report, self.exemplars, self.pictures = path / "report.html", path / "exemplars", path / "pictures"
        self.photographs, self.actor = path / "photographs", path / "actor"
        self.seconds: dict[str, float] = MARKER.begin(path, settings).get("seconds", {})

    def run(self, method: str) -> Path:
        """The run folder of a method."""
        return self._path / f"learn-{method}"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to the stage, also when it is stopped half-way."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            MARKER.write(self._path, self._settings, seconds=self.seconds)
