"""CoRe (Wu et al., "Context-Regularized Text Embedding Learning", AAAI 2025, arXiv:2408.15914).

A vector that text encoders understand leaves the words around it what they are around a known word. That can be asked
of any prompt, with any actor and place, because no picture is needed for it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import CoReConfig
from twinact.intent.prompts import other_prompts
from twinact.methods.method import Batch, ParameterGroup, denoise
from twinact.methods.text_outputs import text_outputs
from twinact.methods.textual_inversion import TextualInversion


class CoRe(TextualInversion):
    """Textual Inversion with the context embedding term.

    loss = denoising + context_weight · context

    The context term is the mean squared difference of the text encoders' outputs at the words around the action, once
    with the vectors and once with those that they start from, which stand for the known word.

    Args:
        slots, learning_rate, start: As `TextualInversion`.
        settings: Weight of the term, and prompts that a step asks.
    """

    name = CoReConfig.name
    settings: CoReConfig

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = super().attach(backbone)
        self._known = [vectors.detach().clone() for vectors in self.vectors]
        return groups

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self.current()).loss
        context = self._context(backbone, other_prompts(generator, self.settings.prompts_per_step, batch.captions))
        return {
            "loss": denoising + self.settings.context_weight * context,
            "denoising": denoising,
            "context": context,
        }

    def _context(self, backbone: Backbone, prompts: list[str]) -> Float[Tensor, ""]:
        with torch.no_grad():
            wanted = text_outputs(backbone, prompts, {PLACEHOLDER: self._known})
        found = text_outputs(backbone, prompts, {PLACEHOLDER: self.current()})
        terms = [
            (own.hidden - known.hidden)[own.words].square().mean() for own, known in zip(found, wanted, strict=True)
        ]
        return torch.stack([term.to(backbone.device) for term in terms]).mean()
