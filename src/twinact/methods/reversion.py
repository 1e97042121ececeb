"""ReVersion (Huang et al., SIGGRAPH Asia 2024, arXiv:2303.13495), for actions: verbs where it has prepositions.

A relation is a preposition, so its vector should lie among prepositions and far from the words for what the exemplars
show besides. An action is a verb. (The authors' code is not for commercial use, and none of it is here.)
"""

import re
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone, TokenTable
from twinact.configs import ReVersionConfig
from twinact.methods.method import Batch, ParameterGroup, denoise
from twinact.methods.textual_inversion import TextualInversion
from twinact.phrases import load_phrases

# Words that say nothing about what a caption shows.
_STOP_WORDS = frozenset(
    "a an the and or of in on at by to from with without under over behind before beside near between into onto "
    "front top his her its their is are was photo picture image".split()
)


class ReVersion(TextualInversion):
    """Textual Inversion with the steering loss.

    loss = denoising + steering_weight · steering

    The steering term is a multiple-instance InfoNCE over cosines in each text encoder's embedding table: the anchor is
    a vector that is learned, the positives are verbs, drawn anew for each step, and the negatives are all other words
    of the captions. Only the anchor learns.

    Args:
        slots, learning_rate, start: As `TextualInversion`.
        settings: Weight and temperature of the term, and the number of verbs.
    """

    name = ReVersionConfig.name
    settings: ReVersionConfig

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = super().attach(backbone)
        self._tables = backbone.token_tables()
        return groups

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        denoising = denoise(backbone, batch, self.current()).loss
        known = verbs()
        chosen = [known[i] for i in torch.randperm(len(known), generator=generator)[: self.settings.verbs_per_step]]
        others = sorted({word for caption in batch.captions for word in content_words(caption)} - set(known))
        terms = [
            steering_loss(
                own, _mean_embeddings(table, chosen), _mean_embeddings(table, others), self.settings.temperature
            )
            for own, table in zip(self.vectors, self._tables, strict=True)
        ]
        steering = torch.stack(terms).mean()
        return {
            "loss": denoising + self.settings.steering_weight * steering,
            "denoising": denoising,
            "steering": steering,
        }


@cache
def verbs() -> tuple[str, ...]:
    """The words that the shipped action phrases begin with and that end in "ing", in the order of the list."""
    first = (phrase.text.split()[0] for phrase in load_phrases())
    return tuple(dict.fromkeys(word for word in first if word.endswith("ing")))


def content_words(caption: str) -> list[str]:
    """The words of a caption that say what it shows, in lower case, without the placeholder and function words."""
    words = re.findall(r"[a-z]+", caption.replace(PLACEHOLDER, " ").lower())
    return [word for word in words if word not in _STOP_WORDS]


def steering_loss(
    anchors: Float[Tensor, "s w"],
    positives: Float[Tensor, "p w"],
    negatives: Float[Tensor, "n w"],
    temperature: float,
) -> Float[Tensor, ""]:
    """-log of the share of the positives in Σ exp(cosine / temperature), averaged over anchors; 0 without negatives."""

    def log_sum(words: Float[Tensor, "m w"]) -> Float[Tensor, " s"]:
        with torch.autocast(anchors.device.type, enabled=False):  # the temperature makes much of rounding
            return (F.normalize(anchors, dim=1) @ F.normalize(words, dim=1).T / temperature).logsumexp(dim=1)

    return (log_sum(torch.cat([positives, negatives])) - log_sum(positives)).mean()


def _mean_embeddings(table: TokenTable, words: list[str]) -> Float[Tensor, "n w"]:
    rows = [table.embed(word).detach().float().mean(dim=0) for word in words]
    return torch.stack(rows) if rows else table.weight.new_zeros(0, table.width, dtype=torch.float32)
