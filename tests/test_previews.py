"""Previews: drawn at the right steps with what is learned by then, and without any effect on the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from small import exemplars_in, learn
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, RunConfig, TextualInversionConfig, TwinActConfig
from twinact.methods.textual_inversion import TextualInversion
from twinact.runs.folder import PREVIEW_FOLDER, PREVIEW_PROMPTS
from twinact.runs.previews import Previews
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.training.loop import TrainResult

TWINACT = LearnConfig(
    name="leap", method=TwinActConfig(similarity_weight=0.0), steps=4, batch_size=2, start="jumping", seed=3
)
WITH_LORA = replace(TWINACT, method=TextualInversionConfig(), start=None, lora_rank=2)
RUN = RunConfig(checkpoint_every=2, preview_every=2)


DRAWING_STEPS = 3


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews as rough as they may be."""
    monkeypatch.setattr("twinact.backbones.backbone.Backbone.steps", DRAWING_STEPS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    exemplars_in(folder)
    return folder


def sheets(run: Path) -> list[str]:
    return sorted(path.name for path in (run / PREVIEW_FOLDER).glob("*"))


@pytest.mark.slow
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
    assert not (tmp_path / "plain" / PREVIEW_FOLDER).exists()
    assert sheets(tmp_path / "shown") == ["step_000000.png", "step_000002.png", "step_000004.png"]

    action = shown.action
    drawn = generate(
        backbone, PREVIEW_PROMPTS, {PLACEHOLDER: action.vectors}, loras=[action.lora], seeds=[3, 4],
        batch_size=1 if memory == "low" else 2, steps=DRAWING_STEPS,
    )  # fmt: skip
    first, last = (
        np.asarray(Image.open(tmp_path / "shown" / PREVIEW_FOLDER / f"step_{step:06d}.png")) for step in (2, 4)
    )
    wanted = np.concatenate([np.asarray(picture) for picture in drawn], axis=1)
    assert last.shape == wanted.shape and np.abs(last.astype(int) - wanted.astype(int)).max() <= 1
    assert not np.array_equal(first, last)
    begun = np.asarray(Image.open(tmp_path / "shown" / PREVIEW_FOLDER / "step_000000.png"))
    without = generate(
        backbone, ["a panda in a park", "a robot on the moon"], seeds=[3, 4],
        batch_size=1 if memory == "low" else 2, steps=DRAWING_STEPS,
    )  # fmt: skip
    below = np.concatenate([np.asarray(picture) for picture in without], axis=1)
    assert begun.shape == (2 * last.shape[0], *last.shape[1:])
    assert np.abs(begun[len(last) :].astype(int) - below.astype(int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("the device is full"), "drawing previews: the GPU has not enough memory"),
        (ValueError("of a library\nin many lines"), "of a library"),
        (RuntimeError("of a driver"), "of a driver"),
    ],
)
def test_a_preview_that_fails_is_told_once_and_learning_goes_on(
    error: Exception, message: str, backbone: Backbone, pictures: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tries = 0

    def full(module: nn.Module, arguments: tuple[object, ...]) -> None:
        nonlocal tries
        if not torch.is_grad_enabled():
            tries += 1
            raise error

    config = replace(WITH_LORA, lora_rank=0)
    plain = learn(pictures, config, tmp_path / "plain", backbone=backbone)
    hook = backbone.denoiser.register_forward_pre_hook(full)
    try:
        result = learn(pictures, config, tmp_path / "run", backbone=backbone, run=RUN)
    finally:
        hook.remove()
    assert tries == 1 and not (tmp_path / "run" / PREVIEW_FOLDER).exists()
    assert torch.equal(result.action.vectors[0], plain.action.vectors[0])
    told = capsys.readouterr().err
    assert told.count(f"no more previews: {message}") == 1
    assert ("--preview-every 0" in told) is ("memory" in message)


@pytest.mark.slow
def test_a_sheet_that_is_there_is_kept_and_a_stopped_run_goes_on_with_them(
    backbone: Backbone, pictures: Path, tmp_path: Path
) -> None:
    config = replace(WITH_LORA, lora_rank=0)

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(pictures, config, tmp_path, backbone=backbone, run=RUN, progress=stop)
    # Whoever stops does not want to wait for another.
    assert sheets(tmp_path) == ["step_000000.png", "step_000002.png"]
    (tmp_path / PREVIEW_FOLDER / "step_000000.png").unlink()  # of a step that is not taken again
    Image.new("L", (1, 1)).save(tmp_path / PREVIEW_FOLDER / "step_000002.png")
    mine = (tmp_path / PREVIEW_FOLDER / "step_000002.png").read_bytes()
    learn(pictures, config, tmp_path, backbone=backbone, run=RUN)
    assert sheets(tmp_path) == ["step_000002.png", "step_000004.png"]
    assert (tmp_path / PREVIEW_FOLDER / "step_000002.png").read_bytes() == mine


@pytest.mark.slow
def test_a_preview_that_a_kill_left_out_is_drawn_when_the_run_goes_on(
    backbone: Backbone, pictures: Path, tmp_path: Path
) -> None:
    config = replace(WITH_LORA, lora_rank=0)

    def stop(step: int) -> None:
        if step == 2:  # its checkpoint is saved, its preview is not drawn
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(pictures, config, tmp_path, backbone=backbone, run=RUN, progress=stop)
    assert sheets(tmp_path) == ["step_000000.png"]
    learn(pictures, config, tmp_path, backbone=backbone, run=RUN)
    assert sheets(tmp_path) == ["step_000000.png", "step_000002.png", "step_000004.png"]


@pytest.mark.parametrize(
    ("every", "steps"), [(50, [0, 50, 100, 150, 200]), (60, [0, 60, 120, 180, 200]), (500, [0, 200])]
)
def test_when_it_is_time(
    every: int, steps: list[int], backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever checkpoints are saved: short runs have as many previews as long ones."""
    monkeypatch.setattr(Previews, "_draw", lambda self, step, method: b"")
    previews = Previews(backbone, tmp_path, replace(TWINACT, steps=200), RunConfig(preview_every=every))
    for step in range(201):
        previews(step, TextualInversion(3, 5e-3))
    assert sheets(tmp_path) == [f"step_{step:06d}.png" for step in steps]
