"""Celeb Basis (Yuan et al., NeurIPS 2023, arXiv:2306.00926), with action phrases where it has celebrities' names."""

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import Backbone
from twinact.configs import CelebBasisConfig, LearnConfig, TwinActConfig
from twinact.methods.method import Given, ParameterGroup
from twinact.methods.twinact import Start, TwinAct
from twinact.space import ActionSpace


class CelebBasis(TwinAct):
    """Coefficients in the basis, learned from the denoising loss alone; in every slot they lie on a sphere.

    The published coefficients come out of a linear layer over the features of a face, and are normalised; so are these,
    to the root mean square length of the phrases, but they are free numbers: nothing reads an action as an identity
    network reads a face, and for a single concept the layer is only another way to write them.

    Args:
        space: Made from the backbone's own embeddings.
        learning_rate: Of the coefficients, whose unit is their spread over the phrases.
        rank: Leading components of every slot that are used.
        start: Where it begins.
    """

    name = CelebBasisConfig.name

    def __init__(self, space: ActionSpace, learning_rate: float, rank: int | None, start: Start) -> None:
        settings = TwinActConfig(pose_weight=0.0, denoising_weight=1.0, prior_weight=0.0, rank=rank)
        super().__init__(space, None, None, settings, learning_rate=learning_rate, start=start)

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "CelebBasis":
        assert isinstance(config.method, CelebBasisConfig) and given.space is not None
        if config.start is None:
            start = _random_start(given.space, config.method.rank, config.seed)
        else:
            start = Start.of(config.start, given.space, given.backbone.token_tables())
        return cls(given.space, config.rate, config.method.rank, start)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        groups = super().attach(backbone)
        self._trailing = torch.zeros_like(self._trailing)
        return groups

    @property
    def coefficients(self) -> Float[Tensor, "c s r"]:
        """All coefficients, on the sphere. Only after `attach`."""
        free = super().coefficients
        lengths = (free * self._space.sigma).norm(dim=2, keepdim=True).clamp_min(1e-12)
        return free * (self._space.variance.sqrt()[:, None] / lengths)


def _random_start(space: ActionSpace, rank: int | None, seed: int) -> Start:
    """A random direction in each slot, as an untrained layer gives it, spread as the phrases are."""
    coefficients = torch.randn(1, space.slots, space.rank, generator=torch.Generator().manual_seed(seed))
    if rank is not None:
        coefficients[..., rank:] = 0.0
    return Start(coefficients, torch.ones(1, space.slots, dtype=torch.bool))
