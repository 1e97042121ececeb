"""Reads poses off estimates: the network of a model's folder in latents, or ViTPose in what they decode to."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import Backbone
from twinact.readers import LatentActionEncoder, load_action_encoder
from twinact.readers.body import SEGMENTS, height_directions, heights
from twinact.readers.latent import joint_positions, segment_directions
from twinact.space.pose_table import OWN

if TYPE_CHECKING:
    from twinact.readers.vitpose import ViTPoseReader


@runtime_checkable
class Eyes(Protocol):
    """Reads limb directions off clean latents or estimates of them; differentiable in these.

    Attributes:
        segments: Pairs of joints, by number, whose directions it reads.
    """

    segments: tuple[tuple[int, int], ...]

    def directions(self, backbone: Backbone, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        """Unit vectors along the segments, x to the right and y down.

        Where the model's ground is known, one row more: the height above it; see `height_directions`.
        """
        ...


class LatentEyes:
    """A network that was trained on a model's latents; nothing is decoded.

    Args:
        encoder: Trained on estimates as blurred as those of early steps.
    """

    def __init__(self, encoder: LatentActionEncoder) -> None:
        self.segments = encoder.config.segments
        self._encoder = encoder.requires_grad_(False).eval()

    def directions(self, backbone: Backbone, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        joints = joint_positions(self._encoder.to(latents.device)(latents.float()))
        found = segment_directions(joints, self.segments)
        if backbone.ground is None or self.segments != SEGMENTS:
            return found
        return torch.cat([found, height_directions(heights(joints, backbone.ground))[:, None]], dim=1)


class PictureEyes:
    """ViTPose, on the pictures that latents decode to. The figure is taken to fill the picture.

    Args:
        reader: Its network is moved to where the latents are.
    """

    segments = SEGMENTS

    def __init__(self, reader: "ViTPoseReader") -> None:
        self._reader = reader

    def directions(self, backbone: Backbone, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        pixels = backbone.decode_latents(latents).float().clamp(-1, 1)
        return self._reader.to(pixels.device).read_pixels(pixels).directions


def open_eyes(name: str, backbone: Backbone) -> Eyes | None:
    """Eyes by their name; None where the model's folder has no network of its own.

    Args:
        name: `OWN`, or name or folder of a ViTPose network.
        backbone: The model.

    Raises:
        CheckpointError: The network in the folder is damaged.
        DataError: There is no such ViTPose.
    """
    if name != OWN:
        from twinact.readers.vitpose import ViTPoseReader

        return PictureEyes(ViTPoseReader.open(name, None))
    encoder = None if backbone.folder is None else load_action_encoder(backbone.folder)
    return None if encoder is None else LatentEyes(encoder)
