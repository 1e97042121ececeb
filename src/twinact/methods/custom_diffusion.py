"""Custom Diffusion (Kumari et al., CVPR 2023, arXiv:2212.04488): keys and values of the text, and a modifier word.

(The authors' code is not for commercial use, and none of it is here.)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import CustomDiffusionConfig, LearnConfig
from twinact.methods.layers import LearnedLayers, text_layers
from twinact.methods.method import Batch, Given, ParameterGroup, denoise
from twinact.methods.prior_pictures import PriorPictures
from twinact.methods.textual_inversion import DEFAULT_START, TextualInversion, starting_vectors

# The layers of a UNet that read the text.
_TEXT_LAYERS = ("attn2.to_k", "attn2.to_v")


class CustomDiffusion(TextualInversion):
    """Learns keys and values of the cross-attention at full rank, and one vector, which stands before the class word.

    loss = denoising + preservation_weight · denoising of pictures of the class, which the model drew beforehand

    Args:
        settings: Identifier and prior preservation.
        learning_rate: Of the layers and the vector alike, as published.
        start: The class that the action belongs to; None takes `DEFAULT_START`.
        seed: Of the pictures of the class.
    """

    name = CustomDiffusionConfig.name

    def __init__(self, settings: CustomDiffusionConfig, learning_rate: float, start: str | None, seed: int) -> None:
        # The modifier begins as a rare word.
        super().__init__(1, learning_rate, settings.identifier)
        self.word = start or DEFAULT_START
        self.layers = LearnedLayers(None, seed, _TEXT_LAYERS)
        self.prior = PriorPictures(settings.prior_pictures, settings.preservation_weight, self.word, seed)

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "CustomDiffusion":
        assert isinstance(config.method, CustomDiffusionConfig)
        return cls(config.method, config.rate, config.start, config.seed)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        text_layers(self.name, backbone, "dreambooth")
        groups = super().attach(backbone)
        self._class = [word.to(backbone.device) for word in starting_vectors(backbone, self.word, 1)]
        self.prior.latents = None
        return [*groups, {"params": self.layers.attach(backbone), "lr": self.learning_rate}]

    def current(self) -> list[Tensor]:
        return [torch.cat([own, word]) for own, word in zip(self.vectors, self._class, strict=True)]

    def detach(self, backbone: Backbone) -> None:
        self.layers.detach(backbone)

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self.current()).loss
        preservation = self.prior.loss(backbone, batch, generator)
        total = denoising + self.prior.weight * preservation
        return {"loss": total, "denoising": denoising, "preservation": preservation}

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **self.layers.state_dict(), **self.prior.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.layers.load_state_dict(state)
        self.prior.load_state_dict(state, self.vectors[0].device)

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        vectors = [own.detach() for own in self.current()]
        return Action(name, vectors, self._model_id, lora=dict(self.layers.weights), meta=meta)
