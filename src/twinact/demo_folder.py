"""The folder of a demo: told apart from folders of others, with its settings and the seconds of its stages."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinact.errors import ConfigError, DataError
from twinact.files import atomic_write_bytes

MARKER = "demo.json"
_KIND, _VERSION = "twinact-demo", 1


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
        self._marker, self._settings = path / MARKER, dict(settings)
        self.report, self.exemplars, self.pictures = path / "report.html", path / "exemplars", path / "pictures"
        self._path = path
        self.seconds: dict[str, float] = {}
        found = read_marker(path)
        if found is None:
            self._write()
            return
        before = found["settings"]
        different = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
        if different:
            told = ", ".join(f"{key} was {before.get(key)!r} and is {settings.get(key)!r}" for key in different)
            raise ConfigError(f"demo folder '{path}' was begun with other settings: {told}; give a new folder")
        self.seconds = found["seconds"]

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
            self._write()

    def _write(self) -> None:
        content = {"kind": _KIND, "version": _VERSION, "settings": self._settings, "seconds": self.seconds}
        atomic_write_bytes(self._marker, (json.dumps(content, indent=2) + "\n").encode())


def read_marker(path: Path) -> dict[str, Any] | None:
    """What ``demo.json`` in a folder says; None for a new or empty folder.

    Raises:
        DataError: The folder holds something else, or is a file.
    """
    # Hidden names are left overs of a write that was killed, and of file managers.
    if not path.exists() or (path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir())):
        return None
    try:
        found = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if (found["kind"], found["version"]) == (_KIND, _VERSION):
            return {"settings": dict(found["settings"]), "seconds": dict(found["seconds"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # told below: whatever it is, it is not ours
    what = "is not empty and holds no demo of this twinact" if path.is_dir() else "is a file"
    raise DataError(f"demo folder '{path}' {what}; give a new or empty folder")
