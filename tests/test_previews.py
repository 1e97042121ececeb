"""Previews: drawn at the right steps with what is learned by then, and without any effect on the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from small import exemplars_in
from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.configs import LearnConfig, RunConfig
from twinact.previews import FOLDER, PROMPTS, Previews
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.train import StepRecord, TrainResult
from twinact.workflow import learn

TWINACT = LearnConfig(name="leap", steps=4, batch_size=2, similarity_weight=0.0, start="jumping", seed=3)
WITH_LORA = replace(TWINACT, method="textual-inversion", start=None, lora_rank=2)
RUN = RunConfig(checkpoint_every=2, preview_every=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    exemplars_in(folder)
    return folder


def sheets(run: Path) -> list[str]:
    return sorted(path.name for path in (run / FOLDER).glob("*"))


@pytest.mark.parametrize(("config", "memory"), [(TWINACT, "normal"), (WITH_LORA, "low")], ids=["twinact", "lora-low"])
def test_previews_show_what_is_learned_and_change_no_bit(
    config: LearnConfig, memory: str, backbone: Backbone, space: ActionSpace, pictures: Path, tmp_path: Path
) -> None:
    def run(name: str, run: RunConfig) -> TrainResult:
        return learn(pictures, config, tmp_path / name, backbone=backbone, space=space, run=run)

    plain = run("plain", replace(RUN, preview_every=0))
    with torch.random.fork_rng(devices=[]):
        shown = run("shown", replace(RUN, memory=memory))
    assert shown.action_path.read_bytes() == plain.action_path.read_bytes()
    assert not (tmp_path / "plain" / FOLDER).exists()
    assert sheets(tmp_path / "shown") == ["step_000002.png", "step_000004.png"]

    action = shown.action
    drawn = generate(
        backbone, PROMPTS, {PLACEHOLDER: action.vectors}, loras=[action.lora], seeds=[3, 4],
        batch_size=1 if memory == "low" else 2,
    )  # fmt: skip
    first, last = (np.asarray(Image.open(tmp_path / "shown" / FOLDER / f"step_{step:06d}.png")) for step in (2, 4))
    wanted = np.concatenate([np.asarray(picture) for picture in drawn], axis=1)
    assert last.shape == wanted.shape and np.abs(last.astype(int) - wanted.astype(int)).max() <= 1
    assert not np.array_equal(first, last)


def test_a_preview_that_does_not_fit_is_told_once_and_learning_goes_on(
    backbone: Backbone, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = 0

    def full(module: nn.Module, arguments: tuple[object, ...]) -> None:
        nonlocal tries
        if not torch.is_grad_enabled():
            tries += 1
            raise torch.OutOfMemoryError("the device is full")

    config = replace(WITH_LORA, lora_rank=0)
    plain = learn(pictures, config, tmp_path / "plain", backbone=backbone)
    hook = backbone.denoiser.register_forward_pre_hook(full)
    try:
        result = learn(pictures, config, tmp_path / "run", backbone=backbone, run=RUN)
    finally:
        hook.remove()
    assert tries == 1 and not (tmp_path / "run" / FOLDER).exists()
    assert torch.equal(result.action.vectors[0], plain.action.vectors[0])
    told = capsys.readouterr().err
    assert told.count("no more previews: drawing previews: the GPU has not enough memory") == 1
    assert "--preview-every 0" in told


def test_a_sheet_that_is_there_is_kept_and_a_stopped_run_goes_on_with_them(
    backbone: Backbone, pictures: Path, tmp_path: Path
) -> None:
    config = replace(WITH_LORA, lora_rank=0)

    def stop(record: StepRecord) -> None:
        if record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(pictures, config, tmp_path, backbone=backbone, run=RUN, progress=stop)
    assert sheets(tmp_path) == ["step_000002.png"]  # whoever stops does not want to wait for another
    (tmp_path / FOLDER / "step_000002.png").write_bytes(b"mine")
    learn(pictures, config, tmp_path, backbone=backbone, run=RUN)
    assert sheets(tmp_path) == ["step_000002.png", "step_000004.png"]
    assert (tmp_path / FOLDER / "step_000002.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("every", "checkpoint_every", "steps"),
    [(50, 50, [50, 100, 150, 200]), (100, 50, [100, 200]), (60, 50, [100, 150, 200]), (70, 20, [80, 140, 200]),
     (10, 100, [100, 200]), (500, 50, [200])],
)  # fmt: skip
def test_when_it_is_time(
    every: int, checkpoint_every: int, steps: list[int], backbone: Backbone, tmp_path: Path
) -> None:
    run = RunConfig(checkpoint_every=checkpoint_every, preview_every=every)
    previews = Previews(backbone, tmp_path, replace(TWINACT, steps=200), run)
    assert [step for step in range(checkpoint_every, 201, checkpoint_every) if previews._due(step)] == steps
