"""Which shape a picture is learned in: its own proportions, as many pixels as the model's square has.

Pictures of one step have one shape, so shapes are few: sides are multiples of what the model needs. Which of them a
picture gets depends on nothing but its own width and height and on the model.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:  # reports read exemplars, and a model's class imports diffusers
    from twinact.backbones.backbone import Backbone

Together: TypeAlias = Float[Tensor, "n _ _ _"] | tuple[Float[Tensor, "_ _ _"], ...]
"""Pictures, latents or masks, channels first: one tensor where all have one shape, otherwise one for each."""
_LONGEST = 2
"""Times the square's side that a longer side is at most; SDXL was trained on such."""
_PIXELS = 16


def side_multiple(backbone: "Backbone") -> int:
    """Of which number of pixels both sides of a picture are multiples.

    A UNet halves its latents from block to block, and a side that it cannot halve is drawn worse: 64 pixels for Stable
    Diffusion and SDXL. The transformers take patches of two latents, 16 pixels.
    """
    blocks = len(backbone.denoiser.config.get("down_block_types", ())) or 1
    pixels = backbone.image_size // backbone.latent_shape[1]
    return max(_PIXELS, int(pixels * 2 ** (blocks - 1)))


def shape_for(size: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """The shape whose proportions are nearest to a picture's.

    Args:
        size: Width and height of the picture.
        side: Of the square that the model draws, in pixels; no shape has more pixels than it.
        multiple: Of what sides are multiples; see `side_multiple`.

    Returns:
        (width, height) in pixels; the square where two shapes are equally near.
    """
    own = math.log(size[0] / size[1])
    return min(_shapes(side, multiple), key=lambda shape: round(abs(math.log(shape[0] / shape[1]) - own), 9))


def _shapes(side: int, multiple: int) -> Iterator[tuple[int, int]]:
    """The square first, then others, the wide ones and the high ones in turn."""
    yield side, side
    for longer in range(side // multiple * multiple, _LONGEST * side + 1, multiple):
        shorter = side * side // longer // multiple * multiple
        if longer > side and shorter:
            yield longer, shorter
            yield shorter, longer


def together(parts: Sequence[Float[Tensor, "_ _ _"]]) -> Together:
    """Parts in one tensor, where all have one shape."""
    return torch.stack(list(parts)) if len({part.shape for part in parts}) == 1 else tuple(parts)


def by_shape(parts: Together) -> dict[tuple[int, ...], list[int]]:
    """Numbers of the parts of each shape, in the order in which shapes come."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, part in enumerate(parts):
        found.setdefault(tuple(part.shape), []).append(number)
    return found
