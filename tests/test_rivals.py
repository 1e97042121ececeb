"""What is particular to each rival; what all methods promise is in test_method_contract.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from families import BASES, FAMILIES, backbone_of, pixels
from tiny import tiny_flux
from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.cross_attention import TIMES
from twinact.backbones.flux import Flux
from twinact.backbones.token_lora import TokenLora
from twinact.configs import METHODS, LearnConfig
from twinact.data.exemplars import Exemplars
from twinact.errors import ConfigError
from twinact.export import export_embedding, export_lora
from twinact.lora import UP
from twinact.methods import Batch, make_method
from twinact.methods.adi import action_numbers
from twinact.methods.batches import draw_batch
from twinact.methods.layers import LearnedLayers
from twinact.methods.reversion import content_words, steering_loss, verbs
from twinact.methods.text_outputs import text_outputs
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.training.loop import encode_exemplars, train


def config_of(name: str, steps: int = 2, rate: float | None = None, **own: Any) -> LearnConfig:
    return LearnConfig(
        name="leap", method=METHODS[name](**own), steps=steps, batch_size=2, learning_rate=rate, schedule="constant"
    )


@contextmanager
def attached(config: LearnConfig, backbone: Backbone, space: ActionSpace | None = None) -> Iterator[Any]:
    method = make_method(config, backbone, space if config.method.takes_space else None)
    method.attach(backbone)
    try:
        yield method
    finally:
        method.detach(backbone)


def passes_of(method: Any, backbone: Backbone, batch: Batch) -> tuple[int, int, dict[str, Tensor]]:
    """Pictures that the denoiser sees in a step, those through which gradients flow, and the step's terms."""
    before = replace(backbone.passes)
    terms = method.loss(backbone, batch, torch.Generator().manual_seed(0))
    return backbone.passes.forward - before.forward, backbone.passes.backward - before.backward, terms


@pytest.fixture(scope="module")
def batch(backbone: Backbone, exemplars: Exemplars) -> Batch:
    return draw_batch(backbone, encode_exemplars(backbone, exemplars), exemplars.captions, config_of("core"), 0)


def test_a_lora_beside_a_method_that_takes_none_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="lora_rank 2 cannot be learned beside method 'dreambooth'"):
        make_method(replace(config_of("dreambooth"), lora_rank=2), backbone)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_outputs_are_had_of_every_encoder(family: str) -> None:
    backbone = backbone_of(family)
    found = text_outputs(backbone, ["a robot in the park"])
    tables = backbone.token_tables()
    assert [output.hidden.shape[2] for output in found] == [table.width for table in tables]


def test_text_outputs_tell_words_from_vectors_and_padding(backbone: Backbone) -> None:
    (table,) = backbone.token_tables()
    (output,) = text_outputs(backbone, [f"a robot {PLACEHOLDER} in the park"], {PLACEHOLDER: [torch.zeros(2, 32)]})
    assert output.learned[0].nonzero().flatten().tolist() == [3, 4]  # after begin, "a" and "robot"
    assert int(output.words.sum()) == len(table.ids("a robot in the park")) + 2


