"""TARA (Peng et al., AAAI 2026, arXiv:2508.08812): a LoRA that acts on the text at the action's own tokens alone.

A LoRA changes what every word of a prompt means to the denoiser. Held to its own tokens, it leaves the words for actor
and place alone, and two of them do not disturb one another.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.text import places_of
from twinact.backbones.token_lora import TokenLora
from twinact.configs import LearnConfig, TARAConfig
from twinact.lora import DOWN, UP
from twinact.methods.layers import LearnedLayers, text_layers
from twinact.methods.losses import denoising_loss
from twinact.methods.method import Batch, Given, ParameterGroup
from twinact.methods.textual_inversion import DEFAULT_START


class TARA:
    """A LoRA on the attention, whose keys and values of the text are masked to the tokens of the action.

    loss = denoising + alignment_weight · alignment

    The action is a rare word and its class word, whose vectors stay as they are. The alignment term is the mean
    absolute difference between the keys of the rare word, with the LoRA, and those of the class word, without it: so
    the rare word is looked at from where the class word is.

    Args:
        settings: Identifier, rank, and weight of the alignment.
        learning_rate: Of the LoRA.
        start: The class that the action belongs to; None takes `DEFAULT_START`.
        seed: Of the LoRA's start.
    """

    name = TARAConfig.name

    def __init__(self, settings: TARAConfig, learning_rate: float, start: str | None, seed: int) -> None:
        self.settings, self.learning_rate = settings, learning_rate
        self.word = start or DEFAULT_START
        self.layers = LearnedLayers(settings.layer_rank, seed, at_tokens=True)
        self._vectors: list[Tensor] = []
        self._model_id = ""

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "TARA":
        assert isinstance(config.method, TARAConfig)
        return cls(config.method, config.rate, config.start, config.seed)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        self._text_layers = text_layers(self.name, backbone, "dreambooth with a layer rank")
        self._model_id = backbone.model_id
        tables = backbone.token_tables()
        text = f"{self.settings.identifier} {self.word}"
        self._vectors = [table.embed(text).detach().float().to(backbone.device) for table in tables]
        self._rare = len(tables[0].ids(self.settings.identifier))
        return [{"params": self.layers.attach(backbone), "lr": self.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        self.layers.detach(backbone)

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        noised = backbone.noising.add(batch.latents, batch.noise, batch.t)
        cond = backbone.encode_text(list(batch.captions), {PLACEHOLDER: self._vectors})
        prediction = backbone.predict(noised.x_t, noised.t, cond)
        denoising = denoising_loss(prediction, noised.target, noised.weight, batch.mask)
        alignment = self._alignment(backbone, batch, cond)
        total = denoising + self.settings.alignment_weight * alignment
        return {"loss": total, "denoising": denoising, "alignment": alignment}

    def _alignment(self, backbone: Backbone, batch: Batch, cond: TextCond) -> Float[Tensor, ""]:
        places = places_of(PLACEHOLDER, backbone.token_tables(), batch.captions, {PLACEHOLDER: self._vectors})
        # The first of the places that are marked, in their order.
        columns = places.argsort(dim=1, descending=True, stable=True)[:, : len(self._vectors[0])]
        rows = torch.arange(len(columns))[:, None]
        words = cond.hidden[rows, columns.cpu()]  # b k d
        rare, known = words[:, : self._rare], words[:, self._rare :]
        distances = []
        for name in self._text_layers:
            layer = backbone.denoiser.get_submodule(f"{name}.to_k")
            key = f"{backbone.denoiser_name}.{name}.to_k"
            down, up = self.layers.weights[key + DOWN], self.layers.weights[key + UP]
            base = layer.get_base_layer()
            own = base(rare) + F.linear(F.linear(rare.to(down), down), up)
            distances.append((own - base(known).mean(dim=1, keepdim=True)).float().abs().mean())
        return torch.stack(distances).mean()

    def identity(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return self.layers.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.layers.load_state_dict(state)

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return Action(name, self._vectors, self._model_id, lora=TokenLora(self.layers.weights), meta=meta)
