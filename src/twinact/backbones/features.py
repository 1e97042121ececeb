"""Finds the block of a denoiser that knows where things are, and reads what it puts out as a map of features.

Features of a UNet's decoder, and of the middle of a transformer, tell the parts of a body apart and where they are
(DIFT, Tang et al., NeurIPS 2023; Readout Guidance, Luo et al., CVPR 2024). Families say in `Backbone.pose_block` and
`Backbone.pose_map` which block it is and how its output becomes a map.

Letters in shapes: b batch, n positions, c channels, h w rows and columns of a map.
"""

from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from twinact.backbones.backbone import Backbone, TextCond

_CELLS = 32


def up_block(unet: nn.Module, side: int) -> str:
    """Name of the first block on the way up whose output has 32 cells a side, or as many as the latents.

    Args:
        unet: A UNet of diffusers.
        side: Of its latents.
    """
    last = len(unet.up_blocks) - 1
    return next(f"up_blocks.{k}" for k in range(last + 1) if side >> max(0, last - 1 - k) >= min(_CELLS, side))


def middle_block(transformer: nn.Module, *stacks: str) -> str:
    """Name of the block in the middle of a transformer.

    Args:
        transformer: A transformer of diffusers.
        stacks: Names of its lists of blocks, in the order in which they are run.
    """
    names = [f"{stack}.{number}" for stack in stacks for number in range(len(transformer.get_submodule(stack)))]
    return names[len(names) // 2]


def map_of_tokens(tokens: Float[Tensor, "b n c"], rows: int, columns: int) -> Float[Tensor, "b c h w"]:
    """Positions of a picture, row by row, as a map."""
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def map_of_last(output: Any, rows: int, columns: int) -> Float[Tensor, "b c h w"]:
    """The map in a block's output that ends in the picture's positions, be it behind the text's or apart from these."""
    tokens = output[-1] if isinstance(output, tuple) else output
    return map_of_tokens(tokens[:, -rows * columns :], rows, columns)


def predict_with_map(
    backbone: Backbone, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], cond: TextCond
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c2 h2 w2"]]:
    """`Backbone.predict`, and the features of its `pose_block` on the way; the gradient flows through both.

    The hook that catches them is gone afterwards. A compiled denoiser would not see it come and go, so that one pass is
    not compiled.

    Returns:
        Prediction and map.
    """
    found: list[Tensor] = []
    denoiser = backbone.denoiser
    compiled, denoiser._compiled_call_impl = denoiser._compiled_call_impl, None
    hook = denoiser.get_submodule(backbone.pose_block).register_forward_hook(
        lambda module, inputs, output: found.append(backbone.pose_map(output))
    )
    try:
        prediction = backbone.predict(x_t, t, cond)
    finally:
        hook.remove()
        denoiser._compiled_call_impl = compiled
    return prediction, found[0]
