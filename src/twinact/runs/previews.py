"""Draws what a run has learned so far, always with the same prompts and seeds, into ``previews/`` of its folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import autocast, explain_out_of_memory
from twinact.configs import LearnConfig, RunConfig
from twinact.console import say
from twinact.errors import first_line
from twinact.methods.method import Method
from twinact.runs.folder import PREVIEW_FOLDER, PREVIEW_PROMPTS
from twinact.sample import generate
from twinact.sheets import contact_sheet, png_bytes
from twinact.storage import atomic_write_bytes


class Previews:
    """Draws with what a method has learned so far; called after each step, in the main process.

    The sheet of step 0 shows where learning begins, and in a second row the model without the action. Drawing changes
    nothing of the run: its noise follows from the run's seed alone. When it fails, whatever the cause, one message says
    so, and learning goes on without previews.

    Args:
        backbone: The model that learns.
        run_dir: The run's folder.
        config, run: Settings of the run; `run.preview_every` is above 0.
    """

    def __init__(self, backbone: Backbone, run_dir: str | Path, config: LearnConfig, run: RunConfig) -> None:
        self._backbone, self._folder = backbone, Path(run_dir) / PREVIEW_FOLDER
        self._config, self._run = config, run
        self._failed = False

    def __call__(self, step: int, method: Method) -> None:
        """Draw after so many finished steps, if it is time to; a sheet that is there is not drawn again."""
        path = self._folder / f"step_{step:06d}.png"
        due = step % self._run.preview_every == 0 or step == self._config.steps
        if self._failed or not due or path.is_file():
            return
        try:
            with explain_out_of_memory("drawing previews", "learning goes on; --preview-every 0 turns them off"):
                sheet = self._draw(step, method)
            atomic_write_bytes(path, sheet)
        except Exception as error:  # a picture to look at on the way is no reason to lose a run
            self._failed = True
            say(f"no more previews: {first_line(error)}")

    def _draw(self, step: int, method: Method) -> bytes:
        """The pictures side by side, as a PNG file. What the method has attached to the denoiser is there already."""
        vectors = [block.to(self._backbone.device) for block in method.action(self._config.name, {}).vectors]
        with _uncompiled(self._backbone.denoiser), autocast(self._backbone.device, self._run.precision):
            pictures = self._pictures(PREVIEW_PROMPTS, {PLACEHOLDER: vectors})
            if step == 0:
                pictures += self._pictures([prompt.replace(f" {PLACEHOLDER}", "") for prompt in PREVIEW_PROMPTS], {})
        return png_bytes(contact_sheet(pictures, columns=len(PREVIEW_PROMPTS)))

    def _pictures(self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Tensor]]) -> list[Image.Image]:
        return generate(
            self._backbone,
            prompts,
            vectors,
            seeds=[self._config.seed + i for i in range(len(prompts))],
            batch_size=1 if self._run.memory == "low" else len(prompts),
        )


@contextmanager
def _uncompiled(denoiser: nn.Module) -> Iterator[None]:
    """While open, a compiled network runs as it is written: pictures of another number would be compiled for anew."""
    compiled = denoiser._compiled_call_impl
    denoiser._compiled_call_impl = None
    try:
        yield
    finally:
        denoiser._compiled_call_impl = compiled
