"""Savings of memory and time change nothing but the rounding; and running out is told in one line."""

import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from families import CORE, FAMILIES, WITH_CLIP, backbone_of, noisy, times, vectors_of
from small import INVERSION, exemplars_in
from tiny import tiny_sd
from twinact import PLACEHOLDER, open_model
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import DTYPES, PRESETS, Savings, visited_device
from twinact.backbones.noising import DDPMNoising
from twinact.backbones.sd import StableDiffusion
from twinact.configs import BUDGETS, MEMORY, PRECISIONS, RunConfig
from twinact.data.exemplars import Exemplars
from twinact.errors import ConfigError, DataError, OutOfMemory, TwinactError
from twinact.methods import Batch, make_method
from twinact.methods.batches import draw_batch
from twinact.methods.textual_inversion import TextualInversion
from twinact.training.gradients import LossScale, set_gradients
from twinact.training.loop import StepRecord, encode_exemplars, train
from twinact.training.processes import Processes

LOW = PRESETS["low"]


def gradients(backbone: Backbone, savings: Savings) -> list[Tensor]:
    """Loss of one prediction, and its gradients in the vectors of every text encoder."""
    vectors = [v.clone().requires_grad_() for v in vectors_of(backbone, "jumping")]
    with backbone.saving(savings):
        cond = backbone.encode_text([f"a cat {PLACEHOLDER} in the park", "a dog"], {PLACEHOLDER: vectors})
        loss = backbone.predict(noisy(backbone), times(backbone, 0.3, 0.8), cond).square().mean()
        loss.backward()
    assert all(v.grad is not None for v in vectors)
    return [loss.detach(), *(v.grad for v in vectors if v.grad is not None)]


def test_presets_are_those_of_the_settings() -> None:
    assert tuple(PRESETS) == (*MEMORY, *BUDGETS)
    assert set(DTYPES) == set(PRECISIONS)


@pytest.mark.parametrize("how", [{"precision": "fp8"}, {"memory": "least"}], ids=str)
def test_opening_a_model_refuses_other_words(how: dict[str, str]) -> None:
    ((name, word),) = how.items()
    with pytest.raises(ConfigError, match=f"{name} '{word}' must be one of"):
        open_model("nano", **how)


