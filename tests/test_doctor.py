"""`twinact doctor`: what it finds on this machine and on others, and that it names nobody."""

import json
from pathlib import Path

import pytest

from commands import done, invoke
from twinact.errors import CheckpointError
from twinact.jobs.doctor import BROKEN, FINE, MISSING, SIZES, fitting, nano, writing
from twinact.jobs.models import open_model
from twinact.jobs.resources import Gpu

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_this_machine_is_fine_and_nobody_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = done("doctor", "--json")
    told = json.loads(result.stdout)
    assert told["healthy"] is True
    by_name = {one["name"]: one for one in told["findings"]}
    assert {"twinact", "Python", "CPU", "memory", "GPU", "torch", "nano", "keypoints", "disk"} <= by_name.keys()
    assert all(one["advice"] for one in told["findings"] if one["state"] != FINE)
    assert str(tmp_path) not in result.stdout and str(Path.home()) not in result.stdout
    assert not list(tmp_path.iterdir())  # the write test cleans up


@pytest.mark.slow
def test_lines_for_people(toy_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("twinact.jobs.doctor.nano", lambda: nano(lambda: open_model(toy_nano)))
    monkeypatch.setattr("twinact.jobs.doctor._LEAST_FREE_BYTES", 2**80)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "  ok  nano: opened and drew in " in result.stdout
    assert "  !!  disk: " in result.stdout and "      free some space" in result.stdout


def test_what_fits() -> None:
    small, large = {"small": 10**9}, {"large": 17 * 10**9}
    assert [one.state for one in fitting(Gpu(8 * 2**30, True), 2**40, small | large)] == [FINE, MISSING]
    (one,) = fitting(Gpu(24 * 2**30, True), 2**40, large)
    assert one.told == "fits in int8, about 19.4 GiB"
    (one,) = fitting(Gpu(6 * 2**30, False), 2**40, small)
    assert "fits in fp16" in one.told
    (one,) = fitting(None, 64 * 2**30, small)
    assert one.told.endswith("slow without a GPU")
    (one,) = fitting(None, 8 * 2**30, large)
    assert one.advice is not None and "12 GiB are needed even in nf4" in one.told


def test_sizes_are_those_that_were_counted() -> None:
    models = json.loads((ROOT / "benchmarks/results/full_size.json").read_text(encoding="utf-8"))["models"]
    assert sorted(SIZES.values()) == sorted(sum(one["counted"]["parameters"].values()) for one in models.values())


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.open", full)
    (one,) = writing(tmp_path)
    assert (one.state, "No space left" in one.told) == (BROKEN, True)


def test_a_damaged_model_is_told() -> None:
    def damaged() -> None:
        raise CheckpointError("cut short")

    (one,) = nano(damaged)  # type: ignore[arg-type]
    assert (one.state, one.told) == (BROKEN, "cut short")
