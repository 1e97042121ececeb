"""A small convolutional network that finds the joints in clean latents, and the action in how they lie to each other.

It is trained (in `twinact.nano`) on figures whose joints are known. Its features are the directions of the body's
segments, so they hold the pose and nothing of body, clothes or place. It reads latents, not pixels, because then no
picture need be decoded in every step of learning.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from twinact.errors import CheckpointError, ConfigError, first_line
from twinact.storage import read_safetensors, write_safetensors

WEIGHTS_FILE = "model.safetensors"
_KIND = "joint-encoder"


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of a `LatentActionEncoder`.

    Attributes:
        in_channels: Channels of the latents.
        joints: How many joints it finds.
        segments: Pairs of joints, by number; the action is the directions from the first to the second of each.
        width: Channels at the resolution of the latents, a multiple of 8.
        deep: Channels at half and a quarter of it, likewise.
    """

    in_channels: int
    joints: int
    segments: tuple[tuple[int, int], ...]
    width: int = 48
    deep: int = 80

    def __post_init__(self) -> None:
        for name in ("in_channels", "joints", "width", "deep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"action encoder: {name} {value!r} must be a whole number >= 1")
        for name in ("width", "deep"):
            if getattr(self, name) % 8:
                raise ConfigError(f"action encoder: {name} {getattr(self, name)} must be a multiple of 8")
        if not self.segments or not all(0 <= joint < self.joints for pair in self.segments for joint in pair):
            raise ConfigError(f"action encoder: segments must be pairs of joints from 0 to {self.joints - 1}")


class ResidualBlock(nn.Module):
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
    """Clean latents → heat maps of the joints → the directions of the body's segments.

    An hourglass with one skip a resolution (Newell et al., "Stacked Hourglass Networks", 2016) that ends in maps of
    twice the latents' resolution. Any height and width will do.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, deep = config.width, config.deep
        self.stem = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.fine = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.middle = nn.Sequential(ResidualBlock(deep), ResidualBlock(deep))
        self.down_again = nn.Conv2d(deep, deep, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(ResidualBlock(deep), ResidualBlock(deep), ResidualBlock(deep))
        self.rise = nn.Conv2d(deep, deep, 1)
        self.risen_middle = nn.Sequential(ResidualBlock(deep), ResidualBlock(deep))
        self.rise_again = nn.Conv2d(deep, width, 1)
        self.risen_fine = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.heat = nn.Conv2d(width, 4 * config.joints, 1)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b joints h2 w2"]:
        """Logits of where each joint is, at twice the resolution of the latents, float32."""
        fine = self.fine(self.stem(latents))
        middle = self.middle(self.down(fine))
        coarse = self.coarse(self.down_again(middle))
        middle = self.risen_middle(middle + F.interpolate(self.rise(coarse), size=middle.shape[2:]))
        fine = self.risen_fine(fine + F.interpolate(self.rise_again(middle), size=fine.shape[2:]))
        return F.pixel_shuffle(self.heat(F.silu(fine)), 2).float()

    def directions(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b segments 2"]:
        """Unit vectors of the segments, x to the right and y down."""
        return segment_directions(joint_positions(self(latents)), self.config.segments)

    def encode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Unit features of clean latents or of estimates of them, differentiable: the directions of all segments.

        The cosine of two features is the mean cosine of the angles between their segments.
        """
        found = self.directions(latents)
        return found.flatten(1) / len(self.config.segments) ** 0.5

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
            CheckpointError: The file is missing or damaged, or of an earlier kind.
        """
        path = Path(folder) / WEIGHTS_FILE
        weights, header = read_safetensors(path, _KIND, schema={"config": {"segments": list[list[int]]}})
        sizes = header["config"]
        try:
            sizes["segments"] = tuple(map(tuple, sizes["segments"]))  # JSON knows lists only
            encoder = cls(EncoderConfig(**sizes))
            encoder.load_state_dict(weights)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} is not a usable reader ({first_line(error)}); copy it again") from error
        return encoder


def joint_positions(heat: Float[Tensor, "b joints h w"]) -> Float[Tensor, "b joints 2"]:
    """Expected positions, x and y in picture units, under heat maps of logits.

    Soft arg-max (Sun et al., "Integral Human Pose Regression", 2018).
    """
    share = heat.flatten(2).softmax(2).unflatten(2, heat.shape[2:])
    x, y = ((torch.arange(count, device=heat.device) + 0.5) / count for count in (heat.shape[3], heat.shape[2]))
    return torch.stack([(share.sum(2) * x).sum(2), (share.sum(3) * y).sum(2)], 2)


def segment_directions(
    positions: Float[Tensor, "b joints 2"], segments: tuple[tuple[int, int], ...]
) -> Float[Tensor, "b segments 2"]:
    """Unit vectors from the first to the second joint of each pair; they do not depend on a body's proportions."""
    start, end = ([pair[k] for pair in segments] for k in (0, 1))
    return F.normalize(positions[:, end] - positions[:, start], dim=2)


def degrade(
    latents: Float[Tensor, "b c h w"], generator: torch.Generator, max_blur: float = 0.6, max_noise: float = 0.25
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
