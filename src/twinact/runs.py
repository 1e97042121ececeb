"""The folder of one training run: its config, log and checkpoints, such that a run can stop anywhere and go on.

Layout: ``config.json`` (before step 0), ``log.jsonl`` (a line a step), ``checkpoint/step-00000050.safetensors``
(the last two), ``previews/`` if asked for, ``<name>.action.safetensors`` (at the very end, so that its presence means
done), ``report.html`` if it was learned by the command line. While a run is at work its process holds ``.lock``.
Before the config there may be ``.search.safetensors``, a search for the starting phrase that was stopped.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from torch import Tensor

from twinact.backbones.weights import same_model
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.files import atomic_write_bytes, read_safetensors, write_safetensors
from twinact.lock import lock

KIND = "twinact-run"
VERSION = 1
# Hidden, since a folder without config must be empty; of no use once the config says what was found.
SEARCH_FILE = ".search.safetensors"
_CONFIG = "config.json"
_CHECKPOINT_KIND = "checkpoint"
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` finished steps.

    Attributes:
        step: Number of finished steps.
        tensors: Learned and optimiser state, by name, on the CPU.
    """

    step: int
    tensors: dict[str, Tensor]


class RunFolder:
    """Reads and writes one run folder; make it with `open`, in a ``with`` that lasts as long as the run."""

    _lock: IO[str] | None = None

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.action_path = path / f"{name}.action.safetensors"
        self._log_path = path / "log.jsonl"
        self._checkpoints = path / "checkpoint"

    @classmethod
    def open(cls, path: str | Path, name: str, settings: Mapping[str, Any], versions: Mapping[str, str]) -> "RunFolder":
        """Begin a run folder, or go back to one. Others cannot open it until it is closed, unless its run is done.

        Args:
            path: The folder; made if missing.
            name: Of the action.
            settings: All that decides the result, as JSON; must equal what the folder was begun with.
            versions: Library → version; stored but not compared.

        Raises:
            ConfigError: The folder holds a run with other settings; the message names those that differ.
            DataError: The folder holds something else, cannot be written, or is in use.
        """
        path = Path(path)
        folder, config_path = cls(path, name), path / _CONFIG
        wanted: dict[str, Any] = json.loads(json.dumps(settings))  # tuples become lists, as they do on disk
        if settings_of(path) is None:
            folder._take()
        if config_path.is_file():  # perhaps only since we hold the lock
            with folder._closed_on_error():
                _check_same(path, _read_config(config_path), wanted)
                if not folder.done and folder._lock is None:
                    folder._take()
                if folder._lock is not None:  # a kill may have come between the config and this
                    (path / SEARCH_FILE).unlink(missing_ok=True)
            return folder
        content = {"kind": KIND, "version": VERSION, "settings": wanted, "versions": dict(versions)}
        with folder._closed_on_error():
            atomic_write_bytes(config_path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
            (path / SEARCH_FILE).unlink(missing_ok=True)
        return folder

    def close(self) -> None:
        """Let others open the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> None:
        """Lock the folder, and delete what writes that were killed left: nobody else writes now."""
        self._lock = lock(self.path)
        for place in (self.path, self._checkpoints):
            for path in place.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> bool:
        """Whether the run has finished and exported its action."""
        return self.action_path.is_file()

    @property
    def last_step(self) -> int:
        """Finished steps in the newest checkpoint, 0 when there is none."""
        paths = self._checkpoint_paths()
        return int(paths[0].name.split(".")[0].removeprefix("step-")) if paths else 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then delete all but the last two.

        Raises:
            DataError: The folder cannot be written; earlier checkpoints stay.
        """
        header = {"kind": _CHECKPOINT_KIND, "version": VERSION, "step": checkpoint.step}
        write_safetensors(self._checkpoints / f"step-{checkpoint.step:08d}.safetensors", checkpoint.tensors, header)
        for path in self._checkpoint_paths()[_KEPT_CHECKPOINTS:]:
            path.unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole (its checksum holds); None when there is none yet.

        Raises:
            CheckpointError: There are checkpoints, and all are damaged.
        """
        problems = []
        for path in self._checkpoint_paths():
            try:
                tensors, header = read_safetensors(path, _CHECKPOINT_KIND, VERSION)
            except CheckpointError as error:
                problems.append(str(error))
            else:
                return Checkpoint(header["step"], tensors)
        if problems:
            raise CheckpointError(f"no checkpoint is whole: {'; '.join(problems)}; delete '{self.path}' to begin anew")
        return None

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to the log.

        Raises:
            DataError: The log cannot be written.
        """
        try:
            with open(self._log_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise DataError(
                f"cannot write {self._log_path}: {error.strerror or error}; free some space, then run again to go on"
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """All whole lines of the log; a last line that was cut by a kill is left out."""
        if not self._log_path.is_file():
            return []
        lines = self._log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def last_terms(self) -> dict[str, float]:
        """The terms in the last line of the log; empty without a log."""
        records = self.records()
        return records[-1]["terms"] if records else {}

    def rewind_log(self, step: int) -> None:
        """Drop the lines of steps after `step`: they will be taken again."""
        kept = [record for record in self.records() if record["step"] <= step]
        atomic_write_bytes(self._log_path, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def _checkpoint_paths(self) -> list[Path]:
        """Newest first."""
        return sorted(self._checkpoints.glob("step-*.safetensors"), reverse=True)


def settings_of(path: str | Path) -> dict[str, Any] | None:
    """Settings of the run in a folder, None when the folder is new or empty; nothing is written.

    Raises:
        DataError: The folder holds something else or is a file, or its config cannot be read.
    """
    path = Path(path)
    if (path / _CONFIG).is_file():
        return _read_config(path / _CONFIG)
    if path.exists() and not path.is_dir():
        raise DataError(f"run folder '{path}' is a file; give a folder")
    # Hidden names are left overs of a write that was killed, and of file managers.
    if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise DataError(f"run folder '{path}' is not empty and holds no run of twinact; give a new or empty folder")
    return None


def begun_with(path: str | Path, setting: str) -> Any:
    """A setting of the run in a folder, None when there is no run yet; errors as `settings_of`."""
    return (settings_of(path) or {}).get(setting)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a new folder, or repair it") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DataError(f"{path} is not of a twinact run; give a new or empty folder")
    if content.get("version") != VERSION or not isinstance(content.get("settings"), dict):
        raise DataError(f"{path} has run format {content.get('version')!r}, this twinact reads {VERSION}; update it")
    return content["settings"]


def _check_same(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    there, here = _flatten(stored), _flatten(wanted)
    differing = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    if "backbone" in differing and same_model(str(there.get("backbone")), str(here.get("backbone"))):
        differing.remove("backbone")  # its folder was renamed
    if differing:
        told = ", ".join(f"{key} ({_short(there.get(key))} there, {_short(here.get(key))} now)" for key in differing)
        raise ConfigError(f"run folder '{path}' holds a run with other settings: {told}; give another folder")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
