"""What only a GPU shows: learning in half precision, going on after a stop, and drawing, on every architecture."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from families import CORE, FAMILIES, pixels
from small import exemplars_in
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, RunConfig, TextualInversionConfig
from twinact.data.exemplars import Exemplars
from twinact.jobs.models import open_model
from twinact.lora import fresh
from twinact.methods import make_method
from twinact.sample import generate
from twinact.training.loop import StepRecord, TrainResult, train

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("name", CORE)]

DEVICE = "cuda"
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip
CONFIG = LearnConfig(
    name="leap", method=TextualInversionConfig(), steps=4, batch_size=2, learning_rate=1e-2, lora_rank=2,
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


def first_step(backbone: Backbone, exemplars: Exemplars, folder: Path, run: RunConfig | None = None) -> StepRecord:
    """The first step of a run."""
    seen: list[StepRecord] = []
    with pytest.raises(KeyboardInterrupt):
        train(make_method(CONFIG, backbone), backbone, exemplars, CONFIG, folder, stop_after(1, seen), run=run)
    return seen[0]


# Weights and learning in a precision, and the memory preset.
HOW = [("fp32", "low"), ("bf16", "normal"), ("bf16", "low"), ("fp16", "normal"), ("fp16", "low")]


@pytest.mark.parametrize(("precision", "memory"), HOW)
def test_a_run_is_stopped_and_goes_on(
    precision: str, memory: str, model: Path, exemplars: Exemplars, tmp_path: Path
) -> None:
    run, seen = RunConfig(precision=precision, memory=memory), []

    def learn(progress: Callable[[StepRecord], None]) -> TrainResult:
        """As a process of its own would: with a model of its own."""
        backbone = open_model(model, precision, memory, DEVICE)
        assert backbone.device.type == DEVICE
        return train(make_method(CONFIG, backbone), backbone, exemplars, CONFIG, tmp_path / "run", progress, run=run)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 4"):
        learn(stop_after(2, seen))
    result = learn(seen.append)
    assert result.resumed_from == 2 and [record.step for record in seen] == [1, 2, 3, 4]
    numbers = [value for record in seen for value in (*record.terms.values(), record.gradient_norm)]
    assert torch.tensor(numbers).isfinite().all(), seen
    assert min(record.gradient_norm for record in seen) > 0, seen

    learned = [*result.action.vectors, *result.action.lora.values()]
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in learned)
    assert any(bool((weight != 0).any()) for key, weight in result.action.lora.items() if "lora_B" in key)


@pytest.mark.parametrize(("precision", "memory"), HOW)
def test_an_action_is_drawn(precision: str, memory: str, model: Path) -> None:
    backbone = open_model(model, precision, memory, DEVICE)
    lora = {key: weight + 0.01 for key, weight in fresh(backbone, CONFIG.lora_rank, CONFIG.seed).items()}
    vectors = {PLACEHOLDER: [torch.zeros(CONFIG.slots, table.width) for table in backbone.token_tables()]}
    options = {"seeds": [1], "steps": 2, "guidance": backbone.guidance}
    drawn = pixels(generate(backbone, [f"a robot {PLACEHOLDER}"], vectors, loras=[lora], **options))
    # Numbers that are not finite become a picture of one colour.
    assert drawn.shape == (1, 32, 32, 3) and drawn.std() > 1


@pytest.mark.parametrize("attention", ["any", "flash-efficient-math", "efficient-math", "math"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_first_step_in_half_precision_is_that_in_full(
    precision: str, attention: str, model: Path, exemplars: Exemplars, tmp_path: Path
) -> None:
    """With the kernels that torch chooses, and with fewer: which fail tells what is to blame, the kernel or we."""
    run = RunConfig(precision=precision)
    full = first_step(open_model(model, device=DEVICE), exemplars, tmp_path / "full")
    with nullcontext() if attention == "any" else sdpa_kernel([KERNELS[kernel] for kernel in attention.split("-")]):
        half = first_step(open_model(model, precision, device=DEVICE), exemplars, tmp_path / "half", run)
    assert half.terms == pytest.approx(full.terms, rel=5e-2)
    assert half.gradient_norm == pytest.approx(full.gradient_norm, rel=0.2)


def test_the_first_step_is_that_of_a_cpu(model: Path, exemplars: Exemplars, tmp_path: Path) -> None:
    """Noise and times are drawn alike on every machine; the rest is rounding."""
    here, there = (
        first_step(open_model(model, device=device), exemplars, tmp_path / f"run-{device}")
        for device in (DEVICE, "cpu")
    )
    assert here.terms == pytest.approx(there.terms, rel=1e-2)
    assert here.gradient_norm == pytest.approx(there.gradient_norm, rel=5e-2)
