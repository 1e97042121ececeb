"""The folder of one training run: its config, log and checkpoints, such that a run can stop anywhere and go on.

Layout: ``config.json`` (before step 0), ``log.jsonl`` (a line a step), ``checkpoint/step-00000050.safetensors``
(the last two), ``previews/`` if asked for, ``<name>.action.safetensors`` (at the very end, so that its presence means
done), ``report.html`` if it was learned by the command line. While a run is at work its process holds ``.lock``.
Before the config there may be ``.search.safetensors``, a search for the starting phrase that was stopped.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from torch import Tensor

from twinact import PLACEHOLDER, __version__
from twinact.configs import LORA_LAYERS
from twinact.errors import CheckpointError, DataError
from twinact.runs.lock import lock
from twinact.runs.log import Log
from twinact.runs.marker import Marker
from twinact.storage import ACTION_SUFFIX, misfit, read_safetensors, sweep, write_safetensors

MARKER = Marker("config.json", "run", earlier={"lora_layers": LORA_LAYERS[0]})
PREVIEW_FOLDER = "previews"
# Actors and places that nano knows too.
PREVIEW_PROMPTS = (f"a panda {PLACEHOLDER} in a park", f"a robot {PLACEHOLDER} on the moon")
# Hidden, since a folder without config must be empty; of no use once the config says what was found.
SEARCH_FILE = ".search.safetensors"
_CHECKPOINT_KIND, _CHECKPOINT_VERSION = "checkpoint", 1
_KEPT_CHECKPOINTS = 2
# What is read of a run's own settings before it goes on.
_SETTINGS = {
    "start": str | None,
    "rounding": {"precision": str, "processes_times_accumulate": int, "compiled": bool},
}
_SEARCH = {"search": int}


@dataclass(frozen=True)
class Cost:
    """What a run has spent, counted while it ran.

    Attributes:
        steps: Optimiser steps.
        forward: Pictures that the denoiser saw in them.
        backward: Those of these through which gradients flowed.
        search: Pictures that it saw while the starting phrase was looked for.
    """

    steps: int
    forward: int
    backward: int
    search: int


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` finished steps.

    Attributes:
        step: Number of finished steps.
        tensors: Learned and optimiser state, by name, on the CPU.
    """

    step: int
    tensors: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        """Whether all of its numbers are; a run cannot go on from others."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors.values())


class RunFolder:
    """Reads and writes one run folder; make it with `open`, in a ``with`` that lasts as long as the run."""

    _lock: IO[str] | None = None

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.action_path = path / f"{name}{ACTION_SUFFIX}"
        self.log = Log(path / "log.jsonl")
        self._checkpoints = path / "checkpoint"

    @classmethod
    def open(
        cls, path: str | Path, name: str, settings: Mapping[str, Any], versions: Mapping[str, str], search: int = 0
    ) -> "RunFolder":
        """Begin a run folder, or go back to one. Others cannot open it until it is closed, unless its run is done.

        Args:
            path: The folder; made if missing.
            name: Name of the action.
            settings: All that decides the result, as JSON; must equal what the folder was begun with.
            versions: Library → version; stored but not compared.
            search: See `Cost`; stored but not compared.

        Raises:
            ConfigError: The folder holds a run with other settings; the message names those that differ.
            DataError: The folder holds something else, cannot be written, or is in use.
        """
        path = Path(path)
        folder = cls(path, name)
        if MARKER.read(path) is None:
            folder._take()
        with folder._closed_on_error():
            begun = MARKER.read(path)  # another process may have begun it before we held the lock
            if begun is None:
                MARKER.write(path, settings, versions=dict(versions), search=search)
            else:
                MARKER.check_same(path, begun["settings"], settings)
                if not folder.done and folder._lock is None:
                    folder._take()
            if folder._lock is not None:  # a kill may come between the config and this
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
        for place in (self._checkpoints, self.path / PREVIEW_FOLDER):
            if place.is_symlink():
                raise DataError(
                    f"'{place}' is a symbolic link, and what it leads to may be another's; put a folder there"
                )
        self._lock = lock(self.path)
        for place in (self.path, self._checkpoints):
            sweep(place)

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
        """Finished steps in the newest checkpoint that can be used, 0 when there is none."""
        try:
            checkpoint = self.load()
        except CheckpointError:
            return 0
        return 0 if checkpoint is None else checkpoint.step

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then delete all but the last two.

        Raises:
            DataError: The folder cannot be written; earlier checkpoints stay.
        """
        header = {"kind": _CHECKPOINT_KIND, "version": _CHECKPOINT_VERSION, "step": checkpoint.step}
        write_safetensors(self._checkpoints / f"step-{checkpoint.step:08d}.safetensors", checkpoint.tensors, header)
        for path in self._checkpoint_paths()[_KEPT_CHECKPOINTS:]:
            path.unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole (its checksum holds) and finite; None when there is none yet.

        Raises:
            CheckpointError: There are checkpoints, and all are damaged.
        """
        problems = []
        for path in self._checkpoint_paths():
            try:
                tensors, header = read_safetensors(path, _CHECKPOINT_KIND, _CHECKPOINT_VERSION, {"step": int})
            except CheckpointError as error:
                problems.append(str(error))
                continue
            checkpoint = Checkpoint(header["step"], tensors)
            if checkpoint.finite:
                return checkpoint
            problems.append(f"{path} holds numbers that are not finite")
        if problems:
            raise CheckpointError(
                f"no checkpoint can be used: {'; '.join(problems)}; delete '{self.path}' to begin anew"
            )
        return None

    def last_terms(self) -> dict[str, float]:
        """The terms in the last line of the log; empty without a log."""
        records = self.log.records()
        return records[-1]["terms"] if records else {}

    def cost(self) -> Cost:
        """What the run has spent so far; logs of earlier versions do not say it and count as nothing."""
        records, content = self.log.records(), MARKER.read(self.path) or {}
        forward, backward = (sum(record.get(name, 0) for record in records) for name in ("forward", "backward"))
        return Cost(len(records), forward, backward, content.get("search", 0) if not misfit(content, _SEARCH) else 0)

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Go back to a step: what was written of later ones is dropped, and the records of the others returned.

        Raises:
            DataError: The log cannot be written.
        """
        for path in self._checkpoint_paths():
            if _step_of(path) > step:  # one that could not be used
                path.unlink(missing_ok=True)
        return self.log.rewind(step)

    def _checkpoint_paths(self) -> list[Path]:
        """Newest first."""
        paths = [path for path in self._checkpoints.glob("step-*.safetensors") if _step_of(path) >= 0]
        return sorted(paths, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    """The step in a checkpoint's name; -1 for names that are not ours."""
    digits = path.name.removeprefix("step-").removesuffix(".safetensors")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def library_versions() -> dict[str, str]:
    """The versions of twinact and of the libraries whose numbers go into a result."""
    return {"twinact": __version__, **{name: version(name) for name in ("torch", "diffusers", "transformers")}}


def settings_of(path: str | Path) -> dict[str, Any] | None:
    """Settings of the run in a folder, None when the folder is new or empty; nothing is written.

    Raises:
        DataError: The folder holds something else or is a file, or its config cannot be read or used.
    """
    content = MARKER.read(Path(path))
    if content is None:
        return None
    wrong = misfit(content["settings"], _SETTINGS)
    if wrong is not None:
        raise DataError(f"{Path(path) / MARKER.file} cannot be used: {wrong}; give a new folder, or repair it")
    settings: dict[str, Any] = content["settings"]
    return settings
