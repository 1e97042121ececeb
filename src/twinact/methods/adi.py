"""Learning Disentangled Identifiers for Action-Customized Generation (ADI: Huang et al., CVPR 2024, arXiv:2311.15841).

The vectors' numbers that matter to the action are told by gradients: those of two exemplars agree there, and those of
one picture with another action in the same context do not. Only these numbers learn. (The authors' code is not public;
this follows the paper's idea, and what the paper does not tell is said in docs/methods.md.)
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import ADIConfig
from twinact.methods.losses import denoising_errors
from twinact.methods.method import Batch
from twinact.methods.textual_inversion import TextualInversion
from twinact.phrases import load_phrases


class ADI(TextualInversion):
    """Textual Inversion by masked gradients.

    The picture with another action is the denoiser's own estimate of the exemplar at the step's time, told another
    phrase: what is decided by then stays, and that is the context.

    Args:
        slots, learning_rate, start: As `TextualInversion`.
        kept_share: Share of the numbers that each of the two comparisons keeps; both must.
    """

    name = ADIConfig.name
    settings: ADIConfig

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        value, own = self._gradients(backbone, batch, batch.latents, batch.captions)
        _, partner = self._gradients(backbone, batch, batch.partners, batch.partner_captions)
        _, changed = self._gradients(backbone, batch, self._other_action(backbone, batch, generator), batch.captions)
        slope, kept = torch.zeros((), device=backbone.device), []
        for vectors, a, b, c in zip(self.vectors, own, partner, changed, strict=True):
            mask = action_numbers(a, b, c, self.settings.kept_share)
            kept.append(mask.float().mean())
            slope = slope + (vectors * (a * mask).mean(dim=0)).sum()
        # The gradients are taken already: a term whose value is zero and whose gradient is the masked one.
        return {"loss": value + slope - slope.detach(), "denoising": value, "kept": torch.stack(kept).mean()}

    def _gradients(
        self, backbone: Backbone, batch: Batch, latents: Float[Tensor, "b c h w"], captions: tuple[str, ...]
    ) -> tuple[Float[Tensor, ""], list[Float[Tensor, "b s d"]]]:
        """The mean denoising loss of pictures at the batch's noise and times, and the gradient of each one's."""
        rows = [
            own.detach().expand(len(captions), -1, -1).clone().requires_grad_() for own in self.vectors
        ]  # a copy for each picture, so that gradients come apart
        words = [f"<act {number}>" for number in range(len(captions))]
        prompts = [caption.replace(PLACEHOLDER, word) for caption, word in zip(captions, words, strict=True)]
        cond = backbone.encode_text(prompts, {word: [own[i] for own in rows] for i, word in enumerate(words)})
        noised = backbone.noising.add(latents, batch.noise, batch.t)
        prediction = backbone.predict(noised.x_t, noised.t, cond)
        mask = batch.mask if latents is batch.latents else None  # the mask is of the exemplars in the batch
        errors = noised.weight * denoising_errors(prediction, noised.target, mask)
        return errors.detach().mean(), list(torch.autograd.grad(errors.sum(), rows))

    @torch.no_grad()
    def _other_action(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        phrases = load_phrases()
        chosen = torch.randint(len(phrases), (len(batch.captions),), generator=generator).tolist()
        prompts = [text.replace(PLACEHOLDER, phrases[i].text) for text, i in zip(batch.captions, chosen, strict=True)]
        noised = backbone.noising.add(batch.latents, batch.noise, batch.t)
        prediction = backbone.predict(noised.x_t, noised.t, backbone.encode_text(prompts))
        return backbone.clean(noised.x_t, noised.t, prediction)


def action_numbers(
    own: Float[Tensor, "b s d"], partner: Float[Tensor, "b s d"], changed: Float[Tensor, "b s d"], kept_share: float
) -> Bool[Tensor, "b s d"]:
    """The numbers of each vector whose gradient is the action's.

    Args:
        own: Gradients of exemplars.
        partner: Of other exemplars, which share the action alone.
        changed: Of the exemplars with another action, which share the context alone.
        kept_share: In (0, 1]: `own` must be among so many of a vector's numbers that differ least from `partner`, and
            among so many that differ most from `changed`.
    """
    context, action = (own - partner).abs(), (own - changed).abs()
    near = context <= torch.quantile(context, kept_share, dim=2, keepdim=True)
    far = action >= torch.quantile(action, 1.0 - kept_share, dim=2, keepdim=True)
    return near & far
