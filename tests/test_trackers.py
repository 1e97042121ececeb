"""Numbers of a run in TensorBoard and Weights & Biases: they are those of the log, and say nothing about people."""

import json
from pathlib import Path

import pytest

from commands import done, refused
from small import exemplars_in
from twinact.runs.trackers import FOLDER, Tracker


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exemplars_in(tmp_path / "leap")
    (tmp_path / "leap" / "0.txt").write_text("grandma <act>")


def learn(model: Path, tracker: str, steps: int = 3) -> list[dict[str, float]]:
    """The lines of the log of a run."""
    done("learn", "leap", "--model", model, "--method", "textual-inversion", "--steps", str(steps), "--preview-every",
         "0", "--tracker", tracker)  # fmt: skip
    return [json.loads(line) for line in Path("runs/leap/log.jsonl").read_text().splitlines()]


def mentions_people(folder: Path, tmp_path: Path) -> list[str]:
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return [word for word in ("grandma", str(tmp_path), str(Path.home()) + "/") if word.encode() in data]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library
def test_tensorboard(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = learn(model, "tensorboard")
    folder = tmp_path / "runs/leap" / FOLDER
    events = EventAccumulator(str(folder / "twinact")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["step"], pytest.approx(line["terms"]["loss"], rel=1e-5)) for line in log]  # type: ignore[index]
    assert shown == expected and len(shown) == 3
    assert {"loss", "learning_rate", "seconds"} <= set(events.Tags()["scalars"])
    assert not mentions_people(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_offline(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    learn(model, "wandb")
    wandb.teardown()  # its process and threads would stay for as long as this one
    folder = tmp_path / "runs/leap" / FOLDER
    (record,) = folder.rglob("*.wandb")
    assert b"learning_rate" in record.read_bytes()
    assert not mentions_people(folder, tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_when_its_tracker_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")

    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no line")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", broken)
    tracker = Tracker("tensorboard", Path("run"), {"name": "leap"})
    for step in (1, 2):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert capsys.readouterr().err == "no more tracking: no line\n"
    assert len(learn(model, "tensorboard")) == 3


def test_a_tracker_that_is_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: False)
    remarks = refused_last("learn", "leap", "--model", model, "--method", "textual-inversion", "--tracker", "wandb")
    assert remarks == "error: tracker 'wandb' is not installed; run pip install 'twinact[track]'"
    assert "did you mean 'wandb'" in refused("learn", "leap", "--tracker", "wandbb", code=2)


def refused_last(*command: str | Path) -> str:
    from commands import invoke

    result = invoke(*command)
    assert result.exit_code == 1
    return result.stderr.splitlines()[-1]