@pytest.mark.slow
def test_core_holds_the_words_around_the_action(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    def context(weight: float) -> float:
        config = config_of("core", steps=6, rate=0.05, context_weight=weight)
        method = make_method(config, backbone)
        return train(method, backbone, exemplars, config, tmp_path / f"{weight:g}").terms["context"]

    assert context(1e3) < 0.5 * context(0.0)


def test_core_begins_at_the_known_word(backbone: Backbone, batch: Batch) -> None:
    with attached(config_of("core"), backbone) as method:
        terms = method.loss(backbone, batch, torch.Generator())
        assert float(terms["context"].detach()) == 0.0


def test_directions_learn_and_lengths_stay(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    config = replace(config_of("dti", steps=1, rate=0.2), start="robot")
    (table,) = backbone.token_tables()
    method: Any = make_method(config, backbone)
    action = train(method, backbone, exemplars, config, tmp_path).action
    torch.testing.assert_close(action.vectors[0].norm(dim=1), table.weight.norm(dim=1).mean().expand(3))
    cosines = F.cosine_similarity(action.vectors[0], table.embed("robot"))
    torch.testing.assert_close(cosines, torch.tensor(0.2).atan().cos().expand(3))


def test_the_prior_of_directions_draws_them_to_the_start(backbone: Backbone, batch: Batch) -> None:
    with attached(config_of("dti", concentration=10.0), backbone) as method:
        terms = method.loss(backbone, batch, torch.Generator())
        assert float(terms["pull"].detach()) == pytest.approx(3.0, rel=1e-5)  # a cosine of 1 for each slot
        assert float((terms["loss"] - terms["denoising"]).detach()) == pytest.approx(-30.0, rel=1e-4)


@pytest.mark.slow
def test_residual_vectors_take_what_is_one_exemplars_own(
    backbone: Backbone, exemplars: Exemplars, batch: Batch, tmp_path: Path
) -> None:
    config = config_of("conceptprism", steps=3, residual_slots=2)
    with attached(config, backbone) as method:
        forward, backward, terms = passes_of(method, backbone, batch)
        assert (forward, backward) == (6, 4)  # with caption; another one with the residual alone, and with nothing
        assert float(terms["exclusion"].detach()) > 0
        alone = replace(batch, partners=batch.latents)
        assert float(method.loss(backbone, alone, torch.Generator())["exclusion"].detach()) == 0
        start = method.residuals[0].detach().clone()
        train(method, backbone, exemplars, config, tmp_path)
        moved = (method.residuals[0].detach() != start).flatten(1).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [0, 1, 2]  # as many as there are exemplars
    many = torch.tensor([64, 1])
    with attached(config, backbone) as method, pytest.raises(ConfigError, match="at most 64 exemplars"):
        method.loss(backbone, replace(batch, numbers=many), torch.Generator())


def test_cross_initialization_begins_at_the_output_of_the_text_encoder(backbone: Backbone, batch: Batch) -> None:
    with attached(replace(config_of("cross-initialization"), start="robot", slots=1), backbone) as method:
        (output,) = text_outputs(backbone, ["robot"])
        torch.testing.assert_close(method.vectors[0].detach(), output.hidden[0, 1:2])
        method.vectors[0].data += 0.5
        terms = method.loss(backbone, batch, torch.Generator())
        assert float(terms["distance"].detach()) == pytest.approx(32 * 0.25, rel=1e-4)


def test_steering_is_towards_verbs_and_away_from_the_other_words(backbone: Backbone, batch: Batch) -> None:
    assert content_words(f"A woman in a red dress {PLACEHOLDER} on the moon.") == ["woman", "red", "dress", "moon"]
    assert {"jumping", "looking"} <= set(verbs()) and all(word.endswith("ing") for word in verbs())
    anchor = torch.tensor([[1.0, 0.0]], requires_grad=True)
    verb, noun = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    loss = steering_loss(anchor, verb, noun, 0.07)
    assert float(loss.detach()) == pytest.approx(torch.tensor(2.0).log().item())  # as far from one as from the other
    loss.backward()
    assert anchor.grad is not None and float((-anchor.grad @ verb.T).detach()) > 0 > float(
        (-anchor.grad @ noun.T).detach()
    )
    assert float(steering_loss(anchor.detach(), verb, noun[:0], 0.07)) == 0
    with attached(config_of("reversion", steering_weight=2.0), backbone) as method:
        told = replace(batch, captions=(f"a robot {PLACEHOLDER}",) * 2)
        terms = method.loss(backbone, told, torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms["loss"], terms["denoising"] + 2 * terms["steering"])
    assert float(terms["steering"].detach()) > 0


def test_celeb_basis_stays_on_its_sphere(
    backbone: Backbone, space: ActionSpace, exemplars: Exemplars, tmp_path: Path
) -> None:
    config = config_of("celeb-basis", steps=2, rank=2)
    action = train(make_method(config, backbone, space), backbone, exemplars, config, tmp_path).action
    assert action.coefficients is not None and bool((action.coefficients[0, :, 2:] == 0).all())
    torch.testing.assert_close((action.coefficients[0] * space.sigma).norm(dim=1), space.variance.sqrt())
    with attached(config, backbone, space) as one, attached(replace(config, seed=5), backbone, space) as other:
        assert not torch.equal(one.coefficients, other.coefficients)


@pytest.mark.slow
def test_the_gradient_is_found_without_one(backbone: Backbone, space: ActionSpace, batch: Batch) -> None:
    own = {"components": 2, "pairs": 12, "spread": 0.05}
    with attached(replace(config_of("gradient-free", **own), start="jumping"), backbone, space) as method:
        forward, backward, terms = passes_of(method, backbone, batch)
        assert (forward, backward) == (2 * 12 * 2, 0)
        terms["loss"].backward()
        found = method.leading.grad[method._mask]
        method.leading.grad = None
        method._denoising(backbone, batch, method.leading).backward()
        assert float(F.cosine_similarity(found.flatten(), method.leading.grad[method._mask].flatten(), dim=0)) > 0.8


def test_a_layer_of_full_rank_is_the_layer_with_other_weights(backbone: Backbone, batch: Batch) -> None:
    def predict() -> Tensor:
        return backbone.predict(batch.latents, batch.t, backbone.encode_text(["a robot", "a cat"])).detach()

    layers = LearnedLayers(None, 0, ("attn2.to_k", "to_out.0"))
    before = predict()
    layers.attach(backbone)
    assert torch.equal(predict(), before)
    generator, changes = torch.Generator().manual_seed(0), {}
    for key, factor in layers.learned.items():
        factor.data = 0.1 * torch.randn(factor.shape, generator=generator)
        changes[key.rpartition(".lora_")[0].removeprefix("unet.")] = factor.data
    with_layers = predict()
    layers.detach(backbone)
    for name, change in changes.items():
        backbone.denoiser.get_submodule(name).weight.data += change
    with_weights = predict()
    for name, change in changes.items():
        backbone.denoiser.get_submodule(name).weight.data -= change
    torch.testing.assert_close(with_layers, with_weights, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(with_layers, before, atol=1e-3)


@pytest.mark.slow
def test_dreambooth_draws_its_class_once_and_counts_it(backbone: Backbone, batch: Batch) -> None:
    with attached(config_of("dreambooth", prior_pictures=2, identifier="cat", layer_rank=1), backbone) as method:
        first, second = (passes_of(method, backbone, batch) for _ in range(2))
        assert (second[0], second[1]) == (4, 4)  # exemplars, and as many pictures of the class
        # Two pictures in 25 steps of the sampler, each with and without the prompt.
        assert first[0] - second[0] == 2 * 25 * 2
        assert all("posing" in prompt and PLACEHOLDER not in prompt for prompt in method.prior.prompts)
        action = method.action("leap", {})
    (table,) = backbone.token_tables()
    assert torch.equal(action.vectors[0], table.embed("cat posing"))
    with attached(config_of("dreambooth", preservation_weight=0.0), backbone) as method:
        assert passes_of(method, backbone, batch)[:2] == (2, 2)


def test_custom_diffusion_learns_what_reads_the_text(backbone: Backbone, batch: Batch) -> None:
    with attached(replace(config_of("custom-diffusion", prior_pictures=1), start="robot"), backbone) as method:
        action = method.action("leap", {})
        layers = {key.rpartition(".lora_")[0].rpartition("attn")[2] for key in action.lora}
    (table,) = backbone.token_tables()
    assert layers == {"2.to_k", "2.to_v"}
    assert torch.equal(action.vectors[0][1:], table.embed("robot"))
    with pytest.raises(ConfigError, match="learns the cross-attention of a UNet and model 'flux@1' has none"):
        make_method(config_of("custom-diffusion"), Flux(tiny_flux(), "flux@1")).attach(Flux(tiny_flux(), "flux@1"))


@pytest.mark.slow
def test_pivotal_tuning_leaves_the_layers_alone_at_first(
    backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    def ups(steps: int) -> list[Tensor]:
        whole = config_of("pivotal-tuning", steps=steps, rate=0.01, inversion_share=0.75)
        action = train(make_method(whole, backbone), backbone, exemplars, whole, tmp_path / str(steps)).action
        return [weight for key, weight in action.lora.items() if key.endswith(UP)]

    assert all(not bool(weight.any()) for weight in ups(3))  # the last of three steps begins at 0.67 of the run
    assert any(bool(weight.any()) for weight in ups(4))


def test_adi_moves_only_numbers_whose_gradients_are_the_actions(backbone: Backbone, batch: Batch) -> None:
    own = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])
    partner, changed = torch.tensor([[[1.0, 1.0, 3.0, 3.0]]]), torch.tensor([[[3.0, 1.0, 3.0, 1.0]]])
    assert action_numbers(own, partner, changed, 0.5).tolist() == [[[True, False, False, False]]]
    with attached(config_of("adi", kept_share=0.5), backbone) as method:
        forward, backward, terms = passes_of(method, backbone, batch)
        assert (forward, backward) == (8, 6)
        terms["loss"].backward()
        gradient = method.vectors[0].grad
        method.vectors[0].grad = None
        plain = make_method(config_of("textual-inversion"), backbone)
        plain.attach(backbone)
        whole = plain.loss(backbone, batch, torch.Generator())
        whole["loss"].backward()
        moved = gradient != 0
        assert 0.1 < float(moved.float().mean()) < 0.9
        assert float(terms["denoising"].detach()) == pytest.approx(float(whole["denoising"].detach()), rel=1e-4)


def test_published_twinact_adds_to_a_frozen_word(backbone: Backbone, space: ActionSpace) -> None:
    with attached(config_of("twinact-published", components=2), backbone, space) as method:
        (word,), (vectors,) = method._words, method.current()
        added = (vectors - word).detach()
        along = torch.einsum("sw,skw->sk", added, space.basis[:, :2])
        torch.testing.assert_close(torch.einsum("sk,skw->sw", along, space.basis[:, :2]), added, atol=1e-5, rtol=1e-4)
        assert len(method.networks) == 3 and float(added.norm(dim=1).min()) > 0


def test_a_vector_of_a_layer_learns_what_that_layer_needs(backbone: Backbone, batch: Batch) -> None:
    with attached(replace(config_of("xti"), start="jumping"), backbone) as method:
        layers = len(backbone.cross_attention)
        assert method.vectors[0].shape == (layers, 3, 32)
        method.loss(backbone, batch, torch.Generator())["loss"].backward()
        own = method.vectors[0].grad
        with attached(replace(config_of("textual-inversion"), start="jumping"), backbone) as plain:
            plain.loss(backbone, batch, torch.Generator())["loss"].backward()
            # All layers begin alike, so what they want together is what one vector for all would.
            torch.testing.assert_close(own.sum(dim=0), plain.vectors[0].grad, rtol=1e-3, atol=1e-6)
    assert bool(own.flatten(1).any(dim=1).all()) and not torch.allclose(own[0], own[1])


@pytest.mark.slow
def test_the_network_of_neti_tells_times_and_layers_apart(backbone: Backbone, batch: Batch, space: ActionSpace) -> None:
    config = replace(config_of("neti", dropout=0.0), start="jumping")
    with attached(config, backbone) as method:
        (table,) = method.action("leap", {}).vectors
        terms = method.loss(backbone, batch, torch.Generator())
        drawn_with = backbone.noising.add(batch.latents, batch.noise, batch.t)
        cond = backbone.encode_text(list(batch.captions), {PLACEHOLDER: [table]})
        prediction = backbone.predict(drawn_with.x_t, drawn_with.t, cond)
    (tokens,) = backbone.token_tables()
    assert table.shape == (TIMES, len(backbone.cross_attention), 3, 32)
    torch.testing.assert_close(table.norm(dim=3), tokens.embed("jumping").norm(dim=1).expand(table.shape[:3]))
    flat = table.flatten(2).flatten(0, 1)
    assert float(F.cosine_similarity(flat[:, None], flat, dim=2).fill_diagonal_(0).max()) < 0.9999
    # The action draws with what was learned: the table says at every time what the network says.
    errors = drawn_with.weight * (prediction - drawn_with.target).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(errors.mean(), terms["loss"], rtol=1e-4, atol=1e-5)


def test_nested_dropout_keeps_the_first_numbers(backbone: Backbone) -> None:
    with attached(config_of("neti", dropout=1.0), backbone) as method:
        kept = method._kept(4, torch.Generator().manual_seed(0))
        assert bool((kept[..., :-1] >= kept[..., 1:]).all()) and 0.2 < float(kept.float().mean()) < 0.8
        method.settings = replace(method.settings, dropout=0.0)
        assert bool(method._kept(4, torch.Generator()).all())


@pytest.mark.slow
def test_tara_masks_its_lora_and_holds_the_keys(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    def learned(weight: float) -> tuple[Any, float]:
        config = config_of("tara", steps=8, rate=0.02, identifier="cat", alignment_weight=weight)
        method = make_method(replace(config, start="dancing"), backbone)
        result = train(method, backbone, exemplars, config, tmp_path / f"{weight:g}")
        return result.action, result.terms["alignment"]

    action, free = learned(0.0)
    (table,) = backbone.token_tables()
    assert torch.equal(action.vectors[0], table.embed("cat dancing"))
    assert isinstance(action.lora, TokenLora) and any("attn1.to_q" in key for key in action.lora)
    assert learned(10.0)[1] < 0.8 * free


@pytest.mark.parametrize("name", ["tara", "xti", "neti", "custom-diffusion"])
@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_what_needs_cross_attention_names_the_models_that_have_none(name: str, family: str) -> None:
    backbone = backbone_of(family)
    told = f"method '{name}' learns the cross-attention of a UNet and model '{family}@0' has none: its text and picture"
    with pytest.raises(ConfigError, match=told):
        make_method(config_of(name), backbone).attach(backbone)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("family", ["sd", "sd2", "sdxl"])
@pytest.mark.parametrize("name", ["tara", "xti", "neti"])
def test_what_layers_and_tokens_learned_is_saved_and_drawn(name: str, family: str, tmp_path: Path) -> None:
    backbone = backbone_of(family)
    latents = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    captions = (f"a robot {PLACEHOLDER} in the park",) * 3
    config = replace(config_of(name), start="jumping")
    with attached(config, backbone) as method:
        batch = draw_batch(backbone, latents, captions, config, 0)
        method.loss(backbone, batch, torch.Generator().manual_seed(0))["loss"].backward()
        with torch.no_grad():
            for group in method.attach(backbone):
                for number, parameter in enumerate(group["params"]):
                    parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        action = method.action("leap", {})
    loaded = Action.load(action.save(tmp_path / "leap.action.safetensors"))
    assert type(loaded.lora) is type(action.lora) and loaded.by_layer == (name != "tara")
    drawn = [
        pixels(
            generate(
                backbone, [f"a cat {PLACEHOLDER}"], {PLACEHOLDER: one.vectors}, loras=[one.lora], seeds=[0], steps=2
            )
        )
        for one in (action, loaded)
    ]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("name", ["tara", "xti", "neti"])
def test_other_tools_cannot_take_what_layers_and_tokens_learned(name: str, backbone: Backbone, tmp_path: Path) -> None:
    with attached(replace(config_of(name), start="jumping"), backbone) as method:
        action = method.action("leap", {})
    write = export_lora if name == "tara" else export_embedding
    told = {"tara": "other tools let a LoRA act everywhere"}.get(name, "other tools read one text for all")
    with pytest.raises(ConfigError, match=told):
        write(action, BASES["sd"], tmp_path)
    assert not list(tmp_path.iterdir())
