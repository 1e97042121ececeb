"""Adds noise to clean latents, defines what the denoiser should answer, and goes the way back."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from twinact.errors import ConfigError

PREDICTION_TYPES = ("epsilon", "v_prediction")
# Cells of the quantile table that biased flow times are drawn from; the density is constant within each.
_CELLS = 1000


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
        """Random times; `bias` in (-1, 1) favours noisy ones, below 0 clean ones; 0 is the family's usual density."""
        ...

    def noisiest(self, b: int) -> Shaped[Tensor, " b"]:
        """The last time, at which latents are pure noise or nearly so, `b` times."""
        ...

    def times(self, n: int) -> Shaped[Tensor, " n"]:
        """The times of a drawing in `n` steps, from the noisiest on, spaced as the family draws."""
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
            bias: In (-1, 1); 0 is uniform, near 1 the noisiest steps are drawn most and the cleanest hardly, near -1
                the other way round.

        Raises:
            ConfigError: `bias` out of range.
        """
        _check_bias(bias)
        steps = len(self.alphas_cumprod)
        times = torch.arange(steps, dtype=torch.float64, device=generator.device)
        cumulative = (1.0 - bias * torch.cos(math.pi * times / steps)).cumsum(0)
        drawn = torch.rand(b, dtype=torch.float64, device=generator.device, generator=generator) * cumulative[-1]
        t = torch.searchsorted(cumulative, drawn, right=True).clamp(max=steps - 1)
        return t.to(self.alphas_cumprod.device)

    def noisiest(self, b: int) -> Int64[Tensor, " b"]:
        """The last time, `b` times."""
        return torch.full((b,), len(self.alphas_cumprod) - 1, device=self.alphas_cumprod.device)

    def times(self, n: int) -> Int64[Tensor, " n"]:
        """`n` times with equal distances, from the last one on ("trailing" in diffusers)."""
        last = len(self.alphas_cumprod) - 1
        return torch.linspace(last, 0, n + 1, device=self.alphas_cumprod.device)[:n].round().long()

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


class FlowNoising:
    """Straight paths of flow matching (Lipman et al. 2023): x_t = (1 - sigma) x_0 + sigma noise, target noise - x_0.

    Times are sigma in units of training steps, 0 clean and `steps` pure noise, and need not be whole. In training they
    are logit-normal (Stable Diffusion 3, Esser et al. 2024, section 3.1), moved by the shift of the model's scheduler:
    sigma = shift u / (1 + (shift - 1) u), which adds log(shift) to the logit.
    """

    def __init__(self, shift: float, steps: int, device: torch.device) -> None:
        """Takes the shift (1 is none, larger is noisier) and the time of pure noise; times are made on `device`."""
        self.shift = shift
        self.steps = steps
        self.device = device

    @classmethod
    def from_scheduler(cls, scheduler: Any, tokens: int, device: torch.device) -> "FlowNoising":
        """The noise that a diffusers scheduler was made for.

        Args:
            scheduler: A flow-matching one; its static shift counts, or the one that grows with the picture.
            tokens: Positions of a picture in the transformer.
            device: Where times are made.

        Raises:
            ConfigError: The scheduler has no shift, as those of DDPM models.
        """
        config = scheduler.config
        if "shift" not in config:
            raise ConfigError(
                f"scheduler {type(scheduler).__name__} has no shift: this model family needs a flow-matching "
                "scheduler such as FlowMatchEulerDiscreteScheduler"
            )
        shift = float(config.shift)
        if config.get("use_dynamic_shifting", False):
            # A line through two (tokens, shift) points, as the stock pipelines draw it.
            slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
            mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
            shift = math.exp(mu) if config.time_shift_type == "exponential" else mu
        return cls(shift, config.num_train_timesteps, device)

    def sample_t(self, b: int, generator: torch.Generator, bias: float = 0.0) -> Float[Tensor, " b"]:
        """Random times, density proportional to (shifted logit-normal) * (1 - bias * cos(pi sigma)); float32.

        Args:
            b: How many.
            generator: Source of randomness, on any device.
            bias: In (-1, 1); 0 is the logit-normal alone, near 1 clean times are hardly drawn, near -1 noisy ones.

        Raises:
            ConfigError: `bias` out of range.
        """
        _check_bias(bias)
        cells = torch.arange(_CELLS, dtype=torch.float64, device=generator.device)
        density = 1.0 - bias * torch.cos(math.pi * self._sigma((cells + 0.5) / _CELLS))
        cumulative = density.cumsum(0)
        drawn = torch.rand(b, dtype=torch.float64, device=generator.device, generator=generator) * cumulative[-1]
        cell = torch.searchsorted(cumulative, drawn, right=True).clamp(max=_CELLS - 1)
        within = 1.0 - (cumulative[cell] - drawn) / density[cell]
        # Quantiles 0 and 1 are infinitely far out.
        quantile = ((cell + within) / _CELLS).clamp(1e-6, 1.0 - 1e-6)
        return (self._sigma(quantile) * self.steps).to(self.device, torch.float32)

    def noisiest(self, b: int) -> Float[Tensor, " b"]:
        """The time of pure noise, `b` times."""
        return torch.full((b,), float(self.steps), device=self.device)

    def times(self, n: int) -> Float[Tensor, " n"]:
        """`n` times with equal distances before the shift, from pure noise on."""
        even = torch.linspace(1, 0, n + 1, device=self.device)[:n]
        return self.steps * self.shift * even / (1 + (self.shift - 1) * even)

    def add(self, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Noised:
        """Mixes noise into clean latents; every item has weight 1."""
        sigma = (t / self.steps)[:, None, None, None]  # b 1 1 1
        # Rounded once each: in half precision 1 - sigma of a rounded sigma would be off where little signal is left.
        x_t = (1.0 - sigma).to(latents.dtype) * latents + sigma.to(latents.dtype) * noise
        return Noised(x_t, noise - latents, t, torch.ones_like(t, dtype=latents.dtype))

    def clean(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean latents that a prediction implies; undoes `add` for the true target."""
        return x_t - (t / self.steps)[:, None, None, None].to(x_t.dtype) * prediction

    def _sigma(self, quantile: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Sigma at quantiles of the shifted logit-normal."""
        return torch.sigmoid(torch.special.ndtri(quantile) + math.log(self.shift))


def _check_bias(bias: float) -> None:
    if not -1.0 < bias < 1.0:
        raise ConfigError(f"timestep bias {bias} is out of range: use a value between -1 and 1; 0 is the usual density")
