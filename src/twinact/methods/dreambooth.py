"""DreamBooth (Ruiz et al., CVPR 2023, arXiv:2208.12242): the denoiser learns what a rare word means."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import DreamBoothConfig, LearnConfig
from twinact.methods.layers import LearnedLayers
from twinact.methods.method import Batch, Given, ParameterGroup, denoise
from twinact.methods.prior_pictures import PriorPictures
from twinact.methods.textual_inversion import DEFAULT_START


class DreamBooth:
    """Layers of the denoiser learn; the action's vectors are those of a rare word and its class word, and stay so.

    loss = denoising + preservation_weight · denoising of pictures of the class, which the model drew beforehand

    Args:
        settings: Identifier, rank, and prior preservation.
        learning_rate: Of the layers.
        start: The class that the action belongs to; None takes `DEFAULT_START`.
        seed: Of the pictures of the class, and of layers of low rank.
    """

    name = DreamBoothConfig.name

    def __init__(self, settings: DreamBoothConfig, learning_rate: float, start: str | None, seed: int) -> None:
        self.settings, self.learning_rate = settings, learning_rate
        self.word = start or DEFAULT_START
        self.layers = LearnedLayers(settings.layer_rank, seed)
        self.prior = PriorPictures(settings.prior_pictures, settings.preservation_weight, self.word, seed)
        self._vectors: list[Tensor] = []
        self._model_id = ""

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "DreamBooth":
        assert isinstance(config.method, DreamBoothConfig)
        return cls(config.method, config.rate, config.start, config.seed)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        self._model_id = backbone.model_id
        text = f"{self.settings.identifier} {self.word}"
        self._vectors = [table.embed(text).detach().float().to(backbone.device) for table in backbone.token_tables()]
        self.prior.latents = None
        return [{"params": self.layers.attach(backbone), "lr": self.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        self.layers.detach(backbone)

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self._vectors).loss
        preservation = self.prior.loss(backbone, batch, generator)
        total = denoising + self.prior.weight * preservation
        return {"loss": total, "denoising": denoising, "preservation": preservation}

    def identity(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.layers.state_dict(), **self.prior.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.layers.load_state_dict(state)
        self.prior.load_state_dict(state, self._vectors[0].device)

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return Action(name, self._vectors, self._model_id, lora=dict(self.layers.weights), meta=meta)
