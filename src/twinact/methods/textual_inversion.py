"""Textual Inversion (Gal et al., arXiv:2208.01618): free token vectors, everything else frozen."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact.action import Action
from twinact.backbones.backbone import Backbone, TokenTable
from twinact.configs import LearnConfig, MethodConfig, TextualInversionConfig
from twinact.errors import ConfigError
from twinact.methods.method import Batch, Given, ParameterGroup, denoise

DEFAULT_START = "posing"


class TextualInversion:
    """Learns `slots` vectors for each text encoder by the denoising loss alone.

    Args:
        slots: Token vectors that the action takes.
        learning_rate: Learning rate of the first text encoder's vectors. Adam moves all numbers alike, so the rates of
            the others are as much larger as the numbers in their tables are: those of T5 are far above those of CLIP.
        start: Word or phrase to start from, token by token: where there are more tokens than slots, a slot starts at
            the mean of its share of them, and where there are fewer, the last ones start at the last token. None takes
            `DEFAULT_START` where the vocabulary has it as one token, else the mean of the whole table.
        settings: Those of a method that is derived from this one, which needs them; this one has none.

    Attributes:
        vectors: What is learned, one (slots, width) for each text encoder; float32.
    """

    name = TextualInversionConfig.name
    settings: MethodConfig

    def __init__(
        self, slots: int, learning_rate: float, start: str | None = None, settings: MethodConfig | None = None
    ) -> None:
        if settings is not None:
            self.settings = settings
        self.slots = slots
        self.learning_rate = learning_rate
        self.start = start
        self.vectors: list[nn.Parameter] = []
        self._model_id = ""

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "TextualInversion":
        return cls(config.slots, config.rate, config.start, config.method)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        self._model_id = backbone.model_id
        self.vectors = [
            # Text encoders may rest elsewhere, but all that is learned is in one place.
            nn.Parameter(start.clone().to(backbone.device))
            for start in starting_vectors(backbone, self.start, self.slots)
        ]
        rates = rates_by_table(backbone, self.learning_rate)
        return [{"params": [vectors], "lr": rate} for vectors, rate in zip(self.vectors, rates, strict=True)]

    def current(self) -> list[Tensor]:
        """The token vectors as prompts take them now, one (slots, width) for each text encoder; differentiable."""
        return list(self.vectors)

    def detach(self, backbone: Backbone) -> None:
        pass  # the backbone was never changed

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self.current()).loss
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
        return Action(name, [vectors.detach() for vectors in self.current()], self._model_id, meta=meta)


def starting_vectors(backbone: Backbone, start: str | None, slots: int) -> list[Float[Tensor, "slots width"]]:
    """The vectors that a word or phrase begins with, one tensor for each text encoder; see `TextualInversion`.

    Raises:
        ConfigError: No token of `start` is known.
    """
    return [_starting(table, start, slots).detach().float() for table in backbone.token_tables()]


def rates_by_table(backbone: Backbone, learning_rate: float) -> list[float]:
    """The rate of each text encoder's vectors: `learning_rate` in the first, in proportion to the tables in others."""
    sizes = [_rms(table.weight) for table in backbone.token_tables()]
    return [learning_rate * (size / sizes[0]) for size in sizes]


def _starting(table: TokenTable, start: str | None, slots: int) -> Float[Tensor, "slots width"]:
    ids = table.ids(start or DEFAULT_START)
    known = bool(ids) and table.tokenizer.unk_token_id not in ids
    if start is not None:
        if not known:
            raise ConfigError(f"start {start!r} has no known token in {table.name}; choose another word")
        parts = table.embed(start).tensor_split(min(slots, len(ids)))
        return torch.stack([parts[min(slot, len(parts) - 1)].mean(dim=0) for slot in range(slots)])
    # A word in pieces would start the vectors from meaningless syllables.
    vector = table.embed(DEFAULT_START)[0] if known and len(ids) == 1 else table.weight.mean(dim=0)
    return vector.expand(slots, -1)


def _rms(weight: Float[Tensor, "vocabulary width"]) -> float:
    """Root mean square in float32, which the type of the weights may not hold, without a copy of them."""
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32)) / weight.numel() ** 0.5
