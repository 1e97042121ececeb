"""Layers of the denoiser that learn, as a LoRA is attached: of low rank, or of full rank and then without limits."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from twinact import lora
from twinact.backbones.backbone import Backbone
from twinact.backbones.token_lora import TokenLora
from twinact.configs import LORA_LAYERS
from twinact.errors import ConfigError

_PREFIX = "lora."


def text_layers(method: str, backbone: Backbone, instead: str) -> list[str]:
    """The cross-attention layers of a denoiser by name, in the order in which they are run.

    Args:
        method: Who learns them.
        backbone: The model.
        instead: The method to take where there are none.

    Raises:
        ConfigError: There are none.
    """
    if not backbone.cross_attention:
        raise ConfigError(
            f"method {method!r} learns the cross-attention of a UNet and model {backbone.model_id!r} has none: its "
            f"text and picture attend to one another; take {instead}"
        )
    return list(backbone.cross_attention)


class LearnedLayers:
    """A change of linear layers, which begins as none at all.

    At full rank one factor is the identity and stays so; the other is then the change itself, and learns as the layer's
    own weight would. So what is learned can be saved, exported and drawn with as any LoRA.

    Args:
        rank: Rank of the change; None for full rank.
        seed: Seed of its start.
        layers: Endings of the layers' names, as in "attn2.to_k"; None for all of their kind.
        at_tokens: Whether they change what is read of the text at the action's own positions alone; see
            `twinact.backbones.token_lora.TokenLora`.
        kind: One of `twinact.configs.LORA_LAYERS`.

    Attributes:
        weights: All factors, in the form of `twinact.lora`; float32.
        learned: Those that learn.
    """

    def __init__(
        self,
        rank: int | None,
        seed: int,
        layers: tuple[str, ...] | None = None,
        *,
        at_tokens: bool = False,
        kind: str = LORA_LAYERS[0],
    ) -> None:
        self.rank, self.seed, self.layers, self.at_tokens, self.kind = rank, seed, layers, at_tokens, kind
        self.weights: dict[str, nn.Parameter] = {}
        self.learned: dict[str, nn.Parameter] = {}

    def attach(self, backbone: Backbone) -> list[nn.Parameter]:
        """Attach the layers, anew if they are attached already, and give what learns; none if no layer has the name."""
        if self.weights:
            lora.detach(backbone)
        start = lora.fresh(backbone, 1 if self.rank is None else self.rank, self.seed, self.kind)
        if self.layers is not None:
            ends = tuple(end + suffix for end in self.layers for suffix in (lora.DOWN, lora.UP))
            start = {key: weight for key, weight in start.items() if key.endswith(ends)}
        if self.rank is None:
            start = _full(start)
        lora.attach(backbone, TokenLora(start) if self.at_tokens else start)
        self.weights = lora.parameters(backbone)
        for weight in self.weights.values():
            weight.data = weight.data.float()  # a half-precision model gives its own type to what is attached
        # The identity is the factor of full rank that does not begin as zero.
        fixed = {key for key, weight in start.items() if self.rank is None and bool(weight.any())}
        self.learned = {key: weight for key, weight in self.weights.items() if key not in fixed}
        self.learn(True)
        return list(self.learned.values())

    def learn(self, whether: bool) -> None:
        """Let gradients reach the layers, or not."""
        for weight in self.learned.values():
            weight.requires_grad_(whether)

    def detach(self, backbone: Backbone) -> None:
        """Leave the backbone as it was; what was learned stays here."""
        lora.detach(backbone)

    def state_dict(self) -> dict[str, Tensor]:
        """What is learned, by name, for checkpoints."""
        return {_PREFIX + name: weight.detach() for name, weight in self.learned.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state_dict`, in place; other names are passed over."""
        for name, weight in self.learned.items():
            weight.copy_(state[_PREFIX + name])


def _full(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Factors of full rank in the place of those of rank 1: the smaller one the identity, the other one zero."""
    full: dict[str, Tensor] = {}
    for key, down in weights.items():
        if not key.endswith(lora.DOWN):
            continue
        name = key.removesuffix(lora.DOWN)
        inputs, outputs = down.shape[1], len(weights[name + lora.UP])
        wide = inputs > outputs
        full[name + lora.DOWN] = torch.zeros(outputs, inputs) if wide else torch.eye(inputs)
        full[name + lora.UP] = torch.eye(outputs) if wide else torch.zeros(outputs, inputs)
    return full
