"""Ways to make learning on a frozen model take less memory or less time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

_VISITED = "_twinact_visited_device"


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
    """Applies savings to the networks of a model on `device`; at the end all is as it was."""
    with ExitStack() as undo:
        if savings.recompute:
            denoiser.enable_gradient_checkpointing()
            undo.callback(denoiser.disable_gradient_checkpointing)
        if savings.offload:
            for module in (*text_encoders, *autoencoders):
                undo.callback(module.to, device)
                module.to("cpu")
            for encoder in text_encoders:
                undo.callback(delattr, encoder, _VISITED)
                setattr(encoder, _VISITED, device)
        if savings.compile:
            undo.callback(setattr, denoiser, "_compiled_call_impl", None)  # torch has no way to take it back
            denoiser.compile()
        yield


def visited_device(encoder: nn.Module) -> torch.device | None:
    """Where a text encoder that rests elsewhere is to compute; None when it stays where it is."""
    return getattr(encoder, _VISITED, None)
