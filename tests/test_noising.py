"""Both kinds of noise against their schedulers, and the densities of their times."""

from typing import Literal

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from families import noisy
from tiny import tiny_sd
from twinact.backbones.noising import DDPMNoising, FlowNoising
from twinact.backbones.sd import StableDiffusion
from twinact.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize("version", [1, 2])
def test_clean_undoes_add_and_add_equals_the_scheduler(version: Literal[1, 2]) -> None:
    pipeline = tiny_sd(version)
    backbone = StableDiffusion(pipeline, "tiny")
    t = torch.tensor([0, 1, 250, 500, 750, 998, 999])
    latents, noise = noisy(backbone, len(t)).double(), torch.randn(len(t), *backbone.latent_shape, dtype=torch.float64)
    noised = backbone.noising.add(latents, noise, t)
    torch.testing.assert_close(backbone.clean(noised.x_t, t, noised.target), latents, rtol=1e-6, atol=1e-6)
    scheduler = pipeline.scheduler
    torch.testing.assert_close(noised.x_t, scheduler.add_noise(latents, noise, t), rtol=1e-6, atol=1e-6)
    if version == 2:
        torch.testing.assert_close(noised.target, scheduler.get_velocity(latents, noise, t), rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(noised.target, noise)
    assert torch.equal(noised.weight, torch.ones(len(t), dtype=torch.float64))


def test_zero_terminal_snr_leaves_no_signal() -> None:
    pipeline = tiny_sd(2)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    backbone = StableDiffusion(pipeline, "tiny")
    latents, t = noisy(backbone), torch.tensor([999, 999])
    noise = torch.randn_like(latents)
    noised = backbone.noising.add(latents, noise, t)
    assert torch.equal(noised.x_t, noise)
    torch.testing.assert_close(backbone.clean(noised.x_t, t, noised.target), latents)


def test_schedulers_that_do_not_fit_are_refused() -> None:
    config = tiny_sd().scheduler.config
    device = torch.device("cpu")
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        DDPMNoising.from_scheduler(FlowMatchEulerDiscreteScheduler(), device)
    with pytest.raises(ConfigError, match="prediction_type 'sample' is not supported"):
        DDPMNoising.from_scheduler(DDIMScheduler.from_config(config, prediction_type="sample"), device)
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        DDPMNoising.from_scheduler(DDIMScheduler.from_config(config, rescale_betas_zero_snr=True), device)


@pytest.mark.parametrize("bias", [0.0, 0.9, -0.9])
def test_times_follow_their_density(bias: float) -> None:
    noising = DDPMNoising(torch.linspace(0.9, 0.1, 10), "epsilon")
    draws = 20_000
    t = noising.sample_t(draws, torch.Generator().manual_seed(0), bias)
    assert torch.equal(t, noising.sample_t(draws, torch.Generator().manual_seed(0), bias))
    weight = 1 - bias * torch.cos(torch.pi * torch.arange(10) / 10)
    expected = draws * weight / weight.sum()
    # Five standard deviations of a count.
    assert ((torch.bincount(t, minlength=10) - expected).abs() < 5 * expected.sqrt()).all()
    with pytest.raises(ConfigError, match=r"timestep bias 1\.0 is out of range"):
        noising.sample_t(1, torch.Generator(), 1.0)


def test_flow_mixes_as_the_scheduler_and_clean_undoes_it() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    noising = FlowNoising.from_scheduler(scheduler, 16, CPU)
    t = scheduler.timesteps[[0, 1, 300, 700, 999]]
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(len(t), 4, 8, 8, generator=generator) for _ in range(2))
    noised = noising.add(latents, noise, t)
    torch.testing.assert_close(noised.x_t, scheduler.scale_noise(latents, t, noise))
    torch.testing.assert_close(noised.target, noise - latents)
    torch.testing.assert_close(noising.clean(noised.x_t, t, noised.target), latents, rtol=1e-5, atol=1e-5)
    assert torch.equal(noised.x_t[0], noise[0])  # the scheduler's first time is pure noise
    assert torch.equal(noised.weight, torch.ones(len(t)))
    assert noised.t is t


def test_flow_follows_the_velocity_to_the_picture() -> None:
    """The target is what the scheduler integrates: one step along it from pure noise arrives at the latents."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    noising = FlowNoising.from_scheduler(scheduler, 16, CPU)
    latents, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    x_t = noise
    for t in scheduler.timesteps:
        x_t = scheduler.step(noising.add(latents, noise, t[None]).target, t, x_t, return_dict=False)[0]
    torch.testing.assert_close(x_t, latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flow_keeps_the_dtype_of_latents(dtype: torch.dtype) -> None:
    noising = FlowNoising(1.0, 1000, CPU)
    latents = torch.ones(2, 4, 8, 8, dtype=dtype)
    noised = noising.add(latents, torch.zeros_like(latents), torch.tensor([999.5, 10.0]))
    assert noised.x_t.dtype == noised.target.dtype == noised.weight.dtype == dtype
    # The little signal that is left is not rounded away with sigma.
    assert noised.x_t[0].float().mean().item() == pytest.approx(5e-4, rel=1e-2)
    assert noising.clean(noised.x_t, noised.t, noised.target).dtype == dtype


def test_shift_is_the_schedulers() -> None:
    assert FlowNoising.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0), 4096, CPU).shift == 3.0
    for kind in ("exponential", "linear"):
        dynamic = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, time_shift_type=kind)
        for tokens, mu in ((256, 0.5), (4096, 1.15)):
            dynamic.set_timesteps(sigmas=[0.5], mu=mu)
            sigma = dynamic.sigmas[0].item()
            assert FlowNoising.from_scheduler(dynamic, tokens, CPU).shift == pytest.approx(sigma / (1 - sigma))
    with pytest.raises(ConfigError, match="DDIMScheduler has no shift: this model family needs a flow-matching"):
        FlowNoising.from_scheduler(DDIMScheduler(), 16, CPU)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("bias", [0.0, 0.9, -0.9])
def test_flow_times_follow_their_density(bias: float, shift: float) -> None:
    noising = FlowNoising(shift, 1000, CPU)
    draws, bins = 20_000, 20
    t = noising.sample_t(draws, torch.Generator().manual_seed(0), bias)
    assert torch.equal(t, noising.sample_t(draws, torch.Generator().manual_seed(0), bias))
    assert t.dtype == torch.float32 and t.min() > 0 and t.max() < 1000
    # Density of the logit-normal over sigma (Atchison & Shen 1980), its logit moved by log(shift), times the bias.
    sigma = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    logit = torch.logit(sigma) - torch.tensor(shift, dtype=torch.float64).log()
    density = torch.exp(-logit.square() / 2) / (sigma * (1 - sigma)) * (1 - bias * torch.cos(torch.pi * sigma))
    expected = draws * density.reshape(bins, -1).sum(1) / density.sum()
    counts = torch.histc(t, bins, 0, 1000).double()
    # Five standard deviations of a count.
    assert ((counts - expected).abs() < 5 * expected.sqrt() + 1).all()
    with pytest.raises(ConfigError, match=r"timestep bias 1\.0 is out of range"):
        noising.sample_t(1, torch.Generator(), 1.0)
