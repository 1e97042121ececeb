"""The contract of intended poses: what pose a model means by a prompt, seen in the first steps of a drawing."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.features import predict_with_map
from twinact.configs import EARLY_STEPS
from twinact.errors import CheckpointError
from twinact.intent.eyes import Eyes, open_eyes
from twinact.intent.feature_head import FeatureHead, check_features, coarse
from twinact.space.pose_head import PoseHead
from twinact.space.pose_table import OWN, PoseTable, weighted_mean

DRAWING = int(EARLY_STEPS.high)
"""Steps of a drawing of which the first are looked at."""
CLOSE = 0.15
"""Chord (9 degrees, or a tenth of a leg) within which limbs and heights are the same."""


@runtime_checkable
class IntendedPose(Protocol):
    """Reads the pose that a model means by a prompt; differentiable in the conditioning.

    Attributes:
        segments: Pairs of joints, by number, whose directions it reads.
        steps: How many steps of a drawing it looks at.
    """

    segments: tuple[tuple[int, int], ...]
    steps: int

    def read(self, backbone: Backbone, cond: TextCond, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        """Unit vectors along the segments of the body, x to the right and y down, as `Eyes.directions` has them.

        Args:
            backbone: The model.
            cond: What its text encoders make of the prompts.
            noise: Standard normal, one for each prompt; other noise gives other drawings.
        """
        ...


class EarlyPose:
    """Draws the first steps from pure noise, and reads the pose off the clean estimate of the last of them.

    Gradients flow through that last step alone: what the others did to the noise is taken as given (as the last steps
    are in DRaFT, Clark et al., 2024). Steps are those of DDIM, which for flow models are Euler's.

    Args:
        eyes: Who reads the estimate.
        steps: Of `DRAWING`; 1 reads the first estimate.
    """

    def __init__(self, eyes: Eyes, steps: int = 1) -> None:
        self.segments, self.steps = eyes.segments, steps
        self._eyes = eyes

    def read(self, backbone: Backbone, cond: TextCond, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        x, t = last_step(backbone, cond, noise, self.steps)
        return self._eyes.directions(backbone, backbone.clean(x, t, backbone.predict(x, t, cond)))


class HeadPose:
    """Draws the first steps from pure noise, and reads the pose off the denoiser's features in the last of them.

    As `EarlyPose`, but no estimate is decoded and no other network asked, and the gradient need not pass what the
    denoiser does behind those features.

    Args:
        head: Trained for the model in as many steps.
        steps: Of `DRAWING`.
    """

    def __init__(self, head: PoseHead, steps: int) -> None:
        self.segments, self.steps = head.segments, steps
        self._stored, self._head = head, FeatureHead.of(head)

    def read(self, backbone: Backbone, cond: TextCond, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        """As `IntendedPose.read`.

        Raises:
            CheckpointError: The head was made for another model.
        """
        x, t = last_step(backbone, cond, noise, self.steps)
        _, features = predict_with_map(backbone, x, t, cond)
        check_features(self._stored, features)
        return self._head.to(features.device)(coarse(features))


@torch.no_grad()
def last_step(
    backbone: Backbone, cond: TextCond, noise: Float[Tensor, "b c h w"], steps: int
) -> tuple[Float[Tensor, "b c h w"], Shaped[Tensor, " b"]]:
    """Latents before the last of the first steps of a drawing, and its time; without gradient."""
    times, x = early_times(backbone, steps, len(noise)), noise
    for t, following in pairwise(times):
        x = step_on(backbone, x, t, following, backbone.predict(x, t, cond))
    return x, times[-1]


def early_times(backbone: Backbone, steps: int, count: int) -> list[Shaped[Tensor, " b"]]:
    """The first times of a drawing in `DRAWING` steps, each `count` times; the first one is that of pure noise."""
    return [t.expand(count) for t in backbone.noising.times(DRAWING)[:steps]]


def step_on(
    backbone: Backbone,
    x: Float[Tensor, "b c h w"],
    t: Shaped[Tensor, " b"],
    following: Shaped[Tensor, " b"],
    prediction: Float[Tensor, "b c h w"],
) -> Float[Tensor, "b c h w"]:
    """Latents at the following time, by the deterministic step of DDIM (Song et al., 2021)."""
    clean, add = backbone.clean(x, t, prediction), backbone.noising.add
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    noise = (x - add(clean, zeros, t).x_t) / add(zeros, ones, t).x_t
    return add(clean, noise, following).x_t


@dataclass(frozen=True, eq=False)
class PoseTarget:
    """The pose that exemplars show, and how to see whether a model means it.

    Attributes:
        directions: Unit vectors along the segments, and perhaps the height above the ground, as `Eyes.directions` has
            them; anything where the weight is 0.
        weights: How much each row counts, >= 0, not all 0.
        intent: Reads what the model means; a height that it does not read does not count.
        disagreeing: Names of segments in which the exemplars differ.
        unseen: Names of those that none shows.
        head: Hash of the head that reads what the model means; None where none does.
    """

    directions: Float[Tensor, "g 2"]
    weights: Float[Tensor, " g"]
    intent: IntendedPose
    disagreeing: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    head: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What an action remembers of it, as JSON: the limbs, and the head if one read them."""
        count = len(self.intent.segments)
        return {
            "directions": self.directions[:count].tolist(),
            "weights": self.weights[:count].tolist(),
            "disagreeing": list(self.disagreeing),
            "unseen": list(self.unseen),
            **({} if self.head is None else {"head": self.head}),
        }

    def chords(self, backbone: Backbone, cond: TextCond, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows"]:
        """How far each limb that the model means lies from the exemplars', from 0 to 2; differentiable in `cond`."""
        return self.chords_of(self.intent.read(backbone, cond, noise).float())

    def chords_of(self, meant: Float[Tensor, "*b rows 2"]) -> Float[Tensor, "*b rows"]:
        """The same of directions that were read already."""
        return ((meant - self.directions[: meant.shape[-2]].to(meant)).square().sum(dim=-1) + 1e-8).sqrt()

    def distance(self, chords: Float[Tensor, "*b rows"]) -> Float[Tensor, "*b"]:
        """The weighted mean of `chords`.

        Chords, not their squares: a limb that is read wrongly, or that the model cannot draw so, pulls no harder than
        others.
        """
        return weighted_mean(chords, self.weights[: chords.shape[-1]].to(chords))

    def excess(self, chords: Float[Tensor, "*b rows"]) -> Float[Tensor, "*b"]:
        """The `distance` of which only what exceeds `CLOSE` counts.

        A limb within reading error pulls no more. If it did, learning would go on where nothing is left to learn, and
        end at vectors that suit the reader and draw no actor.
        """
        return self.distance((chords - CLOSE).relu())


def degrees(distance: float) -> float:
    """The angle, from 0 to 180, that a mean chord stands for."""
    return math.degrees(2 * math.asin(min(distance / 2, 1.0)))


def intended_pose(backbone: Backbone, poses: PoseTable | None = None) -> IntendedPose | None:
    """How a model's intended pose is read; None where nobody has measured it.

    Args:
        backbone: The model.
        poses: The pose table of its space, which says how it was made and may have a head; without one, the model's
            folder says it.

    Raises:
        CheckpointError: The network in the folder is damaged, or the table's head is of another model.
        DataError: The ViTPose that the table was made with cannot be opened; with a head it is not needed.
    """
    if poses is not None and poses.head is not None:
        if poses.head.block != backbone.pose_block:
            raise CheckpointError(
                f"the space's pose head reads features of {poses.head.block!r}, which are read of "
                f"{backbone.pose_block!r} in model {backbone.model_id!r}; build the space for this model"
            )
        return HeadPose(poses.head, poses.steps)
    steps = backbone.intent_steps if poses is None else poses.steps
    eyes = None if steps is None else open_eyes(OWN if poses is None else poses.reader, backbone)
    return None if eyes is None or steps is None else EarlyPose(eyes, steps)
