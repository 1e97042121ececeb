"""The action encoder and the losses: what they read, save and give."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twinact.errors import CheckpointError, ConfigError
from twinact.methods.losses import denoising_loss, similarity_loss
from twinact.readers import FOLDER, ActionEncoder, LatentActionEncoder, load_action_encoder
from twinact.readers.latent import EncoderConfig, degrade, joint_positions, segment_directions


def test_encoder_reads_any_size_and_saves(encoder: LatentActionEncoder, tmp_path: Path) -> None:
    assert load_action_encoder(tmp_path) is None
    encoder.save(tmp_path / FOLDER)
    loaded = load_action_encoder(tmp_path)
    assert isinstance(loaded, ActionEncoder) and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config == encoder.config
    latents = torch.randn(3, 4, 15, 22, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert loaded(latents).shape == (3, 5, 30, 44)
    features = loaded.encode(latents)
    torch.testing.assert_close(features, encoder.encode(latents), atol=2e-2, rtol=0)  # saved in half precision
    assert features.shape == (3, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    features[:, 0].sum().backward()
    assert float(latents.grad.abs().min(dim=1).values.max()) > 0  # type: ignore[union-attr]
    (tmp_path / FOLDER / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError):
        load_action_encoder(tmp_path)


def test_joints_and_directions_are_those_under_the_heat_maps() -> None:
    heat = torch.full((1, 3, 8, 16), -50.0)
    for joint, (row, column) in enumerate(((1, 2), (5, 2), (5, 10))):
        heat[0, joint, row, column] = 50.0
    positions = joint_positions(heat)
    torch.testing.assert_close(
        positions[0], torch.tensor([[2.5 / 16, 1.5 / 8], [2.5 / 16, 5.5 / 8], [10.5 / 16, 5.5 / 8]])
    )
    found = segment_directions(positions, ((0, 1), (1, 2), (2, 1)))
    torch.testing.assert_close(found[0], torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))


def test_features_are_alike_as_the_angles_are(encoder: LatentActionEncoder) -> None:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    one, other = encoder.directions(latents)
    cosines = (one * other).sum(1)  # of the angle between each segment and its like
    features = encoder.encode(latents)
    torch.testing.assert_close(features[0] @ features[1], cosines.mean())


def test_encoder_of_wrong_sizes_is_refused() -> None:
    for wrong, told in (
        ({"width": 12}, "width 12 must be a multiple of 8"),
        ({"joints": 0}, "joints 0 must be a whole number"),
        ({"segments": ((0, 3),)}, "pairs of joints from 0 to 2"),
        ({"segments": ()}, "pairs of joints"),
    ):
        with pytest.raises(ConfigError, match=told):
            EncoderConfig(**{"in_channels": 4, "joints": 3, "segments": ((0, 1),), **wrong})


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
