"""A lack of memory steps down once, to the same bits, and says so; then it is told what to do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from small import INVERSION, exemplars_in
from tiny import tiny_sd
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import visited_device
from twinact.backbones.sd import StableDiffusion
from twinact.errors import OutOfMemory
from twinact.jobs.job import Job
from twinact.jobs.less_memory import Drawing
from twinact.jobs.models import open_model
from twinact.jobs.run import run_job
from twinact.runs.folder import RunFolder
from twinact.sample import generate
from twinact.training.processes import Processes


def failing(real: Callable[..., Any], *at: int) -> Callable[..., Any]:
    """A function that lacks memory in some of its calls, counted from 1, as torch tells it."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(*arguments, **options)

    return call


@pytest.fixture
def job(model: Path, tmp_path: Path) -> Job:
    exemplars_in(tmp_path / "leap")
    run = {"precision": "fp32", "memory": "normal", "preview_every": 0, "checkpoint_every": 2}
    return Job(exemplars=tmp_path / "leap", config=INVERSION, run_dir=tmp_path / "run", model=str(model), run=run)


# Step 4 of 6 fails after the checkpoint of step 2.
PLACES = [
    ("twinact.training.loop.set_gradients", 4, "step 4"),
    ("twinact.backbones.backbone.to_latents", 2, "encoding the exemplars"),
    ("twinact.jobs.models.load", 1, "opening model"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "call", "doing"), PLACES)
def test_learning_goes_on_with_less_memory_to_the_same_bits(
    place: str, call: int, doing: str, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_job(replace(job, run_dir=tmp_path / "whole"), tell=lambda text: None).action_path.read_bytes()
    module, _, name = place.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(place, failing(real, call))
    used: list[str] = []

    def opening(name: str, precision: str, memory: str) -> Backbone:
        backbone = open_model(name, precision, memory, "cpu")
        used.append(memory)
        return backbone

    told: list[str] = []
    result = run_job(job, opening=opening, tell=told.append)
    (said,) = [line for line in told if "memory" in line]
    assert said.startswith(doing) and said.endswith("has not enough memory; going on with memory low, which is slower")
    assert used == ["low" if doing == "opening model" else "normal"]  # an open model stays open
    assert result.action_path.read_bytes() == whole
    assert RunFolder(job.run_dir, INVERSION.name).done


def test_a_second_lack_of_memory_ends_the_run_with_advice(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from twinact.training.gradients import set_gradients

    monkeypatch.setattr("twinact.training.loop.set_gradients", failing(set_gradients, 1, 2))
    told: list[str] = []
    with pytest.raises(OutOfMemory, match=r"step 1: .* not enough memory; begin a new run folder with --accumulate 2"):
        run_job(job, tell=told.append)
    assert len([line for line in told if "going on with memory low" in line]) == 1


@pytest.mark.parametrize("memory", ["low", "normal"])
def test_where_nothing_is_lower_or_others_wait_it_is_told_at_once(
    memory: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twinact.training.gradients import set_gradients

    monkeypatch.setattr("twinact.training.loop.set_gradients", failing(set_gradients, 1))
    if memory == "normal":
        monkeypatch.setattr("twinact.jobs.less_memory.this_process", lambda: Processes(0, 2, None))
    told: list[str] = []
    with pytest.raises(OutOfMemory, match="step 1"):
        run_job(replace(job, run={**job.run, "memory": memory}), tell=told.append)
    assert not [line for line in told if "going on" in line]


PROMPTS, SEEDS = ["a cat", "a dog in the park", "a red robot"], [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_drawing_goes_on_with_what_is_left(memory: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(model, "cpu")
    whole = [picture.tobytes() for picture in generate(backbone, PROMPTS, seeds=SEEDS, steps=2)]
    # Two of a step for the first batch of two, and one of the second.
    monkeypatch.setattr(backbone.denoiser, "forward", failing(backbone.denoiser.forward, 4))
    told: list[str] = []
    pen = Drawing(backbone, memory, 2, told.append)
    assert pen.lowest == "low"
    images = list(pen.draw(PROMPTS, None, seeds=SEEDS, advice="take less", steps=2))
    assert [picture.tobytes() for picture in images] == whole
    assert told == ["drawing: the GPU has not enough memory; going on with memory low, one picture at a time"]
    assert (pen.memory, pen.batch_size, pen.stepped_down) == ("low", 1, True)
    resting = visited_device(backbone.pipeline().text_encoder) is not None
    assert resting is (memory == "low")  # after an error what rests stays at rest


def test_drawing_steps_down_once() -> None:
    backbone = StableDiffusion(tiny_sd(), "tiny@0")
    told: list[str] = []
    pen = Drawing(backbone, "normal", 4, told.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone.denoiser, "forward", failing(backbone.denoiser.forward, 1, 2))
        with pytest.raises(OutOfMemory, match="drawing: the GPU has not enough memory; take less"):
            list(pen.draw(PROMPTS, None, seeds=SEEDS, advice="take less", steps=2))
    assert len(told) == 1
    least = Drawing(backbone, "low", 1, told.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone.denoiser, "forward", failing(backbone.denoiser.forward, 1))
        with pytest.raises(OutOfMemory, match="take less"):
            list(least.draw(PROMPTS, None, seeds=SEEDS, advice="take less", steps=2))
    assert len(told) == 1
