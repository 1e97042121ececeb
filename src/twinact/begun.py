"""Folders that are begun with some settings and go on with them alone; a JSON file in the folder says which."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinact.errors import ConfigError, DataError
from twinact.files import atomic_write_bytes


@dataclass(frozen=True)
class Marker:
    """The file that tells a sort of folder apart from others and holds its settings.

    Attributes:
        file: Its name in the folder.
        kind: What the folder holds, in a word for people.
        version: Of the format; no other one is read.
    """

    file: str
    kind: str
    version: int = 1

    def read(self, folder: Path) -> dict[str, Any] | None:
        """What the file in a folder says, with the "settings" at least; None for a new or empty folder.

        Raises:
            DataError: The folder holds something else, or is a file.
        """
        # Hidden names are left overs of a write that was killed, and of file managers.
        if not folder.exists() or (folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())):
            return None
        try:
            found = json.loads((folder / self.file).read_text(encoding="utf-8"))
            if (found["kind"], found["version"]) == (f"twinact-{self.kind}", self.version):
                return {**found, "settings": dict(found["settings"])}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # told below: whatever it is, it is not ours
        what = f"is not empty and holds no {self.kind} of this twinact" if folder.is_dir() else "is a file"
        raise DataError(f"{self.kind} folder '{folder}' {what}; give a new or empty folder")

    def begin(self, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a folder, or go on with one that was begun with the same settings.

        Args:
            folder: Made if missing.
            settings: All that decides the result, as JSON.

        Returns:
            What the file says.

        Raises:
            ConfigError: The folder was begun with other settings; the message names those that differ.
            DataError: It holds something else, or cannot be written.
        """
        found = self.read(folder)
        if found is None:
            return self.write(folder, settings)
        different = _differences(found["settings"], json.loads(json.dumps(settings)))  # tuples become lists
        if different:
            raise ConfigError(
                f"{self.kind} folder '{folder}' was begun with other settings: {', '.join(different)}; "
                "give a new folder or delete this one"
            )
        return found

    def write(self, folder: Path, settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Write the file, with more than the settings if need be, and return what it says."""
        content = {"kind": f"twinact-{self.kind}", "version": self.version, "settings": dict(settings), **more}
        atomic_write_bytes(folder / self.file, (json.dumps(content, indent=2) + "\n").encode())
        return content


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> list[str]:
    told = []
    for key in sorted(before.keys() | now.keys()):
        there, here = before.get(key), now.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            told += _differences(there, here, f"{of}{key}.")
        elif there != here:
            told.append(f"{of}{key} was {there!r} and is {here!r}")
    return told
