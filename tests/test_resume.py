"""Runs that are killed at any moment: nothing is half written, and the same call goes on to the same bits."""

import json
import os
import random
import secrets
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fresh import start
from small import INVERSION, exemplars_in, learn_small
from twinact.configs import RunConfig
from twinact.errors import DataError
from twinact.files import read_safetensors
from twinact.lock import NAME, lock
from twinact.runs import RunFolder

STEPS = 40
LONG = replace(INVERSION, steps=STEPS)
OFTEN = RunConfig(checkpoint_every=1)  # so that many kills hit a save
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
    """The log without times."""
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines_of(run)]


def learn_until_killed(exemplars: Path, run: Path, step: int, seconds: float) -> None:
    """Learns, and is killed some time after a step is finished, whatever it is doing then."""

    def kill() -> None:
        wait_for_step(run, step)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    learn_small(exemplars, run, LONG, OFTEN)


def hold(folder: Path) -> None:
    """Keeps a folder locked for ever."""
    file = lock(folder)
    (folder / "held").touch()
    time.sleep(600)
    file.close()


def test_killed_three_times_in_fresh_processes_ends_in_the_same_bits(tmp_path: Path) -> None:
    exemplars_in(tmp_path / "exemplars")
    whole = learn_small(tmp_path / "exemplars", tmp_path / "whole", LONG, RunConfig()).action_path
    run = tmp_path / "pieces"
    seed = int(os.environ.get("TWINACT_KILL_SEED", secrets.randbits(32)))
    print(f"TWINACT_KILL_SEED={seed} kills at the same moments")
    rng = random.Random(seed)
    reached = 0
    for _ in range(3):
        step, seconds = reached + rng.randint(1, 8), rng.uniform(0.0, 0.05)
        process = start(learn_until_killed, tmp_path / "exemplars", run, step, seconds)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        # All that has its final name is whole.
        json.loads((run / "config.json").read_text())
        steps = [read_safetensors(path, "checkpoint")[1]["step"] for path in (run / "checkpoint").glob("step-*")]
        assert steps and reached < max(steps) < STEPS and not (run / "leap.action.safetensors").exists()
        reached = max(steps)
        assert len(RunFolder(run, "leap").records()) - reached in (0, 1)
    process = start(learn_small, tmp_path / "exemplars", run, LONG, OFTEN)
    process.join()
    assert process.exitcode == 0
    assert (run / "leap.action.safetensors").read_bytes() == whole.read_bytes()
    assert told(run) == told(tmp_path / "whole")
    assert not list(run.rglob("*.tmp"))


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
