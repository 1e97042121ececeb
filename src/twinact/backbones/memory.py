"""Ways to make learning on a frozen model take less memory or less time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

_VISITED = "_twinact_visited_device"
# Torch tells some of it as a RuntimeError of no special kind: on the CPU, and where a library of CUDA ran out.
_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of the device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


@dataclass(frozen=True)
class Savings:
    """What is saved, and how.

    Attributes:
        recompute: The denoiser keeps only the inputs of its blocks and computes the rest again in backward (Chen et
            al., arXiv:1604.06174). About a third more time.
        offload: Autoencoder and text encoders rest in the machine's memory. A text encoder is copied to the device
            for each use and once more in backward; an autoencoder computes where it rests.
        compile: The denoiser is compiled by torch.compile. Minutes at the first step, other rounding.
    """

    recompute: bool = False
    offload: bool = False
    compile: bool = False


PRESETS = {"low": Savings(recompute=True, offload=True), "normal": Savings(), "fast": Savings(compile=True)}
"""By the names in `twinact.configs.MEMORY`."""


@contextmanager
def saved(
    denoiser: nn.Module,
    text_encoders: Sequence[nn.Module],
    autoencoders: Sequence[nn.Module],
    device: torch.device,
    savings: Savings,
) -> Iterator[None]:
    """Applies savings to the networks of a model on `device`; at the end all is as it was.

    After an error the networks that rest go on resting: the device may be too full to take them back.
    """
    moved = savings.offload and any(visited_device(encoder) is None for encoder in text_encoders)
    with ExitStack() as undo:
        if savings.recompute:
            denoiser.enable_gradient_checkpointing()
            undo.callback(denoiser.disable_gradient_checkpointing)
        if moved:
            rest(text_encoders, autoencoders, device)
        if savings.compile:
            undo.callback(setattr, denoiser, "_compiled_call_impl", None)  # torch has no way to take it back
            denoiser.compile()
        yield
    if moved:
        for module in (*text_encoders, *autoencoders):
            module.to(device)
        for encoder in text_encoders:
            delattr(encoder, _VISITED)


def rest(text_encoders: Sequence[nn.Module], autoencoders: Sequence[nn.Module], device: torch.device) -> None:
    """Puts networks into the machine's memory; from now on a text encoder visits `device` for each use."""
    for module in (*text_encoders, *autoencoders):
        module.to("cpu")
    for encoder in text_encoders:
        setattr(encoder, _VISITED, device)


@contextmanager
def awake(autoencoders: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """While open, autoencoders that rest are on `device`, and take pictures one at a time; not under autograd."""
    resting = [module for module in autoencoders if next(module.parameters()).device != device]
    try:
        for module in resting:
            module.to(device)
            module.enable_slicing()
        yield
    finally:
        for module in resting:
            module.disable_slicing()
            module.to("cpu")


def visited_device(encoder: nn.Module) -> torch.device | None:
    """Where a text encoder that rests elsewhere is to compute; None when it stays where it is."""
    return getattr(encoder, _VISITED, None)
