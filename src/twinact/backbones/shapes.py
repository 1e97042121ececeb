"""What the sides of a model's pictures must be multiples of."""

from twinact.backbones.backbone import Backbone

_PIXELS = 16


def side_multiple(backbone: Backbone) -> int:
    """Of which number of pixels both sides of a picture are multiples.

    A UNet halves its latents from block to block, and a side that it cannot halve is drawn worse: 64 pixels for Stable
    Diffusion and SDXL. The transformers take patches of two latents, 16 pixels.
    """
    blocks = len(backbone.denoiser.config.get("down_block_types", ())) or 1
    pixels = backbone.image_size // backbone.latent_shape[1]
    return max(_PIXELS, int(pixels * 2 ** (blocks - 1)))
