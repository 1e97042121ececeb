"""Cross-Initialization (Pang et al., CVPR 2024, arXiv:2312.15905).

Vectors that Textual Inversion learns resemble the outputs of the text encoder rather than its inputs. Begun at the
output for a known word, and held near it, they need fewer steps and overfit less.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import CrossInitializationConfig
from twinact.methods.method import Batch, ParameterGroup, denoise
from twinact.methods.text_outputs import text_outputs
from twinact.methods.textual_inversion import TextualInversion


class CrossInitialization(TextualInversion):
    """Textual Inversion from the output of each text encoder at the starting word's positions.

    loss = denoising + start_weight · squared distance of the vectors from their start

    Args:
        slots, learning_rate: As `TextualInversion`.
        start: Word or phrase whose outputs are the start; None as in `TextualInversion`.
        start_weight: Weight of the distance.
    """

    name = CrossInitializationConfig.name
    settings: CrossInitializationConfig

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = super().attach(backbone)
        # Alone, so that the text encoder's outputs at these positions are about nothing else.
        with torch.no_grad():
            outputs = text_outputs(backbone, [PLACEHOLDER], {PLACEHOLDER: self.vectors})
            for vectors, output in zip(self.vectors, outputs, strict=True):
                vectors.copy_(output.hidden[0, output.learned[0]])
        self._starts = [vectors.detach().clone() for vectors in self.vectors]
        return groups

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self.current()).loss
        pairs = zip(self.vectors, self._starts, strict=True)
        distance = torch.stack([(own - start).square().sum() for own, start in pairs]).sum()
        return {"loss": denoising + self.settings.start_weight * distance, "denoising": denoising, "distance": distance}
