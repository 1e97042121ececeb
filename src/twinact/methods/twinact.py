"""TwinAct: an action is a point in the space that action phrases span."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact.action import Action
from twinact.backbones.base import Backbone
from twinact.backbones.weights import same_model
from twinact.encoders import ActionEncoder
from twinact.errors import ConfigError
from twinact.files import tensor_hash
from twinact.losses import similarity_loss
from twinact.methods.base import Batch, ParameterGroup, denoise
from twinact.space import ActionSpace


class TwinAct:
    """Learns whitened coefficients; loss = denoising + similarity_weight · similarity + prior_weight · mean(u²).

    The similarity term compares the clean estimate of one exemplar with another exemplar, through a frozen encoder
    that reads actions only: what two exemplars share is the action, and an exemplar's own estimate is nearly itself.

    Args:
        space: Made from the backbone's own embeddings.
        encoder: Reads actions off clean latents; may be None when `similarity_weight` is 0.
        learning_rate: Of the coefficients, whose unit is their spread over the phrases.
        similarity_weight, prior_weight: Factors of the terms, >= 0.
        rank: Learn only this many leading components of every slot and hold the others at their start; None: all.
        start: (slots, rank of the space) starting coefficients, None for zeros: the mean of all actions.

    Raises:
        ConfigError: The encoder is missing but needed, or `rank` or `start` does not fit the space.
    """

    name = "twinact"

    def __init__(
        self,
        space: ActionSpace,
        encoder: ActionEncoder | None,
        *,
        learning_rate: float,
        similarity_weight: float,
        prior_weight: float,
        rank: int | None = None,
        start: Float[Tensor, "slots rank"] | None = None,
    ) -> None:
        if encoder is None and similarity_weight > 0:
            raise ConfigError(
                f"similarity_weight {similarity_weight:g} needs an action encoder and this backbone has none; "
                "set similarity_weight to 0"
            )
        if rank is not None and rank > space.rank:
            raise ConfigError(f"rank {rank} is more than the {space.rank} that the action space has; use at most that")
        if start is not None and start.shape != (space.slots, space.rank):
            raise ConfigError(
                f"start has shape {tuple(start.shape)}, the action space needs ({space.slots}, {space.rank})"
            )
        self.space = space
        self.encoder = encoder
        self.learning_rate = learning_rate
        self.similarity_weight = similarity_weight
        self.prior_weight = prior_weight
        self.start = torch.zeros(space.slots, space.rank) if start is None else start.detach().float().cpu().clone()
        self.rank = space.rank if rank is None else rank

    @property
    def coefficients(self) -> Float[Tensor, "slots rank"]:
        """All coefficients u: the learned leading ones, the others as they started. Only after `attach`."""
        return torch.cat([self.leading, self._trailing], dim=1)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        same_weights = same_model(self.space.model_id, backbone.model_id)
        if self.space.tokenizer_hash != backbone.tokenizer_hash or not same_weights:
            raise ConfigError(
                f"the action space was built for {self.space.model_id!r} and the backbone is {backbone.model_id!r}; "
                "build a space for it"
            )
        if isinstance(self.encoder, nn.Module):
            self.encoder.requires_grad_(False).eval().to(backbone.device)
        self._space = self.space.to(backbone.device)
        start = self.start.to(backbone.device)
        self.leading = nn.Parameter(start[:, : self.rank].clone())
        self._trailing = start[:, self.rank :]
        return [{"params": [self.leading], "lr": self.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        pass  # the backbone was never changed

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        u = self.coefficients
        with torch.autocast(u.device.type, enabled=False):  # rounded vectors would not be those that are exported
            vectors = self._space.reconstruct(u)
        denoised = denoise(backbone, batch, vectors)
        terms = {"denoising": denoised.loss, "prior": u.square().mean()}
        total = denoised.loss + self.prior_weight * terms["prior"]
        if self.encoder is not None and self.similarity_weight > 0:
            estimate = backbone.clean(denoised.noised.x_t, denoised.noised.t, denoised.prediction)
            with torch.no_grad():
                wanted = self.encoder.encode(batch.partners.float())
            terms["similarity"] = similarity_loss(self.encoder.encode(estimate.float()), wanted)
            total = total + self.similarity_weight * terms["similarity"]
        return {"loss": total, **terms}

    def identity(self) -> dict[str, Any]:
        return {"space": self.space.hash, "start": tensor_hash({"start": self.start})}

    def state_dict(self) -> dict[str, Tensor]:
        return {"leading": self.leading.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.leading.copy_(state["leading"])

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return Action.from_coefficients(name, self.space, self.coefficients, meta=meta)
