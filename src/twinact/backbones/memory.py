"""Lets learning on a frozen model take less memory or less time, and explains what to do when memory runs out."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from twinact.configs import BUDGETS
from twinact.errors import OutOfMemory, lacks_memory

DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16, "nf4": torch.bfloat16,
}  # fmt: skip
"""In which numbers networks compute, by the words of `twinact.configs.PRECISIONS`."""
_VISITED = "_twinact_visited_device"
# Torch tells some of it as a RuntimeError of no special kind: on the CPU, and where a library of CUDA ran out.
_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of the device."""
    if isinstance(error, torch.OutOfMemoryError) or lacks_memory(error):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


@dataclass(frozen=True)
class Savings:
    """The ways in which memory or time is saved.

    Attributes:
        recompute: The denoiser keeps only the inputs of its blocks and computes the rest again in backward (Chen et
            al., arXiv:1604.06174). About a third more time.
        offload: Autoencoder and text encoders lie in the machine's memory. A text encoder is copied to the device
            for each use and once more in backward; an autoencoder computes where it rests.
        compile: The denoiser is compiled by torch.compile. Minutes at the first step, other rounding.
    """

    recompute: bool = False
    offload: bool = False
    compile: bool = False


_LOW = Savings(recompute=True, offload=True)
PRESETS = {"low": _LOW, "normal": Savings(), "fast": Savings(compile=True), **dict.fromkeys(BUDGETS, _LOW)}
"""By the names in `twinact.configs.MEMORY` and `BUDGETS`."""


@contextmanager
def applied(
    denoiser: nn.Module,
    text_encoders: Sequence[nn.Module],
    autoencoders: Sequence[nn.Module],
    device: torch.device,
    savings: Savings,
) -> Iterator[None]:
    """Applies savings to the networks of a model on `device`; at the end all is as it was.

    After an error the networks that are offloaded stay so: the device may be too full to take them back.
    """
    moved = savings.offload and any(visited_device(encoder) is None for encoder in text_encoders)
    with ExitStack() as undo:
        if savings.recompute:
            denoiser.enable_gradient_checkpointing()
            undo.callback(denoiser.disable_gradient_checkpointing)
        if moved:
            offload(text_encoders, autoencoders, device)
        if savings.compile:
            undo.callback(setattr, denoiser, "_compiled_call_impl", None)  # torch has no way to take it back
            denoiser.compile()
        yield
    if moved:
        for module in (*text_encoders, *autoencoders):
            module.to(device)
        for encoder in text_encoders:
            delattr(encoder, _VISITED)


def offload(text_encoders: Sequence[nn.Module], autoencoders: Sequence[nn.Module], device: torch.device) -> None:
    """Puts networks into the machine's memory; from now on a text encoder visits `device` for each use."""
    for module in (*text_encoders, *autoencoders):
        module.to("cpu")
    for encoder in text_encoders:
        setattr(encoder, _VISITED, device)


@contextmanager
def on_device(autoencoders: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """While open, offloaded autoencoders are on `device`, and take pictures one at a time; not under autograd."""
    away = [module for module in autoencoders if next(module.parameters()).device != device]
    try:
        for module in away:
            module.to(device)
            module.enable_slicing()
        yield
    finally:
        for module in away:
            module.disable_slicing()
            module.to("cpu")


def visited_device(encoder: nn.Module) -> torch.device | None:
    """Where an offloaded text encoder is to compute; None for one that is not offloaded."""
    return getattr(encoder, _VISITED, None)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks compute in a precision."""
    reduced = precision != "fp32"
    return torch.autocast(device.type, DTYPES[precision] if reduced else torch.bfloat16, enabled=reduced)


def bf16_if_native(device: torch.device) -> torch.autocast:
    """The context in which networks compute in bfloat16 where the device does that in hardware, else as they are.

    Weights are not cached between calls, which graphs of kernels cannot use.
    """
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    native = on_gpu or (device.type == "cpu" and cpu_computes_bf16())
    return torch.autocast(device.type, torch.bfloat16, enabled=native, cache_enabled=False)


@lru_cache(maxsize=1)
def cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; emulating them takes up to thirty times as long as float32."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@contextmanager
def explain_out_of_memory(doing: str, advice: str) -> Iterator[None]:
    """Turns a lack of memory into an error that says what to do.

    Args:
        doing: What did not fit, as the beginning of the message.
        advice: Its end.

    Raises:
        OutOfMemory: Instead of what torch, numpy or Python raise.
    """
    try:
        yield
    except Exception as error:  # of torch, numpy, Python or the system
        if not is_out_of_memory(error):
            raise
        # What did not fit is still held by the functions that the error came through.
        traceback.clear_frames(error.__traceback__)
        on_machine = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        where = "the machine" if on_machine else "the GPU"
        raise OutOfMemory(f"{doing}: {where} has not enough memory; {advice}") from error
