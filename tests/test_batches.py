"""What each step of a run is given."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, TextualInversionConfig
from twinact.data.exemplars import Exemplars
from twinact.methods.batches import draw_batch, step_generator
from twinact.training.loop import encode_exemplars, rate_share

TWINACT = LearnConfig(name="leap", steps=6, batch_size=4, seed=3)
INVERSION = replace(TWINACT, method=TextualInversionConfig())


def test_methods_of_one_seed_see_the_same_batch_and_steps_differ(backbone: Backbone, exemplars: Exemplars) -> None:
    latents = encode_exemplars(backbone, exemplars)
    one = draw_batch(backbone, latents, exemplars.captions, TWINACT, 5)
    two = draw_batch(backbone, latents, exemplars.captions, INVERSION, 5)
    assert torch.equal(one.noise, two.noise) and torch.equal(one.t, two.t) and one.captions == two.captions
    other_step = draw_batch(backbone, latents, exemplars.captions, TWINACT, 6)
    other_seed = draw_batch(backbone, latents, exemplars.captions, replace(TWINACT, seed=4), 5)
    assert not torch.equal(one.noise, other_step.noise) and not torch.equal(one.noise, other_seed.noise)
    purposes = [torch.randn(4, generator=step_generator(0, 1, purpose)) for purpose in ("batch", "method")]
    assert not torch.equal(*purposes)


def test_every_exemplar_is_seen_alike_and_paired_with_others(backbone: Backbone, exemplars: Exemplars) -> None:
    latents = encode_exemplars(backbone, exemplars)
    seen, pairs = Counter[int](), set[tuple[int, int]]()
    for step in range(30):  # 30 steps of 4 are 40 rounds of 3
        batch = draw_batch(backbone, latents, exemplars.captions, TWINACT, step)
        for latent, partner in zip(batch.latents, batch.partners, strict=True):
            own, other = (int((latents == x).flatten(1).all(1).nonzero()) for x in (latent, partner))
            seen[own] += 1
            pairs.add((own, other))
    assert seen == {0: 40, 1: 40, 2: 40}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    alone = draw_batch(backbone, latents[:1], exemplars.captions[:1], TWINACT, 0)
    assert torch.equal(alone.partners, alone.latents)


def test_noise_bias_draws_noisy_times_or_clean_ones(backbone: Backbone, exemplars: Exemplars) -> None:
    latents = encode_exemplars(backbone, exemplars)

    def mean_time(bias: float) -> float:
        config = replace(TWINACT, noise_bias=bias, batch_size=64)
        drawn = [draw_batch(backbone, latents, exemplars.captions, config, step).t for step in range(8)]
        return float(torch.cat(drawn).double().mean())

    assert mean_time(0.9) > mean_time(0.0) + 100
    assert mean_time(-0.9) < mean_time(0.0) - 100


def test_rate_falls_to_a_tenth() -> None:
    config = replace(TWINACT, steps=11)
    shares = [rate_share(config, step) for step in range(11)]
    assert shares[0] == 1.0 and shares[-1] == pytest.approx(0.1) and shares == sorted(shares, reverse=True)
    assert rate_share(replace(config, schedule="constant"), 10) == 1.0
    assert rate_share(replace(config, steps=1), 0) == 1.0
