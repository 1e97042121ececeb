"""ConceptPrism (Kim et al., CVPR 2026, arXiv:2602.19575): what the exemplars share, and what each has of its own.

Every exemplar has residual vectors besides the shared ones. The exclusion loss forbids them to say anything about
another exemplar, so what all exemplars show has to go into the shared vectors, which are the action.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import ConceptPrismConfig
from twinact.errors import ConfigError
from twinact.methods.losses import denoising_errors, denoising_loss
from twinact.methods.method import Batch, ParameterGroup
from twinact.methods.textual_inversion import TextualInversion, rates_by_table

# Parameters are made before the exemplars are counted; the vectors of those that there are not stay as they are.
_MOST_EXEMPLARS = 64


class ConceptPrism(TextualInversion):
    """Learns the action's vectors, and residual vectors for each exemplar, which are not part of the action.

    loss = denoising of exemplar i with its caption and residual i + exclusion_weight · exclusion

    The exclusion term is the mean squared difference between what the denoiser says about another exemplar when told
    residual i alone, and when told nothing. It is 0 where there is only one exemplar.

    Args:
        slots, learning_rate, start: As `TextualInversion`; residuals learn at the same rate.
        settings: Weight of the exclusion, and the number of residual vectors.
    """

    name = ConceptPrismConfig.name
    settings: ConceptPrismConfig

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = super().attach(backbone)
        shape = (_MOST_EXEMPLARS, self.settings.residual_slots, -1)
        self.residuals = [
            nn.Parameter(table.weight.detach().float().mean(dim=0).expand(shape).clone().to(backbone.device))
            for table in backbone.token_tables()
        ]
        rates = rates_by_table(backbone, self.learning_rate)
        groups += [{"params": [own], "lr": rate} for own, rate in zip(self.residuals, rates, strict=True)]
        return groups

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        assert batch.numbers is not None
        numbers = batch.numbers.tolist()
        if max(numbers) >= _MOST_EXEMPLARS:
            raise ConfigError(f"method {self.name!r} takes at most {_MOST_EXEMPLARS} exemplars; leave some out")
        words = [f"<residual {number}>" for number in numbers]
        vectors = {word: [own[number] for own in self.residuals] for word, number in zip(words, numbers, strict=True)}
        noised = backbone.noising.add(batch.latents, batch.noise, batch.t)
        captions = [f"{caption} {word}" for caption, word in zip(batch.captions, words, strict=True)]
        cond = backbone.encode_text(captions, {PLACEHOLDER: self.current(), **vectors})
        prediction = backbone.predict(noised.x_t, noised.t, cond)
        denoising = denoising_loss(prediction, noised.target, noised.weight, batch.mask)
        exclusion = self._exclusion(backbone, batch, words, vectors)
        return {
            "loss": denoising + self.settings.exclusion_weight * exclusion,
            "denoising": denoising,
            "exclusion": exclusion,
        }

    def _exclusion(
        self, backbone: Backbone, batch: Batch, words: list[str], vectors: dict[str, list[Tensor]]
    ) -> Float[Tensor, ""]:
        others = (batch.partners != batch.latents).flatten(1).any(dim=1)  # all of them, or there is only one exemplar
        if not bool(others.all()):
            return batch.latents.new_zeros((), dtype=torch.float32)
        noised = backbone.noising.add(batch.partners, batch.noise, batch.t)
        with torch.no_grad():
            untold = backbone.predict(noised.x_t, noised.t, backbone.encode_text([""] * len(words)))
        told = backbone.predict(noised.x_t, noised.t, backbone.encode_text(words, vectors))
        return denoising_errors(told, untold).mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **{f"residuals.{i}": own.detach() for i, own in enumerate(self.residuals)}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        for index, own in enumerate(self.residuals):
            own.copy_(state[f"residuals.{index}"])
