"""The methods: their terms, their starting points, and what does not fit together."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tiny import tiny_flux
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.flux import Flux
from twinact.configs import LearnConfig, TextualInversionConfig, TwinActConfig
from twinact.data.exemplars import Exemplars
from twinact.errors import ConfigError
from twinact.intent import PoseTarget
from twinact.intent.intended_pose import CLOSE
from twinact.methods import Batch, make_method
from twinact.methods.batches import draw_batch
from twinact.methods.losses import denoising_loss
from twinact.methods.method import denoise
from twinact.methods.textual_inversion import TextualInversion
from twinact.methods.twinact import Start, TwinAct
from twinact.readers import LatentActionEncoder
from twinact.space import ActionSpace
from twinact.training.loop import encode_exemplars, train

TWINACT = LearnConfig(name="leap", steps=6, batch_size=4, seed=3)
INVERSION = replace(TWINACT, method=TextualInversionConfig())


def _batch(backbone: Backbone, exemplars: Exemplars) -> Batch:
    return draw_batch(backbone, encode_exemplars(backbone, exemplars), exemplars.captions, TWINACT, 0)


def test_twinact_adds_its_terms_with_their_weights(
    backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder, exemplars: Exemplars
) -> None:
    start = Start(torch.full((1, space.slots, space.rank), 0.5), torch.ones(1, space.slots, dtype=torch.bool))
    settings = TwinActConfig(similarity_weight=2.0, prior_weight=0.25).settled(False)
    method = TwinAct(space, encoder, None, settings, learning_rate=0.1, start=start)
    method.attach(backbone)
    batch = _batch(backbone, exemplars)
    terms = method.loss(backbone, batch, torch.Generator())
    torch.testing.assert_close(terms["prior"].detach(), torch.tensor(0.25))
    wanted = terms["denoising"] + 2.0 * terms["similarity"] + 0.25 * terms["prior"]
    torch.testing.assert_close(terms["loss"], wanted)
    # The similarity alone must teach the coefficients, through estimate, denoiser and text encoder.
    terms["similarity"].backward()
    assert float(method.leading.grad.abs().max()) > 0  # type: ignore[union-attr]
    # It compares with partners, not with the picture itself.
    itself = replace(batch, partners=batch.latents)
    assert not torch.equal(method.loss(backbone, itself, torch.Generator())["similarity"], terms["similarity"])


@pytest.mark.parametrize("config", [TWINACT, INVERSION, replace(INVERSION, lora_rank=2)], ids=["twinact", "ti", "lora"])
def test_every_method_denoises_where_the_mask_counts(
    config: LearnConfig, backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder, exemplars: Exemplars
) -> None:
    method = make_method(config, backbone, space, encoder)
    method.attach(backbone)
    try:
        batch = _batch(backbone, exemplars)
        mask = torch.zeros(len(batch.t), 1, *batch.latents.shape[2:])
        mask[..., :2] = 1.0

        def denoising(mask: Tensor | None) -> float:
            return float(method.loss(backbone, replace(batch, mask=mask), torch.Generator())["denoising"].detach())

        with torch.no_grad():
            drawn = denoise(backbone, batch, list(method.action("leap", {}).vectors))
        errors = (drawn.prediction - drawn.noised.target).square()[..., :2].mean(dim=(1, 2, 3))
        assert denoising(mask) == pytest.approx(float((drawn.noised.weight * errors).mean()), rel=1e-4)
        assert denoising(mask) != pytest.approx(denoising(None), rel=1e-3)
        assert denoising(torch.ones_like(mask)) == pytest.approx(denoising(None), rel=1e-5)
    finally:
        method.detach(backbone)


def test_what_lies_outside_the_mask_changes_no_loss_and_gets_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    target, prediction = torch.randn(2, 3, 4, 5, 4, generator=generator)
    mask = torch.zeros(3, 1, 5, 4)
    mask[0, :, 1:3], mask[1, :, :, 2], mask[2] = 1.0, 0.5, 1.0
    prediction.requires_grad_(True)
    loss = denoising_loss(prediction, target, torch.ones(3), mask)
    loss.backward()
    assert prediction.grad is not None
    assert bool(((prediction.grad != 0) == (mask.expand_as(prediction) > 0)).all())
    other = torch.where(mask > 0, prediction.detach(), torch.full_like(prediction, 1e3))
    assert torch.equal(denoising_loss(other, target, torch.ones(3), mask), loss.detach())


def test_rank_learns_only_leading_components(
    backbone: Backbone, space: ActionSpace, exemplars: Exemplars, tmp_path: Path
) -> None:
    config = replace(TWINACT, method=TwinActConfig(rank=2, similarity_weight=0.0), start="jumping on the moon")
    action = train(make_method(config, backbone, space, None), backbone, exemplars, config, tmp_path).action
    assert action.coefficients is not None and action.space_hash == space.hash
    phrase = space.project_phrase("jumping on the moon")[0]
    assert torch.equal(action.coefficients[0, :, 2:], phrase[:, 2:])
    assert not torch.equal(action.coefficients[0, :, :2], phrase[:, :2])


class Meant:
    """An intent that anybody can follow: where the mean of the conditioning points."""

    segments = ((0, 1), (1, 2))
    steps = 1

    def read(self, backbone: Backbone, cond: TextCond, noise: Tensor) -> Tensor:
        return F.normalize(cond.hidden.mean(dim=1)[:, :4].unflatten(1, (2, 2)), dim=2)


@pytest.mark.slow
def test_the_pose_alone_is_learned_from_and_the_exemplars_are_not_seen(
    backbone: Backbone, space: ActionSpace, exemplars: Exemplars, tmp_path: Path
) -> None:
    target = PoseTarget(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.0]), Meant())
    config = replace(TWINACT, start="jumping; sitting down", steps=30, learning_rate=0.2)
    method = make_method(config, backbone, space, None, target)
    before, action = backbone.passes.forward, train(method, backbone, exemplars, config, tmp_path).action
    assert backbone.passes.forward == before  # this intent asks no denoiser, and nothing else does
    assert action.coefficients is not None and len(action.coefficients) == 2

    def distance(vectors: Sequence[Tensor]) -> float:
        cond = backbone.encode_text([f"a robot {PLACEHOLDER} on the moon"], {PLACEHOLDER: vectors})
        return float(target.distance(target.chords(backbone, cond, torch.zeros(1, 4, 4, 4))))

    start = Start.of(config.start, space, backbone.token_tables())
    assert distance(action.vectors) < 0.7 * distance(space.vectors(start.coefficients, start.mask))


def test_limbs_within_reading_error_pull_no_more(backbone: Backbone) -> None:
    intent, cond, noise = Meant(), backbone.encode_text(["a robot"]), torch.zeros(1, 4, 4, 4)
    shown = intent.read(backbone, cond, noise)[0]
    turned = torch.stack([turn(shown[0], 0.9 * CLOSE), turn(shown[1], 0.5)])  # radians, about chords
    for weights, pulls in (([1.0, 0.0], False), ([1.0, 1.0], True)):
        target = PoseTarget(turned, torch.tensor(weights), intent)
        chords = target.chords(backbone, cond, noise).detach().requires_grad_(True)
        target.excess(chords).sum().backward()
        assert chords.grad is not None and (float(chords.grad.abs().max()) > 0) == pulls
        assert float(chords.grad[0, 0]) == 0.0 and float(target.distance(chords.detach())) > 0.1


def turn(vector: Tensor, radians: float) -> Tensor:
    sine, cosine = math.sin(radians), math.cos(radians)
    return torch.stack([cosine * vector[0] - sine * vector[1], sine * vector[0] + cosine * vector[1]])


def test_textual_inversion_starts_from_a_word(backbone: Backbone) -> None:
    (table,) = backbone.token_tables()

    def start(word: str | None) -> Tensor:
        method = TextualInversion(2, 1e-3, word)
        method.attach(backbone)
        return method.vectors[0].detach()

    assert torch.equal(start("robot"), table.embed("robot").repeat(2, 1))
    assert torch.equal(start("red robot"), table.embed("red robot"))
    words = table.embed("a red robot")
    torch.testing.assert_close(start("a red robot"), torch.stack([words[:2].mean(0), words[2]]))
    # The tiny vocabulary spells "posing" in letters.
    assert len(table.ids("posing")) > 1
    torch.testing.assert_close(start(None), table.weight.mean(0).repeat(2, 1))


@pytest.mark.slow
def test_textual_inversion_moves_every_encoder_by_the_same_share_of_its_table(
    backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    assert [group["lr"] for group in TextualInversion(3, 0.02).attach(backbone)] == [0.02]
    pipeline = tiny_flux()
    pipeline.text_encoder_2.shared.weight.data.mul_(100)
    flux = Flux(pipeline, "flux@1")
    method = TextualInversion(3, 0.02)
    method.attach(flux)
    tables, start = flux.token_tables(), [vectors.detach().clone() for vectors in method.vectors]
    action = train(method, flux, exemplars, replace(INVERSION, steps=3), tmp_path).action
    clip, t5 = (
        float((end - begin).norm() / begin.numel() ** 0.5 / table.weight.square().mean().sqrt())
        for table, begin, end in zip(tables, start, action.vectors, strict=True)
    )
    assert t5 == pytest.approx(clip, rel=0.5)


def test_parts_that_do_not_fit_are_refused(
    backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder, exemplars: Exemplars, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="set similarity_weight to 0"):
        make_method(replace(TWINACT, method=TwinActConfig(similarity_weight=0.1)), backbone, space, None)
    with pytest.raises(ConfigError, match="needs an action space"):
        make_method(TWINACT, backbone, None, encoder)
    with pytest.raises(ConfigError, match="slots 2 differs from the 3"):
        make_method(replace(TWINACT, slots=2), backbone, space, encoder)
    with pytest.raises(ConfigError, match=f"rank 99 is more than the {space.rank}"):
        make_method(replace(TWINACT, method=TwinActConfig(rank=99)), backbone, space, encoder)
    with pytest.raises(ConfigError, match="build a space for it"):
        make_method(TWINACT, backbone, replace(space, model_id="other@1"), encoder).attach(backbone)
    make_method(TWINACT, backbone, replace(space, model_id="renamed@0"), encoder).attach(backbone)
    with pytest.raises(ConfigError, match="pose_weight 1 needs exemplars whose pose is read"):
        make_method(replace(TWINACT, method=TwinActConfig(pose_weight=1.0)), backbone, space, encoder)
    with pytest.raises(ConfigError, match="are all 0; set one above 0"):
        make_method(replace(TWINACT, method=TwinActConfig(denoising_weight=0.0)), backbone, space, encoder)
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="method 'twinact' and a 'textual-inversion' was given"):
        train(TextualInversion(3, 5e-3), backbone, exemplars, TWINACT, run)
    with pytest.raises(ConfigError, match="load them with size=32"):
        train(TextualInversion(3, 5e-3), backbone, replace(exemplars, size=64), INVERSION, run)
    assert not run.exists()
