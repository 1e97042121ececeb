"""The contract between the training loop and a method, and what all methods share."""

from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.noising import Noised
from twinact.intent import PoseTarget
from twinact.methods.losses import denoising_loss
from twinact.readers import ActionEncoder
from twinact.space import ActionSpace


@dataclass(frozen=True)
class Batch:
    """One step's pictures and all of its randomness that methods share, so that equal seeds mean equal noise.

    Attributes:
        latents: Clean latents of exemplars, scaled for the denoiser.
        captions: One a picture, with the placeholder where the action goes.
        partners: Clean latents of another exemplar each (its own where there is only one exemplar).
        noise: Standard normal.
        t: Times, as the backbone takes them.
        mask: How much each place of the pictures counts, in [0, 1]; None: all alike.
        numbers: Which exemplar each picture is, from 0; None where nobody counted them.
        partner_captions: Captions of the partners.
        progress: Share of the run's steps that are done, in [0, 1), for methods that learn in stages.
    """

    latents: Float[Tensor, "b c h w"]
    captions: tuple[str, ...]
    partners: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    t: Shaped[Tensor, " b"]
    mask: Float[Tensor, "b 1 h w"] | None = None
    numbers: Int64[Tensor, " b"] | None = None
    partner_captions: tuple[str, ...] = ()
    progress: float = 0.0


@dataclass(frozen=True, eq=False)
class Given:
    """What a method is made from besides its settings; what it does not take may be missing.

    Attributes:
        backbone: The model that it will learn on.
        space: Action space of the model.
        encoder: Pose reader of the model.
        target: The exemplars' pose.
    """

    backbone: Backbone
    space: ActionSpace | None = None
    encoder: ActionEncoder | None = None
    target: PoseTarget | None = None


class ParameterGroup(TypedDict):
    """Parameters that learn at one rate.

    Attributes:
        params: Float32, on the backbone's device.
        lr: At the first step; about how far Adam then moves each number.
        on_sphere: Whether every row is a direction, of length 1, and stays one: `lr` is then the angle of a step, in
            radians; see `twinact.training.optimizer`.
    """

    params: list[nn.Parameter]
    lr: float
    on_sphere: NotRequired[bool]


@runtime_checkable
class Method(Protocol):
    """One way to learn an action. The loop knows no more of it than this.

    Attributes:
        name: As in `twinact.configs.METHODS`. A method that is registered there also has a class method
            ``from_config(config, given)``; see `Given`.
    """

    name: str

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        """Make the parameters at their starting point, on the backbone's device, and say how fast each learns.

        Attaching again starts anew.

        Raises:
            ConfigError: The method's parts do not fit the backbone.
        """
        ...

    def detach(self, backbone: Backbone) -> None:
        """Leave the backbone as it was before `attach`; what was learned stays with the method."""
        ...

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The terms of one step: "loss" is what is minimised, all others are unweighted and for the log.

        Each is a mean over the pictures, or does not depend on them: a step's pictures may come in several parts,
        whose terms are averaged.

        Args:
            backbone: The one attached to.
            batch: See `Batch`; a part of it when processes share it or gradients are accumulated.
            generator: For what else the method draws; on the CPU, seeded by run, step and part.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What besides config, backbone and exemplars decides the result, as JSON: hashes of spaces and starts."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What is learned, by name, for checkpoints."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave, in place; only after `attach`."""
        ...

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        """What was learned, ready to be saved; `meta` goes into its header."""
        ...


@dataclass(frozen=True)
class Denoised:
    """What the denoiser made of a batch.

    Attributes:
        noised: What it was given and asked.
        prediction: What it said.
        loss: Weighted mean squared error of that, where the pictures count.
    """

    noised: Noised
    prediction: Float[Tensor, "b c h w"]
    loss: Float[Tensor, ""]


def denoise(backbone: Backbone, batch: Batch, vectors: list[Float[Tensor, "*_ _ _"]]) -> Denoised:
    """Let the denoiser predict on a batch with `vectors`, as `Backbone.encode_text` takes them, as the action."""
    noised = backbone.noising.add(batch.latents, batch.noise, batch.t)
    cond = backbone.encode_text(list(batch.captions), {PLACEHOLDER: vectors})
    prediction = backbone.predict(noised.x_t, noised.t, cond)
    return Denoised(noised, prediction, denoising_loss(prediction, noised.target, noised.weight, batch.mask))
