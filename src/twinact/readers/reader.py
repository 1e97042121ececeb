"""The contract of pose readers: photographs in, limb directions out, with how sure the reader is of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import Backbone
from twinact.data.pictures import fit_square
from twinact.readers.latent import LatentActionEncoder, joint_positions, segment_directions


@dataclass(frozen=True)
class Seen:
    """What a reader says about one picture.

    Attributes:
        reader: Its name.
        person: Who was read, by size from 1; 0 where nobody was found.
        people: How many were found.
        remarks: What a person should know, such as limbs that are not seen, each without a full stop.
    """

    reader: str
    person: int
    people: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoseReading:
    """The poses in some pictures, one figure in each.

    Attributes:
        directions: Unit vectors along the segments of the body, x to the right and y down.
        weights: How sure the reader is of each segment, in [0, 1]; 0 where it sees nothing.
        boxes: Left, top, right and bottom of each figure, as shares of the square picture.
        joints: Where the joints are, in the same units, NaN where they are not seen; None from readers that do not say.
        seen: What is to be told about each picture; empty from readers that tell nothing.
    """

    directions: Float[Tensor, "b segments 2"]
    weights: Float[Tensor, "b segments"]
    boxes: Float[Tensor, "b 4"]
    joints: Float[Tensor, "b joints 2"] | None = None
    seen: tuple[Seen, ...] = ()


@runtime_checkable
class PoseReader(Protocol):
    """Reads the pose off pictures; it need not be differentiable.

    Attributes:
        segments: How many directions it gives.
    """

    segments: int

    def read(self, pictures: Sequence[Image.Image]) -> PoseReading:
        """The pose of the figure in each picture.

        Args:
            pictures: RGB, upright, of any shape.
        """
        ...


class LatentPoseReader:
    """Reads pictures through a model's autoencoder and the network that finds joints in its latents.

    Args:
        encoder: Encoder of the model.
        backbone: The model.
    """

    name = "own"

    def __init__(self, encoder: LatentActionEncoder, backbone: Backbone) -> None:
        self.segments = len(encoder.config.segments)
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
        told = [() if seen >= _SEES else (_STRANGE,) for seen in weights.mean(dim=1).tolist()]
        return PoseReading(
            directions=segment_directions(positions, self._encoder.config.segments),
            weights=weights,
            boxes=torch.cat([positions.amin(dim=1), positions.amax(dim=1)], dim=1),
            joints=positions,
            seen=tuple(Seen(self.name, 1, 1, remarks) for remarks in told),
        )


_SMOOTH = Image.Resampling.LANCZOS
# Nano's reader is surer than this in 199 of 200 drawings of its world and in 10 of 100 photographs.
_SEES = 0.5
_STRANGE = "unlike what the model draws, so this may be wrong"


def _pixels(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    """A picture as float32 in [-1, 1], channels first."""
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1).float().div(127.5).sub(1.0)


def _sureness(heat: Float[Tensor, "b joints h w"]) -> Float[Tensor, "b joints"]:
    """The share of each map that lies in the best 3 × 3 cells: near 1 for one sharp peak, near 0 for a flat map."""
    share = heat.flatten(2).softmax(dim=2).unflatten(2, heat.shape[2:])
    return (9 * F.avg_pool2d(share, 3, stride=1, padding=1)).amax(dim=(2, 3)).clamp(max=1.0)
