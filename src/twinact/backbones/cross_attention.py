"""Long texts: one of its own for every cross-attention layer of a UNet and for every time, and marks in them.

All cross-attention layers of a UNet get one text. Where an action's vectors differ from layer to layer (P+,
arXiv:2303.09522) or over time as well (NeTI, arXiv:2305.15391), there are many texts, and they stand one after another
in a long one: those of all layers at the cleanest time first, those at the noisiest last. Stock pipelines pass it on as
any other text, also with guidance, and hooks on the layers cut their own part out of it. Since all is in the text, the
denoiser can be recomputed at any time. Behind the positions of each text there may be some for marks, which say where
in it the vectors of a placeholder stand.

Texts of other lengths are left alone, so the hooks can stay: with them the network computes what it did without. (Who
joins texts for long prompts joins a few, not as many as there are layers.)
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

TIMES = 16
"""Equal parts of the time from clean to noisy, in each of which vectors that change over time are constant."""
_READERS = "_twinact_readers"
_BLOCKS = ("down_blocks", "mid_block", "up_blocks")


class Reader:
    """What one cross-attention layer reads of a text.

    Attributes:
        marks: (b, m, l) 1 where the vectors of the m-th marked placeholder stand in what is read now, else 0; None for
            a text without marks.
    """

    marks: Float[Tensor, "b m l"] | None = None

    def __init__(self, number: int, layers: int, length: int) -> None:
        self._number, self._layers, self._length = number, layers, length

    def __call__(self, module: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A forward hook before the layer."""
        text = options["encoder_hidden_states"]
        if _holds(text, self._layers, self._length):
            text = text.unflatten(1, (self._layers, -1))[:, self._number]
        self.marks = None
        if _holds(text, 1, self._length) and text.shape[1] > self._length:
            self.marks = _unpacked(text[:, self._length :], self._length)
            text = text[:, : self._length]
        return args, {**options, "encoder_hidden_states": text}


def readers(denoiser: nn.Module, length: int, noisiest: int) -> dict[str, Reader]:
    """Makes a UNet understand long texts; once, for all backbones that share it.

    Args:
        denoiser: A UNet of diffusers.
        length: Positions of one text.
        noisiest: The last time of its noise schedule.

    Returns:
        What each cross-attention layer reads, by the layer's name, in the order in which they are run.
    """
    known: dict[str, Reader] | None = getattr(denoiser, _READERS, None)
    if known is not None:
        return known
    names = [name for name, _ in denoiser.named_modules() if name.endswith(".attn2")]
    names.sort(key=lambda name: _BLOCKS.index(name.partition(".")[0]))
    found = {name: Reader(number, len(names), length) for number, name in enumerate(names)}
    for name, reader in found.items():
        denoiser.get_submodule(name).register_forward_pre_hook(reader, with_kwargs=True)
    choose = partial(_choose_time, positions=len(names) * length, noisiest=noisiest)
    denoiser.register_forward_pre_hook(choose, with_kwargs=True)
    setattr(denoiser, _READERS, found)
    return found


def time_number(t: Shaped[Tensor, "*b"], noisiest: int) -> Int64[Tensor, "*b"]:
    """Which of the `TIMES` parts times from 0 to the noisiest lie in, from 0, the cleanest."""
    return (t * TIMES // (noisiest + 1)).long().clamp(0, TIMES - 1)


def packed(marks: Sequence[Float[Tensor, "b l"]], hidden: Float[Tensor, "b l d"]) -> Float[Tensor, "b more d"]:
    """A text with marks behind it; each takes as many positions as its numbers need."""
    rows = -(-hidden.shape[1] // hidden.shape[2])
    places = rows * hidden.shape[2] - hidden.shape[1]
    behind = [F.pad(mark, (0, places)).unflatten(1, (rows, -1)).to(hidden) for mark in marks]
    return torch.cat([hidden, *behind], dim=1)


def _unpacked(behind: Float[Tensor, "b more d"], length: int) -> Float[Tensor, "b m l"]:
    rows = -(-length // behind.shape[2])
    return behind.unflatten(1, (-1, rows)).flatten(2)[..., :length]


def _holds(text: Tensor, texts: int, length: int) -> bool:
    """Whether a text consists of so many, with fewer positions for marks than for words in each."""
    return texts * length <= text.shape[1] < 2 * texts * length and text.shape[1] % texts == 0


def _choose_time(
    module: nn.Module, args: Any, options: dict[str, Any], *, positions: int, noisiest: int
) -> tuple[Any, dict[str, Any]] | None:
    """A forward hook before the UNet: every picture reads the texts of its own time."""
    text = options.get("encoder_hidden_states")
    if not isinstance(text, Tensor) or not _holds(text, TIMES, positions):
        return None
    t = torch.as_tensor(args[1] if len(args) > 1 else options["timestep"], device=text.device)
    number = time_number(t, noisiest).expand(len(text))
    own = text.unflatten(1, (TIMES, -1))[torch.arange(len(text), device=text.device), number]
    return args, {**options, "encoder_hidden_states": own}
