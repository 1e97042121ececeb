"""The loss terms that methods minimise."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def denoising_loss(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean squared error of the denoiser (DDPM, arXiv:2006.11239, eq. 14; weights as in min-SNR).

    Args:
        prediction, target, mask: See `denoising_errors`.
        weight: Factor of every sample's error, >= 0.

    Returns:
        Mean over the samples of weight × error, float32.
    """
    return (weight * denoising_errors(prediction, target, mask)).mean()


def denoising_errors(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared error of the denoiser in each sample, float32.

    Args:
        prediction: What the denoiser says, in the parameterisation of its noising.
        target: What it should say.
        mask: Factor of every place, >= 0; the error is averaged over its sum, so a small figure counts as much as a
            large one. None counts all places alike.
    """
    squares = (prediction.float() - target.float()).square()
    if mask is None:
        return squares.mean(dim=(1, 2, 3))
    channels = squares.shape[1]
    # A sample whose mask is empty teaches nothing, and must not divide by zero.
    area = (mask.sum(dim=(1, 2, 3)) * channels).clamp_min(1e-8)
    return (squares * mask).sum(dim=(1, 2, 3)) / area


def similarity_loss(features: Float[Tensor, "b f"], targets: Float[Tensor, "b f"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine: 0 for equal directions, 1 for unrelated ones, 2 for opposite ones; float32."""
    return (1.0 - F.cosine_similarity(features.float(), targets.float(), dim=1)).mean()
