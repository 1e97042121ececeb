"""How clean latents become noisy ones, what the denoiser should answer, and the way back."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from twinact.errors import ConfigError

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Noised:
    """Noisy latents and what the denoiser should make of them.

    Attributes:
        x_t: (b, c, h, w) noisy latents.
        target: (b, c, h, w) the right answer of the denoiser.
        t: (b,) times, as `Backbone.predict` takes them.
        weight: (b,) factor of each item's squared error in the denoising loss.
    """

    x_t: Float[Tensor, "b c h w"]
    target: Float[Tensor, "b c h w"]
    t: Shaped[Tensor, " b"]
    weight: Float[Tensor, " b"]


class Noising(Protocol):
    """One family's noise process; times are whatever its denoiser takes."""

    def sample_t(self, b: int, generator: torch.Generator, bias: float = 0.0) -> Shaped[Tensor, " b"]:
        """Random times for training; `bias` in [0, 1) favours noisy ones, 0 is the family's usual density."""
        ...

    def add(
        self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"]
    ) -> Noised:
        """Mixes noise into clean latents."""
        ...

    def clean(
        self, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean latents that a prediction implies; undoes `add` for the true target."""
        ...


class DDPMNoising:
    """Discrete noise of DDPM (Ho et al. 2020): x_t = a x_0 + s noise, with a² = alphas_cumprod[t] and s² = 1 - a².

    The target is the noise ("epsilon") or v = a noise - s x_0 ("v_prediction", Salimans & Ho 2022).
    """

    def __init__(self, alphas_cumprod: Float[Tensor, " T"], prediction_type: str) -> None:
        """Takes the table of a², one entry per time 0 .. T-1, on the device where latents will be.

        Raises:
            ConfigError: Unknown prediction type, or epsilon with a table that reaches 0 (no signal is left at the last
                step, so the noise says nothing about the picture).
        """
        if prediction_type not in PREDICTION_TYPES:
            raise ConfigError(f"prediction_type {prediction_type!r} is not supported: use one of {PREDICTION_TYPES}")
        if prediction_type == "epsilon" and bool((alphas_cumprod <= 0).any()):
            raise ConfigError(
                "prediction_type 'epsilon' cannot work with zero terminal SNR (alphas_cumprod reaches 0): "
                "set prediction_type to 'v_prediction', or rescale_betas_zero_snr to false"
            )
        self.alphas_cumprod = alphas_cumprod
        self.prediction_type = prediction_type

    @classmethod
    def from_scheduler(cls, scheduler: Any, device: torch.device) -> "DDPMNoising":
        """The noise that a diffusers scheduler was made for.

        The scheduler's own table is read, not its betas' settings, so that `rescale_betas_zero_snr`, trained betas
        and whatever else shaped it hold here too.

        Raises:
            ConfigError: The scheduler has no such table, as those of flow models.
        """
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is None:
            raise ConfigError(
                f"scheduler {type(scheduler).__name__} has no alphas_cumprod: this model family needs a DDPM-like "
                "scheduler such as DDIMScheduler"
            )
        return cls(table.to(device=device, dtype=torch.float32), scheduler.config.prediction_type)

    def sample_t(self, b: int, generator: torch.Generator, bias: float = 0.0) -> Int64[Tensor, " b"]:
        """Random times, density proportional to 1 - bias * cos(pi t / T) (importance sampling of ReVersion).

        Args:
            b: How many.
            generator: Source of randomness, on any device.
            bias: In [0, 1); 0 is uniform, near 1 the noisiest steps are drawn most and the cleanest hardly.

        Raises:
            ConfigError: `bias` out of range.
        """
        if not 0.0 <= bias < 1.0:
            raise ConfigError(f"timestep bias {bias} is out of range: use a value from 0 (uniform) to below 1")
        steps = len(self.alphas_cumprod)
        times = torch.arange(steps, dtype=torch.float64, device=generator.device)
        cumulative = (1.0 - bias * torch.cos(math.pi * times / steps)).cumsum(0)
        drawn = torch.rand(b, dtype=torch.float64, device=generator.device, generator=generator) * cumulative[-1]
        t = torch.searchsorted(cumulative, drawn, right=True).clamp(max=steps - 1)
        return t.to(self.alphas_cumprod.device)

    def add(self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"]) -> Noised:
        """Mixes noise into clean latents; every item has weight 1."""
        signal, sigma = self._scales(t, latents.dtype)
        x_t = signal * latents + sigma * noise
        target = noise if self.prediction_type == "epsilon" else signal * noise - sigma * latents
        return Noised(x_t, target, t, torch.ones_like(t, dtype=latents.dtype))

    def clean(
        self, x_t: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"], prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean latents that a prediction implies; undoes `add` for the true target."""
        signal, sigma = self._scales(t, x_t.dtype)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * prediction) / signal
        return signal * x_t - sigma * prediction

    def _scales(self, t: Int64[Tensor, " b"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        squared = self.alphas_cumprod[t][:, None, None, None]  # b 1 1 1
        return squared.sqrt().to(dtype), (1.0 - squared).sqrt().to(dtype)
