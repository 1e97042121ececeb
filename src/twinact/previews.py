"""What a run can draw so far: the same prompts and seeds every time, one sheet each in ``previews/`` of its folder."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import nn

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.configs import LearnConfig, RunConfig
from twinact.errors import TwinactError
from twinact.files import atomic_write_bytes
from twinact.gradients import autocast, out_of_memory_told
from twinact.methods.base import Method
from twinact.sample import generate
from twinact.terminal import say

FOLDER = "previews"
# Actors and places that nano knows too.
PROMPTS = (f"a panda {PLACEHOLDER} in a park", f"a robot {PLACEHOLDER} on the moon")
_STEPS = 25


class Previews:
    """Draws with what a method has learned so far; called after each checkpoint, in the main process.

    Drawing changes nothing of the run: its noise follows from the run's seed alone. When it fails, for lack of memory
    for example, that is said once, and learning goes on without.

    Args:
        backbone: That learns.
        run_dir: The run's folder.
        config, run: Of the run; `run.preview_every` is above 0.
    """

    def __init__(self, backbone: Backbone, run_dir: str | Path, config: LearnConfig, run: RunConfig) -> None:
        self._backbone, self._folder = backbone, Path(run_dir) / FOLDER
        self._config, self._run = config, run
        self._failed = False

    def __call__(self, step: int, method: Method) -> None:
        """Draw after so many finished steps, if it is time to; a sheet that is there is not drawn again."""
        path = self._folder / f"step_{step:06d}.png"
        if self._failed or not self._due(step) or path.is_file():
            return
        try:
            with out_of_memory_told("drawing previews", "learning goes on without; --preview-every 0 turns them off"):
                sheet = self._draw(method)
            atomic_write_bytes(path, sheet)
        except TwinactError as error:
            self._failed = True
            say(f"no more previews: {error}")

    def _due(self, step: int) -> bool:
        """Whether this checkpoint is the first one since the last multiple of `preview_every`, or the last of all."""
        every, before = self._run.preview_every, max(0, step - self._run.checkpoint_every)
        return step // every > before // every or step == self._config.steps

    def _draw(self, method: Method) -> bytes:
        """The pictures side by side, as a PNG file. What the method has attached to the denoiser is there already."""
        vectors = [block.to(self._backbone.device) for block in method.action(self._config.name, {}).vectors]
        with _uncompiled(self._backbone.denoiser), autocast(self._backbone.device, self._run.precision):
            pictures = generate(
                self._backbone,
                PROMPTS,
                {PLACEHOLDER: vectors},
                seeds=[self._config.seed + i for i in range(len(PROMPTS))],
                steps=_STEPS,
                batch_size=1 if self._run.memory == "low" else len(PROMPTS),
            )
        width, height = pictures[0].size
        sheet = Image.new("RGB", (width * len(pictures), height))
        for index, picture in enumerate(pictures):
            sheet.paste(picture, (index * width, 0))
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        return buffer.getvalue()


@contextmanager
def _uncompiled(denoiser: nn.Module) -> Iterator[None]:
    """While open, a compiled network runs as it is written: pictures of another number would be compiled for anew."""
    compiled = denoiser._compiled_call_impl
    denoiser._compiled_call_impl = None
    try:
        yield
    finally:
        denoiser._compiled_call_impl = compiled
