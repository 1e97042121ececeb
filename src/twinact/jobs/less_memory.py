"""Steps down once to the next lower memory mode where memory runs out, and says so."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import PRESETS, explain_out_of_memory
from twinact.errors import OutOfMemory
from twinact.sample import draw
from twinact.training.processes import this_process

# A run that compiles cannot go on without, to the same bits; a drawing can.
_LOWER_IN_LEARNING = {"normal": "low"}
_LOWER_IN_DRAWING = {"fast": "normal", "normal": "low", "low": "low"}


def lower_for_learning(memory: str, error: OutOfMemory, tell: Callable[[str], None]) -> str:
    """The memory mode in which a run goes on after memory ran out, to the same bits; tells so.

    Args:
        memory: The mode in which it ran out.
        error: How that was told.
        tell: Receives what a person should know.

    Raises:
        OutOfMemory: `error` itself where there is no lower mode, or other processes wait for this one.
    """
    lower = _LOWER_IN_LEARNING.get(memory)
    if lower is None or this_process().count > 1:
        raise error
    tell(f"{_what_happened(error)}; going on with memory {lower}, which is slower")
    _free()
    return lower


@dataclass
class Drawing:
    """Draws with a model in a memory mode. Where memory runs out the first time, it goes on in the next lower one.

    Attributes:
        backbone: The model.
        memory: One of `twinact.configs.MEMORY`; the lower one from the first lack of memory on.
        batch_size: Pictures at once; 1 from then on.
        tell: Receives what a person should know.
        stepped_down: Whether memory has run out before.
    """

    backbone: Backbone
    memory: str
    batch_size: int
    tell: Callable[[str], None]
    stepped_down: bool = False

    @property
    def lowest(self) -> str:
        """The mode in which it gives up."""
        return self.memory if self.stepped_down else _LOWER_IN_DRAWING[self.memory]

    def draw(
        self,
        prompts: Sequence[str],
        vectors: Mapping[str, Sequence[Tensor]] | None,
        *,
        seeds: Sequence[int],
        advice: str,
        **options: Any,
    ) -> Iterator[Image.Image]:
        """Yields pictures as `twinact.sample.draw` does; those that are there already are not drawn again.

        Args:
            prompts, vectors, seeds, options: As there.
            advice: What to do when memory runs out for good, as the end of a message.

        Raises:
            OutOfMemory: Memory ran out again.
            TwinactError: As there.
        """
        done = 0
        while True:
            given = {"seeds": seeds[done:], "batch_size": self.batch_size, **options}
            try:
                with explain_out_of_memory("drawing", advice), self.backbone.saving(PRESETS[self.memory]):
                    for image in draw(self.backbone, prompts[done:], vectors, **given):
                        done += 1
                        yield image
                return
            except OutOfMemory as error:
                if self.stepped_down or (self.memory, self.batch_size) == ("low", 1):
                    raise
                self.memory, self.batch_size, self.stepped_down = self.lowest, 1, True
                self.tell(f"{_what_happened(error)}; going on with memory {self.memory}, one picture at a time")
            _free()


def _what_happened(error: OutOfMemory) -> str:
    """What did not fit, without the advice."""
    return str(error).partition(";")[0]


def _free() -> None:
    """Gives back what torch keeps of the GPU for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
