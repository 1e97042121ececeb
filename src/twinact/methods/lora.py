"""Any method with a LoRA on the denoiser beside what it learns itself."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact import lora
from twinact.action import Action
from twinact.backbones.base import Backbone
from twinact.methods.base import Batch, Method, ParameterGroup

_PREFIX = "lora."


class WithLora:
    """Learns a LoRA together with a method, by the method's own loss.

    TwinAct is published in two stages, coefficients alone and then coefficients and LoRA together. Here both learn
    from the first step: the LoRA begins as zero and its rate is far below that of the coefficients, so they move
    first, and the token vectors never have to follow a denoiser that was finished without them.

    Args:
        method: What learns the token vectors.
        rank: Of the LoRA, 1 or more.
        learning_rate: Of the LoRA.
        seed: Of its start.
    """

    def __init__(self, method: Method, rank: int, learning_rate: float, seed: int) -> None:
        self.name = method.name
        self.method = method
        self.rank = rank
        self.learning_rate = learning_rate
        self.seed = seed
        self.weights: dict[str, nn.Parameter] = {}

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        if self.weights:
            lora.detach(backbone)
        groups = self.method.attach(backbone)
        lora.attach(backbone, lora.fresh(backbone, self.rank, self.seed))
        self.weights = lora.parameters(backbone)
        for weight in self.weights.values():
            weight.data = weight.data.float()  # a half-precision model gives its own type to what is attached
            weight.requires_grad_(True)
        return [*groups, {"params": list(self.weights.values()), "lr": self.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        lora.detach(backbone)
        self.method.detach(backbone)

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        return self.method.loss(backbone, batch, generator)

    def identity(self) -> dict[str, Any]:
        return self.method.identity()

    def state_dict(self) -> dict[str, Tensor]:
        own = {_PREFIX + name: weight.detach() for name, weight in self.weights.items()}
        return {**self.method.state_dict(), **own}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.method.load_state_dict({name: value for name, value in state.items() if not name.startswith(_PREFIX)})
        for name, weight in self.weights.items():
            weight.copy_(state[_PREFIX + name])

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return replace(self.method.action(name, meta), lora=dict(self.weights))
