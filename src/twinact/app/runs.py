"""Runs that the page starts: each is the command ``twinact learn`` in a process of its own, in its own run folder.

The page only looks at the folders. What it must remember lies there too, so that closing the browser or stopping the
page changes nothing: ``.page.json`` holds the command and the process, ``.page.log`` what the process says. One run is
at work at a time, the others wait in the order in which they were asked for.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil

from twinact.app.folder import RECORD, WorkFolder
from twinact.app.run_state import SAID, RunState, look
from twinact.configs import LearnConfig, RunConfig
from twinact.errors import DataError
from twinact.runs.folder import MARKER
from twinact.storage import atomic_write_bytes, misfit, read_file

_RECORD = {"command": list[str], "asked": float, "pid": int | None, "created": float | None, "stopped": bool}
_MOST_BYTES = 1_000_000
_SECONDS_BETWEEN_LOOKS = 1.0
_SAME_SECONDS = 2.0  # by so much may the time at which a process began seem to move when the clock is set

# Of this process: somebody must ask how each has ended, or it stays in the list of processes.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def command(folder: WorkFolder, name: str, model: str, settings: Mapping[str, Any]) -> list[str]:
    """The words of ``twinact learn`` for an action of the folder, to be given there.

    Args:
        folder: Holds the exemplars.
        name: Of the action.
        model: As ``--model`` takes it.
        settings: By their names with underscores; they are checked by the command line as well.
    """
    words = ["learn", folder.told(folder.exemplars(name)), "--name", name, "--out", folder.told(folder.run(name))]
    words += [] if model == "nano" else ["--model", model]
    for key, value in settings.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    return words


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings with which a run could not begin.

    Raises:
        ConfigError: One cannot be used.
    """
    of_running = {one.name for one in fields(RunConfig)}
    RunConfig(**{key: value for key, value in settings.items() if key in of_running})
    rest = {key: value for key, value in settings.items() if key not in of_running}
    LearnConfig.from_dict({**rest, "name": name})


def shown(words: list[str]) -> str:
    """A command as people type it."""
    return shlex.join(["twinact", *words])


class Runs:
    """The runs of a folder.

    Args:
        folder: Of the page.
        model: As ``--model`` takes it.
    """

    def __init__(self, folder: WorkFolder, model: str) -> None:
        self._folder, self._model = folder, model
        self._lock = threading.Lock()

    def submit(self, name: str, settings: Mapping[str, Any]) -> list[str]:
        """Ask for a run; it begins when no other is at work.

        Returns:
            Its command.

        Raises:
            DataError: A run has the name.
            ConfigError: A setting cannot be used.
        """
        check_settings(name, settings)
        words = command(self._folder, name, self._model, settings)
        run_dir = self._folder.run(name)
        with self._lock:
            if (run_dir / RECORD).exists() or (run_dir / MARKER.file).exists():
                raise DataError(f"a run called {name!r} is there already; give another name")
            self._write(run_dir, _waiting({"command": words}))
        self.tend()
        return words

    def go_on(self, name: str) -> None:
        """Go on with a run that was stopped or has failed.

        Raises:
            DataError: There is no such run, or the page did not begin it.
        """
        with self._lock:
            record = self._begun(name, "give its command again")
            if not self._alive(record):
                self._write(self._folder.run(name), _waiting(record))
        self.tend()

    def stop(self, name: str) -> None:
        """Have a run save a checkpoint and stop, as Ctrl-C does; one that waits begins no more.

        Raises:
            DataError: There is no such run, or the page did not begin it.
        """
        with self._lock:
            record = self._begun(name, "press Ctrl-C where it runs")
            self._write(self._folder.run(name), {**record, "stopped": True})
            if self._alive(record):
                os.kill(record["pid"], signal.SIGTERM)  # not SIGINT, which shells have background processes ignore

    @contextmanager
    def tended(self) -> Iterator[None]:
        """While open, runs that wait begin when it is their turn, whether or not a browser looks."""
        closed = threading.Event()

        def tend() -> None:
            while not closed.wait(_SECONDS_BETWEEN_LOOKS):
                self.tend()

        thread = threading.Thread(target=tend, name="runs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closed.set()
            thread.join()

    def tend(self) -> None:
        """Begin the run that has waited longest, if none is at work."""
        with self._lock:
            waiting = []
            for name in self._folder.runs():
                record = self._read(self._folder.run(name))
                if record is None:
                    continue
                if self._alive(record):
                    return
                if record["pid"] is None and not record["stopped"]:
                    waiting.append((record["asked"], name, record))
            if waiting:
                _, name, record = min(waiting, key=lambda one: one[:2])
                self._begin(self._folder.run(name), record)

    def state(self, name: str) -> RunState:
        """How a run stands.

        Raises:
            ConfigError: The name cannot be one.
        """
        run_dir = self._folder.run(name)
        record = self._read(run_dir)
        alive = record is not None and self._alive(record)
        asked_for = None
        if record is not None and not record["stopped"]:
            asked_for = "waiting" if record["pid"] is None else "begun"
        return look(run_dir, name, alive, asked_for)

    def command_of(self, name: str) -> str:
        """The command of a run as people type it; empty for one that the page did not begin."""
        record = self._read(self._folder.run(name))
        return "" if record is None else shown(record["command"])

    def _begin(self, run_dir: Path, record: Mapping[str, Any]) -> None:
        said = os.open(run_dir / SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            child = subprocess.Popen(
                # Without -P, Python would take modules from the folder before its own.
                [sys.executable, "-P", "-m", "twinact", *record["command"]],
                cwd=self._folder.root,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C on the page's terminal is not meant for it
            )
        finally:
            os.close(said)
        _CHILDREN[child.pid] = child
        created = psutil.Process(child.pid).create_time()
        self._write(run_dir, {**record, "pid": child.pid, "created": created})

    def _alive(self, record: Mapping[str, Any]) -> bool:
        """Whether the process of a run is at work; one that got its number later is another one."""
        if record["pid"] is None:
            return False
        child = _CHILDREN.get(record["pid"])
        if child is not None and child.poll() is not None:
            _CHILDREN.pop(record["pid"], None)
        try:
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["created"]) < _SAME_SECONDS
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def _begun(self, name: str, instead: str) -> dict[str, Any]:
        """The record of a run; a DataError says what to do instead where the page did not begin it."""
        record = self._read(self._folder.run(name))
        if record is None:
            raise DataError(f"run {name!r} was not begun by the page; {instead}")
        return record

    def _read(self, run_dir: Path) -> dict[str, Any] | None:
        try:
            record = json.loads(read_file(run_dir / RECORD, _MOST_BYTES))
        except (OSError, ValueError, DataError):
            return None
        return record if misfit(record, _RECORD) is None else None

    def _write(self, run_dir: Path, record: Mapping[str, Any]) -> None:
        atomic_write_bytes(run_dir / RECORD, json.dumps(record).encode())


def _waiting(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that is to begin when it is its turn."""
    return {**record, "asked": time.time(), "pid": None, "created": None, "stopped": False}
