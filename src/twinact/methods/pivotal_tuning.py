"""Pivotal tuning (Roich et al., arXiv:2106.05744), as it is used for diffusion: first the word, then the denoiser.

Textual Inversion finds the point of the model that is nearest to the exemplars; from there a LoRA has little left to
change.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, PivotalTuningConfig
from twinact.methods.layers import LearnedLayers
from twinact.methods.method import Batch, Given, ParameterGroup
from twinact.methods.textual_inversion import TextualInversion


class PivotalTuning(TextualInversion):
    """Textual Inversion for the first part of the run, then a LoRA too; the vectors go on learning beside it.

    Args:
        slots, learning_rate, start: As `TextualInversion`.
        settings: Rank of the LoRA, and the part of the run that is without it.
        layer_rate: Learning rate of the LoRA.
        seed: Of its start.
    """

    name = PivotalTuningConfig.name

    def __init__(
        self,
        slots: int,
        learning_rate: float,
        start: str | None,
        settings: PivotalTuningConfig,
        layer_rate: float,
        seed: int,
    ) -> None:
        super().__init__(slots, learning_rate, start)
        self.inversion_share, self.layer_rate = settings.inversion_share, layer_rate
        self.layers = LearnedLayers(settings.layer_rank, seed)

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "PivotalTuning":
        assert isinstance(config.method, PivotalTuningConfig)
        return cls(config.slots, config.rate, config.start, config.method, config.lora_learning_rate, config.seed)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = super().attach(backbone)
        return [*groups, {"params": self.layers.attach(backbone), "lr": self.layer_rate}]

    def detach(self, backbone: Backbone) -> None:
        self.layers.detach(backbone)

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        # Without gradients Adam leaves the layers at zero, where they do nothing.
        self.layers.learn(batch.progress >= self.inversion_share)
        return super().loss(backbone, batch, generator)

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **self.layers.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.layers.load_state_dict(state)

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return replace(super().action(name, meta), lora=dict(self.layers.weights))
