"""Directional Textual Inversion (ICLR 2026, arXiv:2512.13672; the authors' code is MIT).

Textual Inversion makes vectors far longer than those of words, and their length drowns the words around them. So the
length is fixed at that of words, and the direction alone is learned, on the sphere.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import Backbone
from twinact.configs import DirectionalConfig
from twinact.methods.method import Batch, ParameterGroup, denoise
from twinact.methods.textual_inversion import TextualInversion


class DirectionalInversion(TextualInversion):
    """Learns the directions of token vectors; `vectors` has rows of length 1.

    loss = denoising - concentration · Σ <direction, direction of the start>, the logarithm of a von Mises-Fisher prior

    Args:
        slots, start: As `TextualInversion`.
        learning_rate: Angle of one step, in radians; the same for all text encoders.
        concentration: Of the prior.
    """

    name = DirectionalConfig.name
    settings: DirectionalConfig

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        super().attach(backbone)
        self._lengths = [
            float(table.weight.detach().norm(dim=1, dtype=torch.float32).mean()) for table in backbone.token_tables()
        ]
        for vectors in self.vectors:
            vectors.data = F.normalize(vectors.data, dim=1)
        self._starts = [vectors.detach().clone() for vectors in self.vectors]
        return [{"params": [vectors], "lr": self.learning_rate, "on_sphere": True} for vectors in self.vectors]

    def current(self) -> list[Tensor]:
        return [
            length * F.normalize(vectors, dim=1) for length, vectors in zip(self._lengths, self.vectors, strict=True)
        ]

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self.current()).loss
        pull = torch.stack([(own * start).sum() for own, start in zip(self.vectors, self._starts, strict=True)]).sum()
        return {"loss": denoising - self.settings.concentration * pull, "denoising": denoising, "pull": pull}
