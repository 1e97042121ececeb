"""Turns pictures into scaled latents and back, for the autoencoders of all families."""

from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from torch import Tensor


def to_latents(vae: AutoencoderKL | AutoencoderTiny, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
    """Latents of pictures in [-1, 1]: the mean where the autoencoder has a distribution; shifted, then scaled."""
    encoded = vae.encode(images.to(vae.device, vae.dtype))
    latents = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
    return (latents - _shift(vae)) * vae.config.scaling_factor


def to_pictures(vae: AutoencoderKL | AutoencoderTiny, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
    """Inverse of `to_latents`: pictures of latents; differentiable, values may overshoot [-1, 1]."""
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + _shift(vae)
    return vae.decode(scaled).sample.to(latents.device)


def _shift(vae: AutoencoderKL | AutoencoderTiny) -> float:
    return vae.config.shift_factor or 0.0  # None in the families that came before flow matching
