"""What only a GPU shows: learning in half precision, going on after a stop, and drawing, on every architecture."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from families import CORE, FAMILIES, pixels
from small import exemplars_in
from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.configs import LearnConfig, RunConfig
from twinact.exemplars import Exemplars
from twinact.methods import make_method
from twinact.sample import generate
from twinact.train import StepRecord, TrainResult, train
from twinact.workflow import open_model

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("name", CORE)]

DEVICE = "cuda"
CONFIG = LearnConfig(
    name="leap", method="textual-inversion", steps=4, batch_size=2, learning_rate=1e-2, lora_rank=2,
    lora_learning_rate=1e-2, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Exemplars:
    return exemplars_in(tmp_path_factory.mktemp("exemplars"))


@pytest.fixture
def model(name: str, tmp_path: Path) -> Path:
    """The folder of a family's tiny pipeline."""
    FAMILIES[name].make().save_pretrained(tmp_path / name)
    return tmp_path / name


def stop_after(step: int, seen: list[StepRecord]) -> Callable[[StepRecord], None]:
    def progress(record: StepRecord) -> None:
        seen.append(record)
        if record.step == step:
            raise KeyboardInterrupt

    return progress


def first_step(backbone: Backbone, exemplars: Exemplars, folder: Path) -> StepRecord:
    """The first step of a run in float32."""
    seen: list[StepRecord] = []
    with pytest.raises(KeyboardInterrupt):
        train(make_method(CONFIG, backbone), backbone, exemplars, CONFIG, folder, stop_after(1, seen))
    return seen[0]


@pytest.mark.parametrize(("precision", "memory"), [("bf16", "low"), ("fp16", "normal")])
def test_a_run_is_stopped_goes_on_and_draws(
    precision: str, memory: str, model: Path, exemplars: Exemplars, tmp_path: Path
) -> None:
    run, seen = RunConfig(precision=precision, memory=memory), []

    def learn(progress: Callable[[StepRecord], None]) -> TrainResult:
        """As a process of its own would: with a model of its own."""
        backbone = open_model(model, precision, memory, DEVICE)
        return train(make_method(CONFIG, backbone), backbone, exemplars, CONFIG, tmp_path / "run", progress, run=run)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 4"):
        learn(stop_after(2, seen))
    result = learn(seen.append)
    assert result.resumed_from == 2 and [record.step for record in seen] == [1, 2, 3, 4]
    numbers = [value for record in seen for value in (*record.terms.values(), record.gradient_norm)]
    assert torch.tensor(numbers).isfinite().all() and min(record.gradient_norm for record in seen) > 0

    action, backbone = result.action, open_model(model, precision, memory, DEVICE)
    learned = [*action.vectors, *action.lora.values()]
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in learned)
    assert any(bool((weight != 0).any()) for key, weight in action.lora.items() if "lora_B" in key)
    vectors = {PLACEHOLDER: action.vectors}
    options = {"seeds": [1], "steps": 2, "guidance": backbone.guidance}
    drawn = pixels(generate(backbone, [f"a robot {PLACEHOLDER}"], vectors, loras=[action.lora], **options))
    # Numbers that are not finite become a picture of one colour.
    assert drawn.shape == (1, 32, 32, 3) and drawn.std() > 1
    assert backbone.device.type == DEVICE


def test_the_first_step_is_that_of_a_cpu(model: Path, exemplars: Exemplars, tmp_path: Path) -> None:
    """Noise and times are drawn alike on every machine; the rest is rounding."""
    here, there = (
        first_step(open_model(model, device=device), exemplars, tmp_path / f"run-{device}")
        for device in (DEVICE, "cpu")
    )
    assert here.terms == pytest.approx(there.terms, rel=1e-2)
    assert here.gradient_norm == pytest.approx(there.gradient_norm, rel=5e-2)
