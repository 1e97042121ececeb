"""The action encoder and the losses: what they read, save and give."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twinact.encoders import FOLDER, ActionEncoder, LatentActionEncoder, load_action_encoder
from twinact.encoders.head import EncoderConfig, degrade
from twinact.errors import CheckpointError
from twinact.losses import denoising_loss, similarity_loss


def test_encoder_reads_any_size_and_saves(encoder: LatentActionEncoder, tmp_path: Path) -> None:
    assert load_action_encoder(tmp_path) is None
    encoder.save(tmp_path / FOLDER)
    loaded = load_action_encoder(tmp_path)
    assert isinstance(loaded, ActionEncoder) and not any(p.requires_grad for p in loaded.parameters())
    latents = torch.randn(3, 4, 16, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    features = loaded.encode(latents)
    torch.testing.assert_close(features, encoder.encode(latents), atol=2e-3, rtol=0)  # saved in half precision
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert loaded.pose(features).shape == (3, 5)
    features[:, 0].sum().backward()
    assert float(latents.grad.abs().min(dim=1).values.max()) > 0  # type: ignore[union-attr]
    (tmp_path / FOLDER / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError):
        load_action_encoder(tmp_path)


def test_encoder_tells_places_apart_and_has_the_planned_size() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        full = LatentActionEncoder(EncoderConfig(in_channels=8, pose_targets=25))
    assert 0.5e6 < sum(parameter.numel() for parameter in full.parameters()) < 1.0e6
    spot = torch.zeros(2, 8, 16, 16)
    spot[0, :, 2:5, 2:5] = 2.0
    spot[1, :, 2:5, 11:14] = 2.0  # the same thing in another place; a global average would not see it
    one, other = full.encode(spot)
    assert float((one - other).detach().norm()) > 0.05


def test_degrade_follows_its_generator_and_limits() -> None:
    latents = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))

    def degraded(seed: int, blur: float, noise: float) -> Tensor:
        return degrade(latents, torch.Generator().manual_seed(seed), blur, noise)

    assert torch.equal(degraded(1, 0.9, 0.3), degraded(1, 0.9, 0.3))
    assert not torch.equal(degraded(1, 0.9, 0.3), degraded(2, 0.9, 0.3))
    torch.testing.assert_close(degraded(1, 0.0, 0.0), latents)
    assert float(degraded(1, 0.9, 0.0).var()) < float(latents.var())


def test_losses_are_what_they_say() -> None:
    prediction, target = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    target[1] = 2.0
    assert float(denoising_loss(prediction, target, torch.tensor([1.0, 0.5]))) == pytest.approx((1 + 0.5 * 4) / 2)
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0, 0] = 1.0
    target[0, :, 1, 1] = 100.0  # outside the mask
    assert float(denoising_loss(prediction, target, torch.ones(2), mask)) == pytest.approx(0.5)
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    others = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert float(similarity_loss(features, others)) == pytest.approx((0 + 1 + 2) / 3)
