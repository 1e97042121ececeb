"""Marks a folder with the settings that it was begun with, in a JSON file, and refuses to go on with others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinact.errors import ConfigError, DataError
from twinact.storage import atomic_write_bytes, read_file

_MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Marker:
    """The file that tells one kind of folder apart from others and holds its settings.

    Attributes:
        file: Name of the file in the folder.
        kind: What the folder holds, in a word for people.
        version: Format version; no other one is read.
        earlier: Settings that folders of earlier releases do not name, and what they were there.
    """

    file: str
    kind: str
    version: int = 1
    earlier: Mapping[str, Any] = field(default_factory=dict)

    def read(self, folder: Path) -> dict[str, Any] | None:
        """The content of the file in a folder, with at least the "settings"; None for a new or empty folder.

        Raises:
            DataError: The folder holds something else or is a file, or its file cannot be read.
        """
        path = folder / self.file
        if path.exists():
            return self._parse(path)
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{self.kind} folder '{folder}' is a file; give a folder")
        # Hidden files are what a killed write left, or belong to file managers.
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise DataError(
                f"{self.kind} folder '{folder}' is not empty and holds no {self.kind} of twinact; "
                "give a new or empty folder"
            )
        return None

    def begin(self, folder: Path, settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Begin a folder, or go on with one that was begun with the same settings.

        Args:
            folder: Made if missing.
            settings: All that decides the result, as JSON.
            more: What the file of a new folder holds besides.

        Returns:
            The content of the file.

        Raises:
            ConfigError: The folder was begun with other settings; the message names those that differ.
            DataError: It holds something else, or cannot be written.
        """
        found = self.read(folder)
        if found is None:
            return self.write(folder, settings, **more)
        self.check_same(folder, found["settings"], settings)
        return found

    def check_same(self, folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Makes sure that a folder goes on with its own settings.

        Args:
            folder: The folder.
            stored: Its settings.
            wanted: Those that are asked for now.

        Raises:
            ConfigError: They differ; the message names where.
        """
        asked = json.loads(json.dumps(wanted))  # tuples become lists, as on disk
        there, here = ({**self.earlier, **_flat(settings)} for settings in (stored, asked))
        told = [
            f"{key} ({_short(there.get(key))} there, {_short(here.get(key))} now)"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        if told:
            raise ConfigError(
                f"{self.kind} folder '{folder}' holds a {self.kind} with other settings: {', '.join(told)}; "
                "give another folder"
            )

    def write(self, folder: Path, settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Write the file, with more than the settings if need be, and return its content."""
        content = {"kind": f"twinact-{self.kind}", "version": self.version, "settings": dict(settings), **more}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        atomic_write_bytes(folder / self.file, text.encode())
        return content

    def _parse(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(read_file(path, _MAX_BYTES))
        except (OSError, ValueError, RecursionError, DataError) as error:
            raise DataError(f"{path} cannot be read ({error}); give a new folder, or repair it") from error
        if not isinstance(content, dict) or content.get("kind") != f"twinact-{self.kind}":
            raise DataError(f"{path} is not of a twinact {self.kind}; give a new or empty folder")
        if content.get("version") != self.version or not isinstance(content.get("settings"), dict):
            raise DataError(
                f"{path} has {self.kind} format {content.get('version')!r}, this twinact reads {self.version}; "
                "update it"
            )
        return content


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
