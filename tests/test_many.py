"""Many actions: a folder of folders, one after another or on a Ray cluster, with retries and a table."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from small import INVERSION, exemplars_in
from twinact.cli import app
from twinact.cli.learn import action_folders
from twinact.errors import ConfigError, DataError
from twinact.jobs.job import Job, Outcome
from twinact.jobs.many import attempt, learn_here, table
from twinact.runs.lock import NAME

NAMES = ("leap", "spin", "wave")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        exemplars_in(folder / name)
    return folder


def jobs(model: Path, photos: Path, out: Path, steps: int = 3) -> list[Job]:
    run = {"checkpoint_every": 2}
    return [
        Job(
            exemplars=photos / name,
            config=replace(INVERSION, name=name, steps=steps),
            run_dir=out / name,
            model=str(model),
            run=run,
        )
        for name in NAMES
    ]


def learn(*options: object) -> Result:
    return CliRunner().invoke(app, ["learn", *map(str, options)])


@pytest.mark.slow
def test_one_failing_action_leaves_the_others_alone(model: Path, photos: Path, tmp_path: Path) -> None:
    three = jobs(model, photos, tmp_path)
    three[1] = replace(three[1], exemplars=tmp_path / "nowhere")
    seen: list[Outcome] = []
    outcomes = learn_here(three, 2, report=seen.append)
    assert seen == outcomes and [one.state for one in outcomes] == ["learned", "failed", "learned"]
    assert outcomes[1].tries == 1 and "does not exist" in str(outcomes[1].problem)  # no retry would help
    assert outcomes[0].action is not None and outcomes[0].action.is_file()
    again = learn_here(jobs(model, photos, tmp_path), 0, report=seen.append)
    assert [one.state for one in again] == ["already done", "learned", "already done"]
    assert again[0].loss == outcomes[0].loss
    lines = table(outcomes).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["leap", "learned", "1"], ["spin", "failed", "1"], ["wave", "learned", "1"],
    ]  # fmt: skip
    assert lines[1].endswith("leap.action.safetensors") and "does not exist" in lines[2]


@pytest.mark.slow
def test_what_may_pass_is_tried_again(model: Path, photos: Path, tmp_path: Path) -> None:
    """What is not ours to raise, as from a driver, may be gone the next time."""
    job = jobs(model, photos, tmp_path)[0]
    places: list[str] = []

    def meddle(done: int, total: int, stage: str) -> None:
        places.append(stage)
        if len(places) == 2:
            raise RuntimeError("CUDA error: unspecified launch failure")

    (outcome,) = learn_here([job], 1, advance=meddle, report=lambda outcome: None)
    assert (outcome.state, outcome.tries) == ("learned", 2)
    places.clear()
    failing = attempt(replace(job, run_dir=tmp_path / "other"), advance=meddle)
    assert failing.may_pass and failing.problem == "RuntimeError: CUDA error: unspecified launch failure"


@pytest.mark.slow
def test_the_command_learns_a_folder_of_folders(model: Path, photos: Path, tmp_path: Path) -> None:
    options = (photos, "--model", model, "--method", "textual-inversion", "--steps", "2", "--out", tmp_path)
    result = learn(*options)
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0][:2] == ["action", "state"] and [row[:2] for row in rows[1:]] == [[n, "learned"] for n in NAMES]
    assert all(Path(row[-1]) == tmp_path / row[0] / f"{row[0]}.action.safetensors" for row in rows[1:])
    document = json.loads(learn(*options, "--json").stdout)
    assert [(one["name"], one["state"]) for one in document["actions"]] == [(n, "already done") for n in NAMES]
    other = learn(*options, "--seed", "4")
    assert other.exit_code == 1 and other.stdout.count("failed") == 3 and "seed (0 there, 4 now)" in other.stdout


def test_what_cannot_be_many_is_refused(photos: Path, tmp_path: Path) -> None:
    for options, told in (
        ((photos, "--name", "leap"), "is of one action"),
        ((photos / "leap", "--cluster", "ray"), "one folder per action"),
        ((photos, "--cluster", "slurm"), "must be one of ray"),
    ):
        result = learn(*options)
        assert result.exit_code == 2 and told in result.stderr
    (tmp_path / "Big Leap").mkdir()
    (tmp_path / "big-leap").mkdir()
    with pytest.raises(ConfigError, match="both make an action called 'big-leap'"):
        action_folders(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        action_folders(tmp_path / "nowhere")
    assert [path.name for path in action_folders(photos)] == list(NAMES)
    assert action_folders(photos / "leap") == []


def test_missing_ray_is_one_line_with_the_command_that_installs_it(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    result = learn(photos, "--cluster", "ray")
    assert result.exit_code == 1 and result.stdout == ""
    told = "error: cluster 'ray' needs the package ray; pip install 'twinact[cluster]'"
    assert result.stderr.splitlines()[-1] == told


@pytest.fixture
def installed_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray, which knows of no cluster and leaves no token in the home folder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return pytest.importorskip("ray", reason="Ray is not installed; pip install 'twinact[cluster]'")


@pytest.fixture
def two_workers(installed_ray: Any) -> Iterator[None]:
    """A cluster of two workers on this machine."""
    installed_ray.init(num_cpus=2, num_gpus=0, log_to_driver=False, logging_level="ERROR")
    yield
    installed_ray.shutdown()


@pytest.mark.slow  # starting a cluster takes ten seconds
@pytest.mark.usefixtures("two_workers")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray", "ignore:.*:FutureWarning:ray")
def test_ray_learns_the_same_bits_although_a_worker_is_killed(model: Path, photos: Path, tmp_path: Path) -> None:
    from twinact.jobs.cluster import learn_on_ray

    here = learn_here(jobs(model, photos, tmp_path / "here", 20), 0, report=lambda outcome: None)
    three = jobs(model, photos, tmp_path / "ray", 20)
    three[2] = replace(three[2], exemplars=tmp_path / "nowhere")
    run = tmp_path / "ray" / "spin"

    def kill() -> None:
        end = time.monotonic() + 600
        while not (run / "log.jsonl").is_file() or len((run / "log.jsonl").read_text().splitlines()) < 3:
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(int((run / NAME).read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    seen: list[Outcome] = []
    outcomes = learn_on_ray(three, 1, report=seen.append)
    killer.join()
    assert [(one.name, one.state, one.tries) for one in outcomes] == [
        ("leap", "learned", 1), ("spin", "learned", 2), ("wave", "failed", 1),
    ]  # fmt: skip
    assert {one.name for one in seen} == set(NAMES) and "does not exist" in str(outcomes[2].problem)
    for one, other in zip(outcomes[:2], here, strict=False):
        assert one.action is not None and other.action is not None
        assert one.action.read_bytes() == other.action.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray", "ignore:.*:FutureWarning:ray")
def test_the_command_makes_a_cluster_where_there_is_none(model: Path, tmp_path: Path, installed_ray: Any) -> None:
    exemplars_in(tmp_path / "photos" / "leap")
    options = ("--method", "textual-inversion", "--steps", "2", "--out", tmp_path / "runs", "--cluster", "ray")
    result = learn(tmp_path / "photos", "--model", model, *options)
    assert result.exit_code == 0, result.stderr
    assert "learning 1 actions on the Ray cluster" in result.stderr and "leap: learned" in result.stderr
    (row,) = result.stdout.splitlines()[1:]
    assert row.split()[:3] == ["leap", "learned", "1"]
    assert Path(row.split()[-1]) == tmp_path / "runs" / "leap" / "leap.action.safetensors"
    assert not installed_ray.is_initialized()
