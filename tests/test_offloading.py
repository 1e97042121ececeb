"""Networks that are offloaded, from opening to drawing; and running out of memory, wherever it happens."""

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from families import CORE, FAMILIES, noisy, times, vectors_of
from tiny import tiny_flux, tiny_sd, tiny_sdxl
from twinact import PLACEHOLDER
from twinact.backbones import load
from twinact.backbones.memory import (
    PRESETS,
    autocast,
    bf16_if_native,
    explain_out_of_memory,
    is_out_of_memory,
    visited_device,
)
from twinact.backbones.sd import StableDiffusion
from twinact.backbones.sdxl import StableDiffusionXL
from twinact.errors import CheckpointError, OutOfMemory
from twinact.jobs.models import open_model
from twinact.sample import generate

LOW = PRESETS["low"]
META = torch.device("meta")  # stands for a GPU: it has shapes only, and mixing it with the CPU is an error
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def moves(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> list[str]:
    """Where a network is sent from now on; it stays where it is."""
    seen: list[str] = []
    monkeypatch.setattr(module, "to", lambda device: seen.append(str(device)))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "flux"])  # the noise of the others reads numbers, which this device lacks
def test_a_model_opens_with_the_denoiser_alone_on_the_device(name: str, tmp_path: Path) -> None:
    FAMILIES[name].make().save_pretrained(tmp_path)
    backbone = load(tmp_path, META, offload=True)
    vectors = vectors_of(backbone, "jumping")
    parts = {key: part for key, part in backbone.pipeline().components.items() if isinstance(part, nn.Module)}
    places = {key: next(part.parameters()).device.type for key, part in parts.items()}
    assert {key for key, place in places.items() if place == "meta"} == places.keys() & {"unet", "transformer"}
    with backbone.saving(LOW):  # nothing moves, before or after
        cond = backbone.encode_text([PLACEHOLDER], {PLACEHOLDER: vectors})
        assert backbone.predict(noisy(backbone, 1).to(META), times(backbone, 0.5).to(META), cond).device == META
    assert {key: next(part.parameters()).device.type for key, part in parts.items()} == places


def test_autoencoders_rest_while_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = StableDiffusionXL(tiny_sdxl().to(dtype=torch.float16), "tiny@0")
    assert len(backbone._autoencoders) == 2  # one for float16 and one that does not overflow
    seen = [moves(monkeypatch, autoencoder) for autoencoder in backbone._autoencoders]
    with backbone.saving(LOW):
        assert seen == [["cpu"], ["cpu"]]
    assert seen == [["cpu", "cpu"], ["cpu", "cpu"]]  # the second is the device


def test_an_autoencoder_that_rests_comes_for_pictures_and_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = StableDiffusion(tiny_sd(), "tiny@0")
    vae = backbone.pipeline().vae
    seen = moves(monkeypatch, vae)
    with backbone.autoencoder_on_device():
        assert seen == [] and not vae.use_slicing  # where it does not rest, nothing changes
    backbone.device = META
    with backbone.autoencoder_on_device():
        assert seen == ["meta"] and vae.use_slicing
    assert seen == ["meta", "cpu"] and not vae.use_slicing


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_resting_networks_draw_the_same_pictures(name: str) -> None:
    family = FAMILIES[name]
    backbone = family.backbone(family.make(), f"{name}@0")
    vectors = {PLACEHOLDER: vectors_of(backbone, "jumping")}
    (plain,) = generate(backbone, [f"a cat {PLACEHOLDER}"], vectors, seeds=[0], steps=2)
    backbone.offload()
    (spared,) = generate(backbone, [f"a cat {PLACEHOLDER}"], vectors, seeds=[0], steps=2)
    assert plain.tobytes() == spared.tobytes()


def test_weights_are_opened_in_the_precision_asked_for(model: Path) -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        parts = open_model(model, precision).pipeline().components.values()
        assert {part.dtype for part in parts if isinstance(part, nn.Module)} == {dtype}


@pytest.mark.parametrize(("hardware", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_computed_by_hardware_only(monkeypatch, hardware: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr("twinact.backbones.memory.cpu_computes_bf16", lambda: hardware)
    with bf16_if_native(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("resting", [False, True])
def test_t5_keeps_in_float32_what_overflows_in_float16(resting: bool, tmp_path: Path) -> None:
    pipeline = tiny_flux()
    for block in pipeline.text_encoder_2.encoder.block:
        block.layer[-1].DenseReluDense.wo.weight.data.mul_(1e7)
    pipeline.save_pretrained(tmp_path)
    backbone = load(tmp_path, "cpu", torch.float16, offload=resting)
    plain = backbone.encode_text(["a cat in the park"]).hidden
    with autocast(backbone.device, "fp16"):
        learning = backbone.encode_text(["a cat in the park"]).hidden
    assert plain.isfinite().all() and torch.equal(plain, learning)


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError(CPU_MESSAGE), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError(CPU_MESSAGE), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors_also_while_opening(
    error: Exception, known: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    assert is_out_of_memory(error) == known
    monkeypatch.setattr(StableDiffusion, "from_folder", fail)
    kind, told = (OutOfMemory, "not enough memory; less is needed with") if known else (CheckpointError, "save or copy")
    with pytest.raises(kind, match=f"{re.escape(str(model))}.*{told}"):
        open_model(model)


@pytest.mark.slow
def test_what_did_not_fit_is_let_go_and_nothing_comes_back_to_a_full_device(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = StableDiffusion(tiny_sd(), "tiny@0")
    encoder = backbone.pipeline().text_encoder
    seen = moves(monkeypatch, encoder)
    held: list[weakref.ref[torch.Tensor]] = []

    def step() -> None:
        activation = torch.zeros(8)
        held.append(weakref.ref(activation))
        raise torch.OutOfMemoryError("CUDA out of memory")

    told = pytest.raises(OutOfMemory, match="step 1: the GPU has not enough memory; try less")
    with told as caught, backbone.saving(LOW), explain_out_of_memory("step 1", "try less"):
        step()
    gc.collect()
    assert caught.value.__cause__ is not None and held[0]() is None
    assert seen == ["cpu"] and visited_device(encoder) == torch.device("cpu")
    with backbone.saving(LOW):  # another try goes on from there
        backbone.encode_text(["a cat"])
    assert seen == ["cpu"]
    assert not backbone.denoiser.is_gradient_checkpointing
