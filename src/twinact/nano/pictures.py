"""The pictures that the denoiser learns from: drawn while it learns, kept as codes beside their captions."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from twinact.data.pictures import pixels_of
from twinact.nano.data import draw_alone, drawn_part, worded
from twinact.nano.recipe import Recipe
from twinact.nano.text import token_ids
from twinact.nano.vae import PatchCodes
from twinact.world.draw import drawing
from twinact.world.skeleton import JOINT_NAMES

STREAM = 3
CAPTIONS = 3
"""How many captions a picture has; each says other parts of what it shows."""
_AT_ONCE = 256
_FIRST = 16_384  # pictures before the first step


class Pictures:
    """Latents and captions of drawn scenes, filled by a thread of its own in the order of the scenes' numbers.

    Files keep them, so that a run that is stopped draws none twice; a GPU holds a copy of all, since it would wait for
    what comes from outside.

    Args:
        recipe: How many pictures, and of which size.
        codes: Picture → latents.
        tokenizer: Of the captions.
        folder: Keeps the files.
        workers: Processes that draw.
        device: Where batches are wanted.
        report: Receives lines about progress.
    """

    def __init__(
        self, recipe: Recipe, codes: PatchCodes, tokenizer: CLIPTokenizer, folder: Path, workers: int,
        device: torch.device, report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.recipe, self.device, self.report = recipe, device, report
        count, side, length = recipe.distinct_pictures, recipe.image_size // 8, recipe.max_tokens
        shapes = {
            "latents": ((recipe.latent_channels, side, side), np.float16),  # scaled
            "masks": ((1, side, side), np.uint8),  # the figure's share of each latent cell, from 0 to 255
            "joints": ((len(JOINT_NAMES), 2), np.float32),  # in picture units
            "ids": ((CAPTIONS, 2, length), np.int16),  # of the captions and of the texts that are mixed in
            "share": ((), np.float32),  # of the latter
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._count_file = folder / "count.txt"
        self.drawn = int(self._count_file.read_text()) if self._count_file.exists() else 0
        mode = "r+" if self.drawn else "w+"
        self._files = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=dtype, shape=(count, *shape))
            for name, (shape, dtype) in shapes.items()
        }
        self._held = {name: torch.from_numpy(array) for name, array in self._files.items()}
        if device.type == "cuda":
            there = {name: torch.empty_like(values, device=device) for name, values in self._held.items()}
            for name, values in there.items():
                values[: self.drawn].copy_(self._held[name][: self.drawn])
            self._held = there
        self._failure: BaseException | None = None
        self._more = threading.Condition()
        numbers = range(self.drawn // _AT_ONCE, -(-count // _AT_ONCE))
        source = DataLoader(
            _Drawn(recipe, codes, tokenizer), batch_size=None, sampler=numbers, num_workers=workers,
            worker_init_fn=draw_alone,
        )  # fmt: skip
        # Processes are begun here, since a fork is safest while nothing else runs.
        threading.Thread(target=self._fill, args=(iter(source),), daemon=True).start()

    def batch(self, step: int, size: int) -> dict[str, Tensor]:
        """What a step sees, by its number alone: pictures, each with one of its captions.

        It chooses among more pictures from step to step, a quarter of a batch more, and waits until they are drawn.

        Returns:
            ``latents`` (size, c, h, w) float32; ``masks`` (size, 1, h, w) and ``share`` (size,) in [0, 1];
            ``joints`` (size, 17, 2); ``ids`` and ``second`` (size, l), see `mixed`.
        """
        known = min(_FIRST + step * size // 4, self.recipe.distinct_pictures)
        with self._more:
            while self.drawn < known:
                if self._failure is not None:
                    raise self._failure
                self._more.wait(timeout=60)
        generator = torch.Generator().manual_seed(self.recipe.seed + step)
        chosen = torch.randint(known, (size,), generator=generator).to(self.device)
        caption = torch.randint(CAPTIONS, (size,), generator=generator).to(self.device)
        values = {name: held[chosen] for name, held in self._held.items()}
        ids = values["ids"][torch.arange(size, device=self.device), caption].long()
        return {
            "latents": values["latents"].float(),
            "masks": values["masks"].float() / 255,
            "joints": values["joints"],
            "share": values["share"],
            "ids": ids[:, 0],
            "second": ids[:, 1],
        }

    def _fill(self, source: Iterator[dict[str, Tensor]]) -> None:
        try:
            self._take(source)
        except BaseException as error:
            self._failure = error  # the next batch raises it
            with self._more:
                self._more.notify_all()

    def _take(self, source: Iterator[dict[str, Tensor]]) -> None:
        count, began, first = self.recipe.distinct_pictures, time.monotonic(), self.drawn
        for values in source:
            now = slice(self.drawn, min(self.drawn + _AT_ONCE, count))
            for name, value in values.items():
                part = value[: now.stop - now.start]
                self._files[name][now] = part.numpy()
                if self.device.type == "cuda":
                    self._held[name][now].copy_(part)
            # Written before anyone can know of them: whoever sees all pictures finds them on the disk too.
            due = now.stop % (64 * _AT_ONCE) == 0 or now.stop == count
            if due:
                for array in self._files.values():
                    array.flush()
                self._count_file.write_text(str(now.stop))
            with self._more:
                self.drawn = now.stop
                self._more.notify_all()
            if due:
                rate = (self.drawn - first) / (time.monotonic() - began)
                self.report(f"pictures: {self.drawn}/{count} {rate:.0f}/s")


class _Drawn(Dataset):
    """`_AT_ONCE` pictures an item, as codes and token ids: little to send from process to process."""

    def __init__(self, recipe: Recipe, codes: PatchCodes, tokenizer: CLIPTokenizer) -> None:
        self.recipe, self.codes, self.tokenizer, self.part = recipe, codes, tokenizer, drawn_part(recipe)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        recipe, side = self.recipe, self.recipe.image_size // 8
        indices = range(number * _AT_ONCE, (number + 1) * _AT_ONCE)
        items = [worded(recipe, self.part, index, STREAM, CAPTIONS) for index in indices]
        drawn = [drawing(item.scene, recipe.image_size) for item in items]
        images = pixels_of([d.picture for d in drawn])
        masks = torch.from_numpy(np.stack([d.mask for d in drawn]))[:, None].float()
        texts = [text for item in items for pair in item.captions for text in pair]
        ids = token_ids(self.tokenizer, texts, recipe.max_tokens)
        return {
            "latents": self.codes.encode(images).half(),
            "masks": (F.adaptive_avg_pool2d(masks, side) * 255).round().byte(),
            "joints": torch.from_numpy(np.stack([d.joints for d in drawn])).float(),
            "ids": ids.view(_AT_ONCE, CAPTIONS, 2, recipe.max_tokens).short(),
            "share": torch.tensor([item.share for item in items]),
        }
