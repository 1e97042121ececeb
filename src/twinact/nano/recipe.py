"""Every number of the embedded model in one place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from twinact.errors import ConfigError


@dataclass(frozen=True)
class Fit:
    """How one part is trained.

    Attributes:
        pictures: Samples seen (for the text tower: captions), unless `minutes` end first.
        batch_size: Samples a step.
        learning_rate: Peak; reached after `warmup_steps`, falls linearly to zero at the end.
        ema_decay: Of the weights that are kept.
        weight_decay: AdamW's.
        warmup_steps: Linear.
        minutes: Longest time that the training takes, checkpoints not counted; the learning rate is zero by then.
    """

    pictures: int
    batch_size: int
    learning_rate: float
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 100
    minutes: float = math.inf

    @property
    def steps(self) -> int:
        return self.pictures // self.batch_size


@dataclass(frozen=True)
class Recipe:
    """The embedded model. Sizes are channels or pixels; see the model card for what they led to.

    Attributes:
        image_size: Edge of the square pictures in pixels.
        actors, places: Keys of the known actors and places that are trained.
        drawn_dofs: Degrees of freedom that a picture of this size shows. The UNet learns the phrases that name no
            other; the text tower knows all.
        drawn_rotation: Largest rotation of the body, in degrees, of the phrases that the UNet learns.
        seed: Of everything random.
        distinct_pictures: Number of different drawn pictures whose latents are kept for the UNet.
        max_tokens: Context length of the text tower.
        unet_heads: Attention heads at each resolution, each a multiple of eight wide, as fused attention on GPUs needs.
        unet_layers: Residual blocks of the UNet at each resolution on the way down; one more on the way up.
        figure_weight: Weight of the denoising loss inside the figure, outside is 1.
        limbs_weight: What is added to it on the bones of arms and legs, which are thin and carry the action.
        noise_bias: How much more often noisy timesteps are drawn (see `DDPMNoising.sample_t`).
        joints_weight: Weight of the auxiliary loss that reads the joints off the UNet's features.
        caption_dropout: Share of empty captions, for classifier-free guidance.
        between_share: Share of the scenes of known phrases that show a pose between two of them (see `worded`).
        pose_weight: Weight of the pose that the UNet draws, against the denoising loss, while it is refined.
        drawings: How many pictures a step of the refining draws.
        pose_slack: Distance between unit vectors (about radians) within which a segment's direction is right enough.
        guidance: Classifier-free guidance that the finished model draws best with.
        drawing_steps: Denoising steps of the drawings that the UNet is refined on. The finished model draws best in
            as many, because it has learned to keep a pose at their times and at no others.
        phrase_drawings: How many drawings of each phrase are looked at for the action space's pose table.
    """

    image_size: int = 128
    actors: tuple[str, ...] = (
        "woman in a red dress", "ballerina", "astronaut", "chef", "firefighter", "ninja", "pirate", "panda", "fox",
        "frog", "rabbit", "tiger", "penguin", "robot", "alien", "skeleton",
    )  # fmt: skip
    places: tuple[str, ...] = ("park", "beach", "snowy mountain", "desert", "stage", "moon", "underwater", "castle")
    drawn_dofs: tuple[str, ...] = (
        "root_rotation", "clearance", "torso_lean", "l_shoulder", "l_elbow", "r_shoulder", "r_elbow",
        "l_hip", "l_knee", "r_hip", "r_knee",
    )  # fmt: skip
    drawn_rotation: float = 60.0
    seed: int = 20261122
    distinct_pictures: int = 600_000
    max_tokens: int = 48
    text_width: int = 192
    text_layers: int = 4
    vae_channels: tuple[int, ...] = (32, 48, 64, 64)
    latent_channels: int = 16
    encoder_widths: tuple[int, int] = (64, 112)
    unet_channels: tuple[int, ...] = (160, 192, 224)
    unet_heads: tuple[int, ...] = (8, 8, 7)
    unet_layers: tuple[int, ...] = (2, 1, 1)
    figure_weight: float = 4.0
    limbs_weight: float = 8.0
    noise_bias: float = 0.5
    joints_weight: float = 0.05
    caption_dropout: float = 0.1
    between_share: float = 0.4
    pose_weight: float = 2.0
    drawings: int = 30
    pose_slack: float = 0.1
    guidance: float = 3.0
    drawing_steps: int = 9
    phrase_drawings: int = 8
    text: Fit = field(default_factory=lambda: Fit(1_000_000, 384, 1e-3, ema_decay=0.99))
    vae: Fit = field(default_factory=lambda: Fit(120_000, 12, 1.5e-3, weight_decay=0.0))
    unet: Fit = field(default_factory=lambda: Fit(3_000_000, 64, 8e-4))
    encoder: Fit = field(default_factory=lambda: Fit(360_000, 128, 2e-3, ema_decay=0.99))
    refine: Fit = field(default_factory=lambda: Fit(256_000, 64, 2.5e-4, ema_decay=0.997))
    judges: Fit = field(default_factory=lambda: Fit(1_600_000, 64, 1.5e-3))


RECIPE = Recipe()


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with some of its numbers replaced, as for another machine.

    Args:
        recipe: To begin with.
        changes: Such as ``"unet.batch_size=384"`` or ``"distinct_pictures=700000"``.

    Raises:
        ConfigError: A change that is none, names no number of the recipe, or gives no number.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        part, dot, name = path.rpartition(".")
        owner: Any = getattr(recipe, part, None) if dot else recipe
        value = getattr(owner, name, None)
        if not equals or isinstance(value, bool) or not isinstance(value, int | float):
            known = [f.name for f in fields(Recipe) if isinstance(getattr(recipe, f.name), int | float)]
            raise ConfigError(
                f"change {change!r} must be NAME=NUMBER; names: {', '.join(known)}, and PART.pictures, "
                "PART.batch_size, PART.learning_rate or PART.minutes"
            )
        try:
            owner = replace(owner, **{name: type(value)(text)})
        except ValueError as error:
            raise ConfigError(f"change {change!r}: {text!r} is no {type(value).__name__}") from error
        recipe = replace(recipe, **{part: owner}) if dot else owner
    return recipe
