"""Gradient-free Textual Inversion (Fei et al., ACM MM 2023, arXiv:2304.05818): a model that can only be asked.

Vectors are searched for in a subspace that a PCA gives, by an evolution strategy. So the denoiser may be quantised, or
compiled without gradients, and memory is that of drawing (ZOODiP, CVPR 2025, arXiv:2503.14868).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import Backbone
from twinact.configs import GradientFreeConfig, LearnConfig, TwinActConfig
from twinact.methods.method import Batch, Given, denoise
from twinact.methods.twinact import Start, TwinAct
from twinact.space import ActionSpace


class GradientFree(TwinAct):
    """Coefficients whose gradient is estimated from the denoising loss at pairs of random neighbours.

    The estimate is that of evolution strategies with antithetic samples (Salimans et al., arXiv:1703.03864); all
    neighbours of a step meet the same pictures, noise and times. The published search is CMA-ES, which adapts a full
    covariance. Here the loop's Adam adapts one step size a number, in coefficients that the PCA has whitened.

    Args:
        space: Made from the backbone's own embeddings.
        learning_rate: Of the coefficients, whose unit is their spread over the phrases.
        settings: Pairs in a step, their spread and the number of components.
        start: Where it begins.
    """

    name = GradientFreeConfig.name

    def __init__(self, space: ActionSpace, learning_rate: float, settings: GradientFreeConfig, start: Start) -> None:
        # More components than a small space has are not to be an error: the default suits large ones.
        rank = min(settings.components, space.rank)
        own = TwinActConfig(pose_weight=0.0, denoising_weight=1.0, prior_weight=0.0, rank=rank)
        super().__init__(space, None, None, own, learning_rate=learning_rate, start=start)
        self.pairs, self.spread = settings.pairs, settings.spread

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "GradientFree":
        assert isinstance(config.method, GradientFreeConfig) and given.space is not None
        return cls(
            given.space, config.rate, config.method, Start.of(config.start, given.space, given.backbone.token_tables())
        )

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        estimate, found = torch.zeros_like(self.leading), []
        with torch.no_grad():
            for _ in range(self.pairs):
                away = torch.randn(self.leading.shape, generator=generator).to(self.leading)
                ahead, behind = (
                    self._denoising(backbone, batch, self.leading + sign * self.spread * away) for sign in (1.0, -1.0)
                )
                estimate += (ahead - behind) / (2 * self.spread * self.pairs) * away
                found += [ahead, behind]
            denoising = torch.stack(found).mean()
        # A term whose value is zero and whose gradient is the estimate.
        slope = (self.leading * estimate).sum()
        return {"loss": denoising + slope - slope.detach(), "denoising": denoising}

    def _denoising(self, backbone: Backbone, batch: Batch, leading: Float[Tensor, "c s k"]) -> Float[Tensor, ""]:
        with torch.autocast(leading.device.type, enabled=False):  # rounded vectors would not be those exported
            vectors = self._space.vectors(torch.cat([leading, self._trailing], dim=2), self._mask)
        return denoise(backbone, batch, vectors).loss
