"""What can be known before the long part is told before it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands import invoke, refused
from small import exemplars_in, small_space
from twinact.action import Action
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, TwinActConfig
from twinact.errors import CheckpointError, ConfigError, DataError, MissingDependency, lacks_memory
from twinact.jobs.job import Job
from twinact.jobs.models import space_of
from twinact.jobs.run import preflight, run_job
from twinact.runs.folder import MARKER

ROUNDING = {"precision": "fp32", "processes_times_accumulate": 1, "compiled": False}


def never(*given: str) -> Backbone:
    raise AssertionError("the model was opened")


def test_a_rank_that_cannot_be_is_told_before_the_search(model: Path, tmp_path: Path) -> None:
    backbone = load(model, "cpu")
    exemplars_in(tmp_path / "leap")
    space = small_space(backbone).save(tmp_path / "few.space.safetensors")
    config = LearnConfig(name="leap", method=TwinActConfig(similarity_weight=0.0, rank=200), steps=1, batch_size=1)
    job = Job(exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run", space=space)
    stages: list[str] = []
    with pytest.raises(ConfigError, match="rank 200 is more than"):
        run_job(job, backbone=backbone, advance=lambda done, whole, stage: stages.append(stage))
    assert stages == [] and not (tmp_path / "run").exists()


def test_parts_that_cannot_be_are_told_before_the_model_opens(tmp_path: Path) -> None:
    exemplars_in(tmp_path / "leap")
    config = LearnConfig(name="leap", batch_size=2)
    run = {"accumulate": 4, "precision": "fp32", "memory": "normal"}
    job = Job(exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run", run=run)
    with pytest.raises(ConfigError, match="batch_size 2 is less than the 4 parts"):
        run_job(job, opening=never)


def test_a_tracker_that_is_missing_is_told_before_the_model_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
    exemplars_in(tmp_path / "leap")
    config, run = LearnConfig(name="leap"), {"tracker": "tensorboard"}
    with pytest.raises(MissingDependency, match="tracker 'tensorboard' is not installed"):
        run_job(Job(exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run", run=run), opening=never)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("import", "lost.safetensors", "--name", "leap", "--out", "new"), 1, "lost.safetensors does not exist"),
        (("import", ".", "--name", "leap", "--out", "new"), 1, "is a folder; give a safetensors file"),
        (("import", "x.safetensors", "--name", "A Leap", "--out", "new"), 2, "name 'A Leap' must be"),
        (("import", "x.safetensors", "--name", "leap", "--out", "new"), 1, "cannot be read"),
        (("generate", "a.action.safetensors", "--prompt", "a <act>", "--width", "100"), 2, "width is 100"),
        (
            ("generate", "a.action.safetensors", "--prompt", "a <act>", "--actor", "lost.safetensors"),
            1,
            "does not exist",
        ),
        (("generate", "a.action.safetensors", "--prompt", "a <act>"), 1, "was made for model 'm@0'"),
        (("space", "build", "--out", "s" * 250), 1, "bytes, at most 255; shorten it"),
        (("read", "x.png", "--out", "s" * 300), 1, "bytes, at most 255; shorten it"),
    ],
)
def test_what_cannot_be_is_told_before_the_model_opens(
    arguments: tuple[str, ...], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("twinact.backbones.load", never)
    monkeypatch.setattr("twinact.jobs.models.load", never)
    monkeypatch.setattr("twinact.backbones.load_words", never)
    Path("x.safetensors").write_bytes(b"damaged")
    Action("leap", [torch.zeros(1, 8)], "m@0").save("a.action.safetensors")
    assert told in refused(*arguments, code=code)


def test_a_run_does_not_go_on_with_other_keypoints(tmp_path: Path) -> None:
    exemplars_in(tmp_path / "leap")
    job = Job(exemplars=tmp_path / "leap", config=LearnConfig(name="leap"), run_dir=tmp_path / "run")
    plain = preflight(job).photographs.hashes
    (tmp_path / "leap" / "1_keypoints.json").write_text('{"people": []}')
    first = preflight(job).photographs.hashes
    assert [one == other for one, other in zip(plain, first, strict=True)] == [True, False, True]
    MARKER.write(tmp_path / "run", {"start": None, "exemplars": first, "rounding": ROUNDING, **job.config.to_dict()})
    assert preflight(job).begun is not None
    (tmp_path / "leap" / "1_keypoints.json").write_text('{"people": [] }')
    with pytest.raises(ConfigError, match="other settings: exemplars"):
        preflight(job)


def test_a_run_folder_that_cannot_be_is_told_before_the_model_opens(tmp_path: Path) -> None:
    exemplars_in(tmp_path / "leap")
    (tmp_path / "file").write_text("x")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        job = Job(exemplars=tmp_path / "leap", config=LearnConfig(name="leap"), run_dir=run_dir)
        with pytest.raises(DataError, match=r"is a file|is no folder"):
            run_job(job, opening=never)


@pytest.mark.slow
def test_a_damaged_space_of_a_stranger_beside_an_action_is_passed_over(model: Path, tmp_path: Path) -> None:
    space = small_space(load(model, "cpu"))
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[1])
    path = action.save(tmp_path / "leap.action.safetensors")
    (tmp_path / "a.space.safetensors").write_bytes(b"damaged")
    save_file({"x": torch.ones(1)}, tmp_path / "b.space.safetensors")
    space.save(tmp_path / "c.space.safetensors")
    assert space_of(action, path, model).hash == space.hash
    (tmp_path / "c.space.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"[ab]\.space\.safetensors"):  # it may have been its own
        space_of(action, path, model)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mmap failed: Cannot allocate memory (os error 12)"), True),
        (OSError(2, "No such file"), False),
        (ValueError("memory of a header"), False),
    ],
)
def test_a_lack_of_memory_is_known_however_it_is_said(error: Exception, lacks: bool) -> None:
    assert lacks_memory(error) is lacks


@pytest.mark.slow
def test_pictures_of_all_folders_are_looked_at_before_the_first_is_learned(model: Path, tmp_path: Path) -> None:
    for name in ("a-leap", "wave", "zoom"):
        exemplars_in(tmp_path / "all" / name)
    for name in ("wave", "zoom"):
        (tmp_path / "all" / name / "broken.png").write_bytes(b"x")
    options = ("--steps", "1", "--start", "jumping", "--preview-every", "0", "--retries", "0")
    result = invoke("learn", tmp_path / "all", "--model", model, "--out", tmp_path / "runs", *options)
    assert result.exit_code == 1
    before, learned, _ = result.stderr.partition("a-leap: learned")
    assert learned and "wave will fail: " in before and "zoom will fail: " in before
