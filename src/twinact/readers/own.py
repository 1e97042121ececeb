"""Reads pictures as a model's own network sees them, in its latents: drawings of the model's world."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import Backbone
from twinact.data.pictures import fit_square
from twinact.readers.body import SEGMENTS, heights
from twinact.readers.latent import LatentActionEncoder, joint_positions, segment_directions
from twinact.readers.reader import PoseReading, Seen

_SMOOTH = Image.Resampling.LANCZOS
# Nano's reader is surer than this in 199 of 200 drawings of its world and in 10 of 100 photographs.
_SEES = 0.5
_STRANGE = "unlike what the model draws, so this may be wrong"


class LatentPoseReader:
    """Reads pictures through a model's autoencoder and the network that finds joints in its latents.

    Args:
        encoder: Encoder of the model.
        backbone: The model.
    """

    name = "own"

    def __init__(self, encoder: LatentActionEncoder, backbone: Backbone) -> None:
        self.segments = len(encoder.config.segments)
        self._has_body = encoder.config.segments == SEGMENTS
        self._encoder, self._backbone = encoder.eval().to(backbone.device), backbone

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> PoseReading:
        squares = [fit_square(one.convert("RGB"), self._backbone.image_size, _SMOOTH) for one in pictures]
        stacked = torch.stack([_pixels(one) for one in squares])  # b 3 H W
        with self._backbone.autoencoder_on_device():
            latents = self._backbone.encode_image(stacked.to(self._backbone.device, self._backbone.dtype))
        heat = self._encoder(latents.float())
        positions, sure = joint_positions(heat), _sureness(heat)
        start, end = ([pair[side] for pair in self._encoder.config.segments] for side in (0, 1))
        weights = torch.minimum(sure[:, start], sure[:, end])
        ground = self._backbone.ground
        told = [() if seen >= _SEES else (_STRANGE,) for seen in weights.mean(dim=1).tolist()]
        return PoseReading(
            directions=segment_directions(positions, self._encoder.config.segments),
            weights=weights,
            boxes=torch.cat([positions.amin(dim=1), positions.amax(dim=1)], dim=1),
            joints=positions,
            seen=tuple(Seen(self.name, 1, 1, remarks) for remarks in told),
            heights=heights(positions, ground) if ground is not None and self._has_body else None,
        )


def _pixels(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    """A picture as float32 in [-1, 1], channels first."""
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1).float().div(127.5).sub(1.0)


def _sureness(heat: Float[Tensor, "b joints h w"]) -> Float[Tensor, "b joints"]:
    """The share of each map that lies in the best 3 × 3 cells: near 1 for one sharp peak, near 0 for a flat map."""
    share = heat.flatten(2).softmax(dim=2).unflatten(2, heat.shape[2:])
    return (9 * F.avg_pool2d(share, 3, stride=1, padding=1)).amax(dim=(2, 3)).clamp(max=1.0)
