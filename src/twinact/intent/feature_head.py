"""Reads poses off the denoiser's own features, so that nothing is decoded and no pose network is asked.

In the manner of Readout Guidance (Luo et al., "Readout Guidance: Learning Control from Diffusion Features", CVPR 2024):
a small network on frozen features, trained once for a model, here on the drawings that its pose table is made of.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from twinact.errors import CheckpointError
from twinact.readers.body import height_directions, heights
from twinact.readers.latent import ResidualBlock, joint_positions, segment_directions
from twinact.space.pose_head import BLOCKS, PoseHead, joint_count

_MOST_CELLS = 32  # a side: more of them say no more of where limbs are
_LEAST_DEVIATION = 1e-6


class FeatureHead(nn.Module):
    """Features of one block → heat maps of the joints → the directions of the body's segments.

    Every channel is brought to zero mean and unit deviation first: some of a transformer's are a thousand times larger
    than others. The heat maps have twice the resolution of the features.

    Args:
        channels: Of the features.
        segments: Pairs of joints, by number.
        ground: Where the ground lies, if the height above it is read as well.
        width: Channels of what it makes of the features, a multiple of 8.
    """

    def __init__(
        self, channels: int, segments: tuple[tuple[int, int], ...], ground: float | None = None, width: int = 64
    ) -> None:
        super().__init__()
        self.segments, self.ground = segments, ground
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.reduce = nn.Conv2d(channels, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(BLOCKS)))
        self.heat = nn.Conv2d(width, 4 * joint_count(segments), 1)

    def measure(self, features: Float[Tensor, "b c h w"]) -> None:
        """Takes over mean and deviation of every channel from features such as it is going to see."""
        values = features.float().transpose(0, 1).flatten(1)
        self.mean.copy_(values.mean(dim=1))
        self.deviation.copy_(values.std(dim=1) + _LEAST_DEVIATION)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        """Unit vectors, as `twinact.intent.eyes.Eyes.directions` has them; differentiable in the features."""
        scaled = (features.float() - self.mean[:, None, None]) / self.deviation[:, None, None]
        maps = F.silu(self.blocks(self.reduce(scaled)))
        joints = joint_positions(F.pixel_shuffle(self.heat(maps), 2).float())
        found = segment_directions(joints, self.segments)
        if self.ground is None:
            return found
        return torch.cat([found, height_directions(heights(joints, self.ground))[:, None]], dim=1)

    def stored(self, block: str, correlation: float) -> PoseHead:
        """This head as data.

        Args:
            block: Whose features it was trained on.
            correlation: How well it reads; see `PoseHead`.
        """
        tensors = {name: tensor.detach().float().cpu().clone() for name, tensor in self.state_dict().items()}
        return PoseHead(tensors, block, self.segments, self.ground, correlation)

    @classmethod
    def of(cls, head: PoseHead) -> "FeatureHead":
        """Inverse of `stored`: frozen, on the CPU."""
        found = cls(head.channels, head.segments, head.ground, head.width)
        found.load_state_dict(head.tensors)
        return found.requires_grad_(False).eval()


def coarse(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Features as heads see them: of at most 32 cells a side."""
    size = tuple(min(side, _MOST_CELLS) for side in features.shape[2:])
    return features if size == tuple(features.shape[2:]) else F.adaptive_avg_pool2d(features, size)


def check_features(head: PoseHead, features: Float[Tensor, "b c h w"]) -> None:
    """Makes sure that a head was made for such features.

    Raises:
        CheckpointError: It was not.
    """
    if features.shape[1] != head.channels:
        raise CheckpointError(
            f"the space's pose head reads {head.channels} features of {head.block!r} and this model has "
            f"{features.shape[1]}; build the space for this model"
        )
