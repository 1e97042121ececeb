"""TwinAct: an action is a point in the space that action phrases span."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone, TokenTable
from twinact.backbones.weights import difference, same_model
from twinact.configs import CLAUSE_MARK, LearnConfig, TwinActConfig
from twinact.errors import ConfigError
from twinact.intent import PoseTarget
from twinact.intent.prompts import other_prompts
from twinact.methods.losses import similarity_loss
from twinact.methods.method import Batch, Given, ParameterGroup, denoise
from twinact.readers import ActionEncoder
from twinact.space import ActionSpace
from twinact.storage import tensor_hash


@dataclass(frozen=True, eq=False)
class Start:
    """Where learning begins. Letters in shapes: c clauses, s slots, r rank.

    Attributes:
        coefficients: Whitened coefficients.
        mask: Slots that the action has; the others are left out.
    """

    coefficients: Float[Tensor, "c s r"]
    mask: Bool[Tensor, "c s"]

    @classmethod
    def of(cls, text: str | None, space: ActionSpace, tables: list[TokenTable]) -> "Start":
        """The points of phrases, which ";" separates; None begins at the mean of all phrases, with all slots.

        Raises:
            DataError: A phrase has no tokens.
        """
        if text is None:
            shape = (1, space.slots, space.rank)
            return cls(torch.zeros(shape), torch.ones(shape[:2], dtype=torch.bool))
        points = [space.project_phrase(part.strip(), tables) for part in text.split(CLAUSE_MARK)]
        coefficients, masks = (torch.stack(each) for each in zip(*points, strict=True))
        return cls(coefficients.detach().float().cpu(), masks.cpu())


class TwinAct:
    """Learns whitened coefficients, by any of three signals.

    loss = pose_weight · pose + denoising_weight · denoising + similarity_weight · similarity + prior_weight · mean(u²)

    The pose term is the distance between the exemplars' limbs and those that the model means when others do the action
    elsewhere, beyond the error of reading (`PoseTarget.excess`): nothing but the directions of limbs and the height
    above the ground passes from the exemplars. The denoising term on the exemplars
    passes all that their captions leave unsaid. The similarity term compares the clean estimate of one exemplar with
    another exemplar, through a frozen encoder that reads actions only: what two exemplars share is the action.

    Args:
        space: Made from the backbone's own embeddings.
        encoder: Reads actions off clean latents; may be None when `similarity_weight` is 0.
        target: The exemplars' pose; may be None when `pose_weight` is 0.
        settings: With the weights decided; see `TwinActConfig.settled`.
        learning_rate: Of the coefficients, whose unit is their spread over the phrases.
        start: Where it begins.

    Raises:
        ConfigError: A part is missing but needed, nothing would be learned from, or `rank` does not fit the space.
    """

    name = TwinActConfig.name

    def __init__(
        self,
        space: ActionSpace,
        encoder: ActionEncoder | None,
        target: PoseTarget | None,
        settings: TwinActConfig,
        *,
        learning_rate: float,
        start: Start,
    ) -> None:
        if encoder is None and settings.similarity_weight > 0:
            raise ConfigError(
                f"similarity_weight {settings.similarity_weight:g} needs an action encoder and this backbone has none; "
                "set similarity_weight to 0"
            )
        if target is None and settings.pose_weight:
            raise ConfigError(
                f"pose_weight {settings.pose_weight:g} needs exemplars whose pose is read and a model that shows early "
                "which pose it means; set pose_weight to 0"
            )
        if not (settings.pose_weight or settings.denoising_weight or settings.similarity_weight):
            raise ConfigError("pose_weight, denoising_weight and similarity_weight are all 0; set one above 0")
        if settings.rank is not None and settings.rank > space.rank:
            raise ConfigError(
                f"rank {settings.rank} is more than the {space.rank} that the action space has; use at most that"
            )
        self.space, self.encoder, self.target, self.start = space, encoder, target, start
        self.settings, self.learning_rate = settings, learning_rate
        self.rank = space.rank if settings.rank is None else settings.rank

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "TwinAct":
        settings = config.method.settled(given.target is not None)
        assert isinstance(settings, TwinActConfig) and given.space is not None
        start = Start.of(config.start, given.space, given.backbone.token_tables())
        rate = replace(config, method=settings).rate
        return cls(given.space, given.encoder, given.target, settings, learning_rate=rate, start=start)

    @property
    def coefficients(self) -> Float[Tensor, "c s r"]:
        """All coefficients u: the learned leading ones, the others as they started. Only after `attach`."""
        return torch.cat([self.leading, self._trailing], dim=2)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        check_space(self.space, backbone)
        if isinstance(self.encoder, nn.Module):
            self.encoder.requires_grad_(False).eval().to(backbone.device)
        self._space = self.space.to(backbone.device)
        start = self.start.coefficients.to(backbone.device)
        self._mask = self.start.mask.to(backbone.device)
        self.leading = nn.Parameter(start[..., : self.rank].clone())
        self._trailing = start[..., self.rank :]
        return [{"params": [self.leading], "lr": self.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        pass  # the backbone was never changed

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        u, settings = self.coefficients, self.settings
        with torch.autocast(u.device.type, enabled=False):  # rounded vectors would not be those that are exported
            vectors = self._space.vectors(u, self._mask)
        terms = {"prior": u.square().mean()}
        total = settings.prior_weight * terms["prior"]
        if settings.pose_weight and self.target is not None:
            prompts = other_prompts(generator, settings.prompts_per_step, batch.captions)
            noise = torch.randn((len(prompts), *backbone.latent_shape), generator=generator).to(batch.noise)
            cond = backbone.encode_text(prompts, {PLACEHOLDER: vectors})
            terms["pose"] = self.target.excess(self.target.chords(backbone, cond, noise)).mean()
            total = total + settings.pose_weight * terms["pose"]
        if settings.denoising_weight or settings.similarity_weight:
            denoised = denoise(backbone, batch, vectors)
            terms["denoising"] = denoised.loss
            total = total + (settings.denoising_weight or 0.0) * denoised.loss
            if self.encoder is not None and settings.similarity_weight > 0:
                estimate = backbone.clean(denoised.noised.x_t, denoised.noised.t, denoised.prediction)
                with torch.no_grad():
                    wanted = self.encoder.encode(batch.partners.float())
                terms["similarity"] = similarity_loss(self.encoder.encode(estimate.float()), wanted)
                total = total + settings.similarity_weight * terms["similarity"]
        return {"loss": total, **terms}

    def identity(self) -> dict[str, Any]:
        start = {"start": self.start.coefficients, "mask": self.start.mask}
        found = {"space": self.space.hash, "start": tensor_hash(start), "pose": self.target is not None}
        # Runs from before there were heads go on without the entry.
        return found if self.target is None or self.target.head is None else {**found, "head": self.target.head}

    def state_dict(self) -> dict[str, Tensor]:
        return {"leading": self.leading.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.leading.copy_(state["leading"])

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        if self.target is not None:
            meta = {**meta, "pose": self.target.to_dict()}
        return Action.from_coefficients(name, self.space, self.coefficients, mask=self._mask, meta=meta)


def check_space(space: ActionSpace, backbone: Backbone) -> None:
    """Makes sure that a space is that of a backbone.

    Raises:
        ConfigError: It was built for another model.
    """
    same_weights = same_model(space.model_id, backbone.model_id)
    if space.tokenizer_hash != backbone.tokenizer_hash or not same_weights:
        raise ConfigError(
            f"the action space was built for {space.model_id!r} and the backbone is {backbone.model_id!r} "
            f"({difference(space.model_id, backbone.model_id)}); build a space for it"
        )
