"""The log of a run: a line a step, each with a checksum. It says how a run went and never whether it may go on."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twinact.console import say
from twinact.errors import DataError
from twinact.storage import append_line, atomic_write_bytes, misfit, read_file

_CHECKSUM = "crc32"
_RECORD = {"step": int, "terms": {"loss": float}, "seconds": float}
_MAX_BYTES = 2_000_000_000


class Log:
    """``log.jsonl`` of a run folder.

    Args:
        path: The file; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            DataError: The log cannot be written.
        """
        try:
            append_line(self._path, _line(record))
        except OSError as error:
            raise DataError(
                f"cannot write {self._path}: {error.strerror or error}; free some space, then run again to go on"
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """All whole lines; those that are damaged, or cut by a kill, are left out."""
        return [record for _, record in self._read() if record is not None]

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Keep the whole lines up to a step, because the steps after it will be taken again, and return them.

        How many lines were damaged is told.

        Raises:
            DataError: The log cannot be written.
        """
        lines = list(self._read())
        damaged = sum(record is None for whole, record in lines if whole)
        if damaged:
            say(f"{damaged} damaged lines of {self._path} are left out; the run does not depend on them")
        kept = [record for _, record in lines if record is not None and record["step"] <= step]
        atomic_write_bytes(self._path, "".join(_line(record) + "\n" for record in kept).encode())
        return kept

    def _read(self) -> Iterator[tuple[bool, dict[str, Any] | None]]:
        """For each line, whether it was ended, and its record; None for one that is damaged."""
        try:
            lines = read_file(self._path, _MAX_BYTES).splitlines(keepends=True)
        except (OSError, DataError):
            return
        for line in lines:
            yield line.endswith(b"\n"), _record(line)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({**record, _CHECKSUM: _checksum(record)})


def _checksum(record: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        whole = record.pop(_CHECKSUM) == _checksum(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if whole and misfit(record, _RECORD) is None else None
