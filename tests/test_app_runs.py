"""Runs that the page starts: what their folders say, and what becomes of them when they are stopped."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from small import exemplars_in
from twinact.app.exemplars import Checked
from twinact.app.folder import WorkFolder
from twinact.app.run_state import SAID, RunState
from twinact.app.runs import RECORD, Runs
from twinact.app.studio import Studio
from twinact.errors import ConfigError, DataError

GONE = {"command": ["learn"], "asked": 1.0, "pid": 2**22 - 1, "created": 1.0, "stopped": False}


@pytest.fixture
def folder(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path)


def recorded(folder: WorkFolder, said: str = "", **record: object) -> RunState:
    """A run whose folder says this, as the page sees it."""
    run = folder.run("leap")
    run.mkdir(parents=True)
    (run / RECORD).write_text(json.dumps({**GONE, **record}))
    (run / SAID).write_text(said)
    return Runs(folder, "nano").state("leap")


@pytest.mark.parametrize(("record", "said", "phase"), [
    ({"pid": None, "created": None}, "", "waiting"),
    ({"pid": None, "created": None, "stopped": True}, "", "stopped"),
    ({}, "opening model nano\n", "stopped"),  # its machine went down
    ({}, "opening model nano\nerror: the disk is full\n", "failed"),
    ({"stopped": True}, "error: late\n", "stopped"),
    ({}, "Traceback (most recent call last):\n  here\nValueError: odd\n", "failed"),
])  # fmt: skip
def test_a_run_whose_process_is_gone_never_seems_to_be_at_work(
    folder: WorkFolder, record: dict[str, object], said: str, phase: str
) -> None:
    state = recorded(folder, said, **record)
    assert state.phase == phase
    assert (state.problem is None) == (phase != "failed")


def test_the_process_of_another_is_not_taken_for_the_run(folder: WorkFolder) -> None:
    assert recorded(folder, pid=1).phase == "stopped"  # there is such a process, and it began at another time


def test_a_damaged_record_is_no_run_of_the_page(folder: WorkFolder) -> None:
    (folder.run("leap")).mkdir(parents=True)
    (folder.run("leap") / RECORD).write_text('{"command": "rm -rf", "pid": "1"}')
    runs = Runs(folder, "nano")
    assert runs.state("leap").phase == "stopped"
    for act in (runs.stop, runs.go_on):
        with pytest.raises(DataError, match="not begun by the page"):
            act("leap")


def test_settings_and_names_are_checked_before_anything_is_written(folder: WorkFolder) -> None:
    runs = Runs(folder, "nano")
    for name, given in (("../x", {}), ("leap", {"steps": -1}), ("leap", {"stepz": 1}), ("leap", {"memory": "much"})):
        with pytest.raises(ConfigError):
            runs.submit(name, given)
    assert list(folder.root.iterdir()) == []


@pytest.mark.slow
def test_fifty_runs_that_wait_survive_the_page_in_their_order(folder: WorkFolder) -> None:
    own = psutil.Process()
    recorded(folder, pid=own.pid, created=own.create_time())  # at work as long as this test is
    runs = Runs(folder, "nano")
    names = [f"run-{i}" for i in reversed(range(50))]
    for name in names:
        runs.submit(name, {"steps": 1})
    later = Runs(folder, "nano")
    later.tend()
    assert later.state("leap").phase == "starting"
    assert {later.state(name).phase for name in names} == {"waiting"}
    later.stop("run-7")
    assert later.state("run-7").phase == "stopped" and later.state("run-8").phase == "waiting"
    waiting = {name: json.loads((folder.run(name) / RECORD).read_text())["asked"] for name in names}
    assert sorted(waiting, key=lambda name: waiting[name]) == names


@pytest.mark.slow
def test_runs_wait_for_each_other_stop_go_on_and_outlive_the_page(folder: WorkFolder, model: Path) -> None:
    for name in ("leap", "kick"):
        exemplars_in(folder.exemplars(name))
    (folder.root / "torch.py").write_text("raise SystemExit('code of the folder was run')")
    runs = Runs(folder, str(model))
    given = {"method": "textual-inversion", "steps": 400, "batch_size": 2, "checkpoint_every": 10, "preview_every": 0}
    runs.submit("leap", given)
    command = runs.submit("kick", {**given, "steps": 3})
    assert command[:2] == ["learn", "exemplars/kick"]
    with pytest.raises(DataError, match="there already"):
        runs.submit("leap", given)
    wait(lambda: runs.state("leap").step > 5)
    assert runs.state("kick").phase == "waiting"
    assert runs.state("leap").seconds_left is not None

    later = Runs(folder, str(model))  # as after the page was closed and opened again
    assert later.state("leap").phase == "learning"
    later.stop("leap")
    wait(lambda: later.state("leap").phase == "stopped")
    done = later.state("leap").step
    assert 5 < done < 400
    with later.tended():
        wait(lambda: later.state("kick").phase == "done")
        assert len(later.state("kick").losses) == 3
        later.go_on("leap")
        wait(lambda: later.state("leap").step > done)
        later.stop("leap")
        wait(lambda: not later.state("leap").at_work)


def wait(what: Callable[[], bool], seconds: float = 120) -> None:
    """Until something is so; no test is about how long that takes."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.2)


def test_a_run_is_kept_before_the_model_is_used(folder: WorkFolder) -> None:
    learn = pytest.importorskip("twinact.app.tabs.learn", reason="the extra app is not installed", exc_type=ImportError)
    gradio, common = pytest.importorskip("gradio"), pytest.importorskip("twinact.app.tabs.common")
    own = psutil.Process()
    recorded(folder, pid=own.pid, created=own.create_time())  # at work, so that the next one waits
    runs = Runs(folder, "nano")
    # Whoever uses this model fails: as if somebody else used it until the server was killed.
    page = common.Page(folder, Studio(folder, str(folder.root / "no-model")), runs, folder.root)

    async def built() -> Any:  # gradio makes an event loop where none runs, and leaves it open
        with gradio.Blocks() as blocks:
            learn.build(page)
        return blocks

    begin = next(one.fn for one in asyncio.run(built()).fns.values() if one.name == "begin")
    exemplars_in(folder.root / "draft")
    begin(Checked(folder.root / "draft", ()), [], "kick", [["steps", "3", ""]])
    assert Runs(folder, "nano").state("kick").phase == "waiting"
    assert len(list(folder.exemplars("kick").glob("*.png"))) == len(list((folder.root / "draft").glob("*.png")))