@pytest.mark.slow
@pytest.mark.parametrize("savings", [LOW, Savings(recompute=True), Savings(offload=True)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_saving_memory_gives_the_same_bits(name: str, savings: Savings) -> None:
    backbone = backbone_of(name)
    plain, spared = gradients(backbone, Savings()), gradients(backbone, savings)
    assert all(torch.equal(a, b) for a, b in zip(plain, spared, strict=True))


def test_compiling_for_the_cpu_is_refused(exemplars: Exemplars, tmp_path: Path) -> None:
    backbone, run = StableDiffusion(tiny_sd(), "tiny@0"), RunConfig(memory="fast")
    with pytest.raises(ConfigError, match="GPUs only"):
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run", run=run)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_recomputing_keeps_less_for_backward(name: str) -> None:
    backbone = backbone_of(name)

    def kept(savings: Savings) -> int:
        """Numbers that the forward pass keeps for backward, each storage once."""
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor

        vectors = [v.clone().requires_grad_() for v in vectors_of(backbone, "jumping")]
        with backbone.saving(savings), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            cond = backbone.encode_text([PLACEHOLDER], {PLACEHOLDER: vectors})
            loss = backbone.predict(noisy(backbone, 1), times(backbone, 0.5), cond).square().mean()
        del loss
        return sum(seen.values())

    assert kept(LOW) < kept(Savings(recompute=True)) < kept(Savings())


def test_text_encoders_visit_the_device_and_leave_again() -> None:
    """The meta device stands for a GPU: it has shapes only, and mixing it with the CPU is an error."""
    backbone = StableDiffusion(tiny_sd(), "tiny@0")
    encoder = backbone.pipeline().text_encoder
    vectors = vectors_of(backbone, "jumping")
    backbone.device = torch.device("meta")
    with backbone.saving(Savings(offload=True)):
        assert visited_device(encoder) == torch.device("meta")
        hidden = backbone.encode_text([PLACEHOLDER], {PLACEHOLDER: vectors}).hidden
        assert hidden.device.type == "meta"
        assert {weight.device.type for weight in encoder.parameters()} == {"cpu"}
    backbone.device = torch.device("cpu")
    assert visited_device(encoder) is None


class _Gathered(Exception):
    """A step got as far as the gradients of all parameters, in one row."""


class _OnlyOne(Processes):
    def gather(self, row: Tensor) -> Tensor:
        raise _Gathered(row.device.type)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("name", [*WITH_CLIP, "klein"])  # the others look at the numbers of their masks
def test_all_that_learns_is_on_the_device_while_text_encoders_rest(
    name: str, lora_rank: int, exemplars: Exemplars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for a GPU, as far as a step needs no numbers: up to its row of gradients."""
    backbone, meta = FAMILIES[name].backbone(FAMILIES[name].make(), f"{name}@0"), torch.device("meta")
    config = replace(INVERSION, lora_rank=lora_rank)
    method = make_method(config, backbone)
    if name == "klein":  # which otherwise looks whether its mask masks anything
        backbone.pipeline().text_encoder.set_attn_implementation("eager")
    latents = encode_exemplars(backbone, exemplars).to(meta)
    batch = draw_batch(backbone, latents, exemplars.captions, config, 0)
    backbone.denoiser.to(meta)
    backbone.device = meta
    backbone.offload()
    if isinstance(backbone.noising, DDPMNoising):
        backbone.noising.alphas_cumprod = backbone.noising.alphas_cumprod.to(meta)
    monkeypatch.setattr("twinact.training.gradients.autocast", lambda device, precision: nullcontext())  # meta has none
    batch = replace(batch, t=batch.t.to(meta))

    parameters = [parameter for group in method.attach(backbone) for parameter in group["params"]]
    assert {(parameter.device, parameter.dtype) for parameter in parameters} == {(meta, torch.float32)}
    with backbone.saving(LOW), pytest.raises(_Gathered, match="meta"):
        set_gradients(
            method, backbone, batch, parameters,
            generator=lambda part: torch.Generator(), parts=1, group=_OnlyOne(0, 1, None), precision="bf16",
        )  # fmt: skip
    assert all(parameter.grad is not None for parameter in parameters)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the compiler's own making
@pytest.mark.timeout(900)  # compiling a UNet takes minutes
@pytest.mark.parametrize("savings", [LOW, PRESETS["fast"]], ids=str)
@pytest.mark.parametrize("name", CORE)
def test_savings_hold_on_a_gpu(name: str, savings: Savings) -> None:
    """There the text encoders really move; bits may differ, since the kernels need not be deterministic."""
    family = FAMILIES[name]
    backbone = family.backbone(family.make().to("cuda"), f"{name}@0")

    def on_gpu(savings: Savings) -> list[Tensor]:
        vectors = [v.clone().requires_grad_() for v in vectors_of(backbone, "jumping")]
        with backbone.saving(savings):
            cond = backbone.encode_text([PLACEHOLDER], {PLACEHOLDER: vectors})
            x_t, t = noisy(backbone, 1).cuda(), times(backbone, 0.5).cuda()
            backbone.predict(x_t, t, cond).square().mean().backward()
        return [v.grad for v in vectors if v.grad is not None]

    plain, spared = on_gpu(Savings()), on_gpu(savings)
    assert plain[0].device.type == "cuda"
    for a, b in zip(plain, spared, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Exemplars:
    return exemplars_in(tmp_path_factory.mktemp("exemplars"))


@pytest.fixture
def backbone() -> Iterator[Backbone]:
    backbone = backbone_of("sd")
    yield backbone
    assert not backbone.denoiser.is_gradient_checkpointing
    assert visited_device(backbone.pipeline().text_encoder) is None


def learned(backbone: Backbone, exemplars: Exemplars, folder: Path, run: RunConfig | None = None) -> bytes:
    """The action file of a short run."""
    return train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, folder, run=run).action_path.read_bytes()


@pytest.mark.slow
def test_a_run_can_go_on_with_less_memory(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    """As it is told to whoever ran out of it."""
    whole = learned(backbone, exemplars, tmp_path / "whole")

    class Greedy(TextualInversion):
        def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            if (tmp_path / "run" / "checkpoint" / "step-00000004.safetensors").exists():
                torch.empty(2**50)
            return super().loss(backbone, batch, generator)

    with pytest.raises(OutOfMemory, match=r"step 5: the machine has not enough memory; .* --memory low") as caught:
        train(Greedy(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run", run=RunConfig(checkpoint_every=2))
    assert "\n" not in str(caught.value)
    assert learned(backbone, exemplars, tmp_path / "run", RunConfig(memory="low")) == whole


@pytest.mark.slow
def test_parts_change_rounding_only_and_are_told_apart(
    backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    def vectors(accumulate: int) -> Tensor:
        run = RunConfig(accumulate=accumulate)
        method = TextualInversion(3, 5e-3)
        return train(method, backbone, exemplars, INVERSION, tmp_path / str(accumulate), run=run).action.vectors[0]

    whole = vectors(1)
    for parts in (2, 3):  # 3 have 2, 1 and 1 pictures
        torch.testing.assert_close(vectors(parts), whole, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match=r"rounding.processes_times_accumulate \(2 there, 1 now\)"):
        learned(backbone, exemplars, tmp_path / "2")
    with pytest.raises(ConfigError, match=r"batch_size 4 is less than the 5 parts"):
        learned(backbone, exemplars, tmp_path / "5", RunConfig(accumulate=5))


@pytest.mark.slow
def test_half_precision_scales_the_loss_and_keeps_that_in_checkpoints(
    backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    half = RunConfig(precision="fp16", checkpoint_every=1)
    whole = learned(backbone, exemplars, tmp_path / "whole", half)

    class Steep(TextualInversion):
        """Its first gradients overflow float16, whatever the scale was at first."""

        factor = 1.0

        def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            terms = super().loss(backbone, batch, generator)
            return {**terms, "loss": terms["loss"] * self.factor}

    steep = Steep(3, 5e-3)
    steep.factor = 1e4
    lines = []
    train(steep, backbone, exemplars, INVERSION, tmp_path / "steep", lines.append, run=half)
    assert all(line.gradient_norm < float("inf") for line in lines) and len(lines) == INVERSION.steps

    def stop(record: object) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "pieces", stop, run=half)
    assert learned(backbone, exemplars, tmp_path / "pieces", half) == whole


def test_loss_scale_halves_on_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale.of("fp16")
    first = scale.value
    assert scale.lowered() and scale.value == first / 2
    for _ in range(500):
        scale.passed()
    assert (scale.value, scale.good_steps) == (first, 0)
    scale.value = 1.0
    assert not scale.lowered() and not LossScale.of("bf16").lowered()
    scale.passed()
    again = LossScale.of("fp16")
    again.load_state_dict(scale.state_dict())
    assert again == scale


class Growing(TextualInversion):
    """Its loss begins at a size and grows by a tenth in every step."""

    calls, size = 0, 1.0

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += 1
        terms = super().loss(backbone, batch, generator)
        return {**terms, "loss": terms["loss"] * self.size * 1.1**self.calls}


@pytest.mark.slow
def test_a_loss_that_grows_near_zero_stops_nothing(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    near = Growing(3, 5e-3)
    near.size = 1e-3
    result = train(near, backbone, exemplars, replace(INVERSION, steps=50), tmp_path)
    assert result.action.vectors


@pytest.mark.slow
def test_a_run_that_diverges_is_stopped(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    config = replace(INVERSION, steps=100)
    told = r"step 4\d: learning diverged: mean loss .*checkpoint of step 40 is good.*lower learning_rate \(now 0.005\)"
    with pytest.raises(TwinactError, match=told):
        train(Growing(3, 5e-3), backbone, exemplars, config, tmp_path, run=RunConfig(checkpoint_every=20))
    assert not (tmp_path / "leap.action.safetensors").exists()


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_lost(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    whole = learned(backbone, exemplars, tmp_path / "whole")
    run, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record: StepRecord) -> None:
        if record.step == 3:
            full = (run / "log.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))

    try:
        with pytest.raises(DataError, match=r"log\.jsonl: File too large; free some space, then run again"):
            train(
                TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, run, fill, run=RunConfig(checkpoint_every=2)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert learned(backbone, exemplars, run) == whole


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    """A limit on the size of files is the disk that is full for checkpoints and not for the log."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(record: StepRecord) -> None:
        if record.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))

    small = RunConfig(checkpoint_every=2)
    try:
        with pytest.raises(DataError, match=r"cannot write .*step-00000004.*bytes\): File too large; free some space"):
            train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run", limit, run=small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "run" / "checkpoint").iterdir()] == ["step-00000002.safetensors"]
    assert learned(backbone, exemplars, tmp_path / "run") == learned(backbone, exemplars, tmp_path / "whole")


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    learned(backbone, exemplars, tmp_path / "warm")  # what is imported late is imported by whoever may
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        locked = Path(place) / "locked"
        locked.mkdir(mode=0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is read-only to root
        try:
            for folder in (locked, locked / "run"):
                with pytest.raises(DataError, match=r"cannot write .*Permission denied; .* choose a folder"):
                    learned(backbone, exemplars, folder)
        finally:
            os.seteuid(user)
        assert not list(locked.iterdir())
