"""Losses that take long to compute are saved in a file, so that a search that was stopped goes on after them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.errors import CheckpointError
from twinact.storage import read_safetensors, write_safetensors

KIND, VERSION = "search", 1
_SECONDS_BETWEEN_SAVES = 10.0


class SearchCache:
    """The losses of batches that always come in the same order; those of finished ones need not be found again.

    A file of other settings, or a damaged one, is passed over and replaced.

    Args:
        path: The file.
        settings: All that decides the losses and their order, as JSON.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._header = {"kind": KIND, "version": VERSION, "settings": json.loads(json.dumps(settings))}
        self._values, self._taken = self._read(), 0
        self._unsaved, self._saved_at = False, time.monotonic()

    def __len__(self) -> int:
        """How many losses have been found, in this process or an earlier one."""
        return len(self._values)

    def take(self, count: int) -> Float[Tensor, " count"] | None:
        """The losses of the next batch; None when they are to be found and added."""
        if self._taken + count > len(self._values):
            return None
        self._taken += count
        return self._values[self._taken - count : self._taken]

    def add(self, losses: Float[Tensor, " count"]) -> None:
        """The losses of the batch after those taken and added so far; now and then all are saved.

        Raises:
            DataError: The file cannot be written.
        """
        self._values = torch.cat([self._values[: self._taken], losses.float()])
        self._taken, self._unsaved = len(self._values), True
        if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write what was found since the last save; errors as `add`."""
        if self._unsaved:
            write_safetensors(self._path, {"losses": self._values}, self._header)
            self._unsaved, self._saved_at = False, time.monotonic()

    def _read(self) -> Float[Tensor, " n"]:
        try:
            tensors, header = read_safetensors(self._path, KIND, VERSION)
        except CheckpointError:  # also where there is none
            return torch.empty(0)
        losses = tensors.get("losses", torch.empty(0))
        usable = header == self._header and losses.ndim == 1 and losses.is_floating_point()
        return losses if usable else torch.empty(0)
