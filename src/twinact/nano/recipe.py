"""Every number of the embedded model in one place."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fit:
    """How one part is trained.

    Attributes:
        pictures: Samples seen (for the text tower: captions).
        batch_size: Samples a step.
        learning_rate: Peak; reached after `warmup_steps`, falls linearly to zero at the end.
        ema_decay: Of the weights that are kept.
        weight_decay: AdamW's.
        warmup_steps: Linear.
    """

    pictures: int
    batch_size: int
    learning_rate: float
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 100

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
        pose_weight: Weight of the pose that the UNet draws, against the denoising loss, while it is refined.
        pose_slack: Distance between unit vectors (about radians) within which a segment's direction is right enough.
        guidance: Classifier-free guidance that the finished model draws best with.
    """

    image_size: int = 64
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
    distinct_pictures: int = 350_000
    max_tokens: int = 32
    text_width: int = 192
    text_layers: int = 4
    vision_width: int = 192
    vision_layers: int = 5
    vae_channels: tuple[int, ...] = (32, 64, 64)
    latent_channels: int = 16
    unet_channels: tuple[int, ...] = (160, 192, 224)
    unet_heads: tuple[int, ...] = (8, 8, 7)
    unet_layers: tuple[int, ...] = (2, 1, 1)
    figure_weight: float = 4.0
    limbs_weight: float = 8.0
    noise_bias: float = 0.5
    joints_weight: float = 0.05
    caption_dropout: float = 0.1
    pose_weight: float = 2.0
    pose_slack: float = 0.1
    guidance: float = 3.0
    text: Fit = field(default_factory=lambda: Fit(1_000_000, 384, 1e-3, ema_decay=0.99))
    vae: Fit = field(default_factory=lambda: Fit(36_000, 12, 1.5e-3, weight_decay=0.0))
    unet: Fit = field(default_factory=lambda: Fit(3_000_000, 64, 8e-4))
    vision: Fit = field(default_factory=lambda: Fit(32_000, 128, 1e-3))
    encoder: Fit = field(default_factory=lambda: Fit(360_000, 128, 2e-3, ema_decay=0.99))
    refine: Fit = field(default_factory=lambda: Fit(256_000, 64, 2.5e-4, ema_decay=0.997))
    judge: Fit = field(default_factory=lambda: Fit(1_600_000, 64, 1.5e-3))


RECIPE = Recipe()
