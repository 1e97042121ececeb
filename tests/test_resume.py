"""Runs that are killed at any moment: nothing is half written, and the same call goes on to the same bits."""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fresh import start
from small import exemplars_in, learn_small
from twinact.backbones import load
from twinact.cli import app
from twinact.errors import DataError
from twinact.runs.folder import SEARCH_FILE, RunFolder
from twinact.runs.lock import NAME, lock
from twinact.space.build import build_space
from twinact.storage import read_safetensors
from twinact.training import search_cache

STEPS = 24
ACTION = "leap.action.safetensors"
PHRASES = ("jumping", "dancing", "with the dog", "on the moon")
PATIENCE_SECONDS = 120.0


def lines_of(run: Path) -> list[str]:
    log = run / "log.jsonl"
    return log.read_text().splitlines() if log.is_file() else []


def wait_for_step(run: Path, step: int) -> None:
    """Until the log tells that a step is finished."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not any(line.startswith(f'{{"step": {step},') for line in lines_of(run)):
        assert time.monotonic() < end, f"step {step} was not reached"
        time.sleep(0.001)


def told(run: Path) -> list[dict[str, object]]:
    """The log without times, and the checksums over them."""
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "crc32")} for line in lines_of(run)]


def command(*arguments: str) -> None:
    """The command line, in this process."""
    app(list(arguments))


def command_until_killed(run: Path, step: int, seconds: float, *arguments: str) -> None:
    """The command line, killed some time after the log tells of a step, whatever it is doing then."""

    def kill() -> None:
        wait_for_step(run, step)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        command(*arguments)
    finally:
        killer.join()  # on a busy machine the run may end first; it is killed all the same


def command_until_its_search_is_kept(*arguments: str) -> None:
    """The command line, killed as soon as it has saved a part of the search for the starting phrase."""
    search_cache._SECONDS_BETWEEN_SAVES = 0.0
    save = search_cache.write_safetensors

    def save_and_die(path: Path, *content: Any) -> None:
        save(path, *content)
        os.kill(os.getpid(), signal.SIGKILL)

    search_cache.write_safetensors = save_and_die
    command(*arguments)


def hold(folder: Path) -> None:
    """Keeps a folder locked for ever."""
    file = lock(folder)
    (folder / "held").touch()
    time.sleep(600)
    file.close()


@pytest.mark.slow  # six processes: 15 s of a free core, minutes of a busy one
@pytest.mark.timeout(900)
def test_killed_four_times_in_fresh_processes_ends_in_the_same_bits(model: Path, tmp_path: Path) -> None:
    """The command's own method, with a LoRA: coefficients, two optimiser groups and a starting phrase to find.

    The first kill comes while that is looked for.
    """
    exemplars_in(tmp_path / "exemplars")
    build_space(load(model), phrases=PHRASES).save(tmp_path / "few.space.safetensors")
    options = {"name": "leap", "model": model, "space": tmp_path / "few.space.safetensors", "steps": STEPS}
    # Saved in every step, so that many kills hit a save.
    options |= {"batch-size": 2, "lora-rank": 2, "checkpoint-every": 1}
    learn = ["learn", str(tmp_path / "exemplars"), *(f"--{name}={value}" for name, value in options.items())]
    run, whole = tmp_path / "pieces", tmp_path / "whole"
    process = start(command, *learn, f"--out={whole}")
    process.join()
    assert process.exitcode == 0
    expected = (whole / ACTION).read_bytes()
    seed = int(os.environ.get("TWINACT_KILL_SEED", "520"))
    print(f"TWINACT_KILL_SEED={seed} kills at the same moments")
    rng = random.Random(seed)
    process = start(command_until_its_search_is_kept, *learn, f"--out={run}")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in run.iterdir()) == [NAME, SEARCH_FILE]
    reached = 0
    for _ in range(3):
        step, seconds = min(reached + rng.randint(1, 5), STEPS), rng.uniform(0.0, 0.05)
        process = start(command_until_killed, run, step, seconds, *learn, f"--out={run}")
        process.join()
        assert process.exitcode == -signal.SIGKILL
        # All that has its final name is whole. A step is told before it is saved, and the one before was saved.
        json.loads((run / "config.json").read_text())
        steps = [read_safetensors(path, "checkpoint")[1]["step"] for path in (run / "checkpoint").glob("step-*")]
        reached = max(steps, default=0)
        assert step - 1 <= reached <= STEPS
        assert len(RunFolder(run, "leap").log.records()) - reached in (0, 1)
        assert not (run / ACTION).exists() or (run / ACTION).read_bytes() == expected
    process = start(command, *learn, f"--out={run}")
    process.join()
    assert process.exitcode == 0
    assert (run / ACTION).read_bytes() == expected
    assert told(run) == told(whole)
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
def test_one_process_at_a_time_and_the_killed_one_leaves_the_folder_free(tmp_path: Path) -> None:
    exemplars_in(tmp_path / "exemplars")
    run = tmp_path / "run"
    process = start(hold, run)
    end = time.monotonic() + PATIENCE_SECONDS
    while not (run / "held").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    (run / "held").unlink()
    with pytest.raises(DataError, match=rf"in use by process {process.pid}; wait for it"):
        learn_small(tmp_path / "exemplars", run)
    assert [path.name for path in run.iterdir()] == [NAME]
    process.kill()
    process.join()
    assert not learn_small(tmp_path / "exemplars", run).already_done
    assert learn_small(tmp_path / "exemplars", run).already_done


def test_a_lock_is_of_this_open_file_and_ends_with_it(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(DataError, match=rf"process {os.getpid()}"):
        lock(tmp_path)
    lock(tmp_path).close()
