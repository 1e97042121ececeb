"""Adds a LoRA on the denoiser to any method; both learn together."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import LORA_LAYERS
from twinact.methods.layers import LearnedLayers
from twinact.methods.method import Batch, Method, ParameterGroup


class WithLora:
    """Learns a LoRA together with a method, by the method's own loss.

    TwinAct is published in two stages, coefficients alone and then coefficients and LoRA together. Here both learn
    from the first step: the LoRA begins as zero and its rate is far below that of the coefficients, so they move
    first, and the token vectors never have to follow a denoiser that was finished without them.

    Args:
        method: What learns the token vectors.
        rank: Rank of the LoRA, 1 or more.
        learning_rate: Learning rate of the LoRA.
        seed: Seed of its start.
        kind: What it adapts, one of `twinact.configs.LORA_LAYERS`.
    """

    def __init__(self, method: Method, rank: int, learning_rate: float, seed: int, kind: str = LORA_LAYERS[0]) -> None:
        self.name = method.name
        self.method = method
        self.learning_rate = learning_rate
        self.layers = LearnedLayers(rank, seed, kind=kind)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = self.method.attach(backbone)
        return [*groups, {"params": self.layers.attach(backbone), "lr": self.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        self.layers.detach(backbone)
        self.method.detach(backbone)

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        return self.method.loss(backbone, batch, generator)

    def identity(self) -> dict[str, Any]:
        return self.method.identity()

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.method.state_dict(), **self.layers.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.method.load_state_dict(state)
        self.layers.load_state_dict(state)

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return replace(self.method.action(name, meta), lora=dict(self.layers.weights))
