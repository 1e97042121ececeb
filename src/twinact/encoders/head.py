"""A small convolutional network that reads poses off clean latents.

It is trained (in `twinact.nano`) to tell the degrees of freedom of a figure whatever its body and background, so its
features hold the pose and little else. It reads latents, not pixels, because then no picture need be decoded in
every step of learning.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from twinact.errors import ConfigError
from twinact.files import read_safetensors, write_safetensors

WEIGHTS_FILE = "model.safetensors"
_KIND = "action-encoder"


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of a `LatentActionEncoder`.

    Attributes:
        in_channels: Channels of the latents.
        pose_targets: Numbers that the pose head predicts.
        width: Channels of the first stage, a multiple of 8; the second has twice as many.
        blocks: Residual blocks of each stage.
        grid: Side of the grid of places that the features are read from.
        feature_dim: Length of a feature.
    """

    in_channels: int
    pose_targets: int
    width: int = 48
    blocks: int = 2
    grid: int = 4
    feature_dim: int = 128

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"action encoder: {name} {value!r} must be a whole number >= 1")
        if self.width % 8:
            raise ConfigError(f"action encoder: width {self.width} must be a multiple of 8")


class _Block(nn.Module):
    """Pre-activation residual block: norm, SiLU, 3 × 3, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


class LatentActionEncoder(nn.Module):
    """Clean latents → unit features that hold the pose; `pose` reads the degrees of freedom off them.

    Any height and width of at least 2 × `grid` will do. The features keep the grid, since where a hand is tells the
    action, and are pooled within its cells. The pose head is linear, so that directions of the features are poses.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, deep = config.width, 2 * config.width
        self.stem = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.fine = nn.Sequential(*(_Block(width) for _ in range(config.blocks)))
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(_Block(deep) for _ in range(config.blocks)))
        self.norm = nn.GroupNorm(8, deep)
        self.reader = nn.Sequential(
            nn.Linear(deep * config.grid**2, 2 * config.feature_dim),
            nn.SiLU(),
            nn.Linear(2 * config.feature_dim, config.feature_dim),
        )
        self.pose = nn.Linear(config.feature_dim, config.pose_targets)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        x = self.coarse(self.down(self.fine(self.stem(latents))))  # (b, 2 width, h/2, w/2)
        cells = F.adaptive_avg_pool2d(F.silu(self.norm(x)), self.config.grid)  # (b, 2 width, grid, grid)
        return F.normalize(self.reader(cells.flatten(1)).float(), dim=1)

    def encode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Unit features of clean latents or of estimates of them, differentiable."""
        return self(latents)

    def save(self, folder: str | Path) -> None:
        """Write one file with the weights, in half precision, and their config; the folder is made if missing.

        Raises:
            DataError: The folder cannot be written.
        """
        header = {"kind": _KIND, "version": 1, "config": asdict(self.config)}
        write_safetensors(Path(folder) / WEIGHTS_FILE, {n: t.half() for n, t in self.state_dict().items()}, header)

    @classmethod
    def load(cls, folder: str | Path) -> "LatentActionEncoder":
        """Inverse of `save`, on the CPU.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        weights, header = read_safetensors(Path(folder) / WEIGHTS_FILE, _KIND)
        encoder = cls(EncoderConfig(**header["config"]))
        encoder.load_state_dict(weights)
        return encoder


def degrade(
    latents: Float[Tensor, "b c h w"], generator: torch.Generator, max_blur: float = 0.9, max_noise: float = 0.3
) -> Float[Tensor, "b c h w"]:
    """Latents as blurred and noisy as a denoiser's early estimates of them, each sample to its own degree.

    An encoder trained on both reads estimates as well as pictures. Blur mixes every sample with its own 3 × 3 and
    5 × 5 box averages.

    Args:
        latents: Clean, of about unit variance.
        generator: On the CPU.
        max_blur: Largest share of the averages, in [0, 1].
        max_noise: Largest standard deviation of the added noise, in units of the latents.
    """
    shape = (len(latents), 1, 1, 1)
    share = torch.rand(shape, generator=generator).to(latents) * max_blur
    level = torch.rand(shape, generator=generator).to(latents) * max_noise
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    near = F.avg_pool2d(latents, 3, stride=1, padding=1, count_include_pad=False)
    wide = F.avg_pool2d(near, 5, stride=1, padding=2, count_include_pad=False)
    return (1 - share) * latents + share * (near + wide) / 2 + level * noise
