"""Textual Inversion (Gal et al., arXiv:2208.01618): free token vectors, everything else frozen."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact.action import Action
from twinact.backbones.base import Backbone, TokenTable
from twinact.errors import ConfigError
from twinact.methods.base import Batch, ParameterGroup, denoise

DEFAULT_START = "posing"


class TextualInversion:
    """Learns `slots` vectors for each text encoder by the denoising loss alone.

    Args:
        slots: Token vectors that the action takes.
        learning_rate: Of the first text encoder's vectors. Adam moves all numbers alike, so the others' rates are as
            much larger as the numbers in their tables are: those of T5 are far above those of CLIP.
        start: Word or phrase whose mean embedding every slot starts from. None takes `DEFAULT_START` where the
            vocabulary has it as one token, else the mean of the whole table.
    """

    name = "textual-inversion"

    def __init__(self, slots: int, learning_rate: float, start: str | None = None) -> None:
        self.slots = slots
        self.learning_rate = learning_rate
        self.start = start
        self.vectors: list[nn.Parameter] = []  # one (slots, width) per text encoder
        self._model_id = ""

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        self._model_id = backbone.model_id
        self.vectors = [
            # Text encoders may rest elsewhere, but all that is learned is in one place.
            nn.Parameter(self._starting_vector(table).detach().to(backbone.device, torch.float32).repeat(self.slots, 1))
            for table in backbone.token_tables()
        ]
        sizes = [_rms(table.weight) for table in backbone.token_tables()]
        return [
            {"params": [vectors], "lr": self.learning_rate * (size / sizes[0])}
            for vectors, size in zip(self.vectors, sizes, strict=True)
        ]

    def detach(self, backbone: Backbone) -> None:
        pass  # the backbone was never changed

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, list(self.vectors)).loss
        return {"loss": denoising, "denoising": denoising}

    def identity(self) -> dict[str, Any]:
        return {} if len(self.vectors) == 1 else {"rates": "by table"}

    def state_dict(self) -> dict[str, Tensor]:
        return {f"vectors.{index}": vectors.detach() for index, vectors in enumerate(self.vectors)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for index, vectors in enumerate(self.vectors):
            vectors.copy_(state[f"vectors.{index}"])

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return Action(name, self.vectors, self._model_id, meta=meta)

    def _starting_vector(self, table: TokenTable) -> Float[Tensor, " width"]:
        ids = table.ids(self.start or DEFAULT_START)
        known = bool(ids) and table.tokenizer.unk_token_id not in ids
        if self.start is not None:
            if not known:
                raise ConfigError(f"start {self.start!r} has no known token in {table.name}; choose another word")
            return table.embed(self.start).mean(dim=0)
        # A word in pieces would start the vectors from meaningless syllables.
        return table.embed(DEFAULT_START)[0] if known and len(ids) == 1 else table.weight.mean(dim=0)


def _rms(weight: Float[Tensor, "vocabulary width"]) -> float:
    """Root mean square in float32, which the type of the weights may not hold, without a copy of them."""
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32)) / weight.numel() ** 0.5
