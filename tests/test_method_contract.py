"""What every registered method promises to the training loop, alone and with a LoRA beside it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import FAMILIES, backbone_of
from small import exemplars_in, learn, small_space
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.configs import METHODS, LearnConfig, TextualInversionConfig, TwinActConfig
from twinact.data.exemplars import Exemplars
from twinact.methods import Batch, Method, make_method
from twinact.methods.batches import draw_batch
from twinact.readers import LatentActionEncoder
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.storage import tensor_hash
from twinact.training.loop import encode_exemplars, train

CONFIGS = [
    LearnConfig(name="leap", method=method(), steps=2, batch_size=4, lora_rank=rank, start="jumping", seed=3)
    for method in METHODS.values()
    # A LoRA is learned by the same few lines beside any method; two are enough.
    for rank in ((0, 2) if method in (TwinActConfig, TextualInversionConfig) else (0,))
]
# Pictures of the class take most of the time of those that draw them.
CONFIGS = [
    replace(one, method=replace(one.method, prior_pictures=2)) if hasattr(one.method, "prior_pictures") else one
    for one in CONFIGS
]


@pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.method.name}-lora{config.lora_rank}")
def config(request: pytest.FixtureRequest) -> LearnConfig:
    return request.param


def made(config: LearnConfig, backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder) -> Method:
    """A method that is given what its registry entry says that it takes, and no more."""
    return make_method(config, backbone, space if config.method.takes_space else None, encoder)


@pytest.fixture
def method(
    config: LearnConfig, backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder
) -> Iterator[Method]:
    method = made(config, backbone, space, encoder)
    yield method
    method.detach(backbone)


@pytest.fixture(scope="module")
def batches(backbone: Backbone, exemplars: Exemplars) -> list[Batch]:
    """Those of a whole run."""
    latents = encode_exemplars(backbone, exemplars)
    return [draw_batch(backbone, latents, exemplars.captions, CONFIGS[0], step) for step in range(CONFIGS[0].steps)]


@pytest.fixture(scope="module")
def batch(batches: list[Batch]) -> Batch:
    return batches[0]


def weights(backbone: Backbone) -> str:
    return tensor_hash(backbone.denoiser.state_dict())


def test_the_loss_reaches_everything_that_learns(method: Method, backbone: Backbone, batches: list[Batch]) -> None:
    groups = method.attach(backbone)
    for batch in batches:  # what learns in a later part of the run is not reached before
        terms = method.loss(backbone, batch, torch.Generator().manual_seed(0))
        assert all(term.shape == () and bool(term.isfinite()) for term in terms.values())
        terms["loss"].backward()
    learned = [parameter for group in groups for parameter in group["params"]]
    assert learned and all(group["lr"] > 0 for group in groups)
    assert all(parameter.dtype == torch.float32 and parameter.grad is not None for parameter in learned)
    assert all(not parameter.requires_grad for parameter in backbone.pipeline().text_encoder.parameters())


@pytest.mark.slow
def test_detaching_leaves_the_model_as_it_was(method: Method, backbone: Backbone, batch: Batch) -> None:
    before = weights(backbone)
    method.attach(backbone)
    method.loss(backbone, batch, torch.Generator())["loss"].backward()
    method.detach(backbone)
    assert weights(backbone) == before


@pytest.mark.slow
def test_the_state_is_all_that_is_learned(
    config: LearnConfig, method: Method, backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder
) -> None:
    for group in method.attach(backbone):
        for parameter in group["params"]:
            parameter.data += 0.1
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    action = method.action("leap", {"seed": 1})
    method.detach(backbone)
    again = made(config, backbone, space, encoder)
    again.attach(backbone)
    try:
        again.load_state_dict(state)
        other = again.action("leap", {"seed": 1})
    finally:
        again.detach(backbone)
    assert all(map(torch.equal, other.vectors, action.vectors)) and other.meta == action.meta
    assert other.lora.keys() == action.lora.keys() and (bool(action.lora) or not config.lora_rank)
    assert all(torch.equal(other.lora[key], action.lora[key]) for key in action.lora)


def test_the_identity_is_json_and_the_same_for_equal_methods(
    config: LearnConfig, method: Method, backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder
) -> None:
    again = made(config, backbone, space, encoder)
    assert method.name == again.name == config.method.name
    identities = []
    for one in (method, again):
        one.attach(backbone)
        identities.append(json.loads(json.dumps(one.identity())))
        one.detach(backbone)
    assert identities[0] == identities[1]


@pytest.mark.slow
def test_what_it_spends_is_counted_in_all_calls_together(
    config: LearnConfig,
    backbone: Backbone,
    space: ActionSpace,
    encoder: LatentActionEncoder,
    exemplars: Exemplars,
    tmp_path: Path,
) -> None:
    stopped = replace(config, steps=3)

    def stop(record: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made(config, backbone, space, encoder), backbone, exemplars, stopped, tmp_path, stop)
    cost = train(made(config, backbone, space, encoder), backbone, exemplars, stopped, tmp_path).cost
    assert (cost.steps, cost.search) == (3, 0)
    assert cost.forward >= cost.backward and cost.forward >= 3 * config.batch_size
    assert (cost.backward >= 3 * config.batch_size) == (config.method.name != "gradient-free")
    assert train(made(config, backbone, space, encoder), backbone, exemplars, stopped, tmp_path).cost == cost


@pytest.mark.slow
def test_a_job_adds_the_search_for_the_start(
    config: LearnConfig, backbone: Backbone, space: ActionSpace, tmp_path: Path
) -> None:
    exemplars_in(tmp_path / "pictures")
    run = tmp_path / "run"
    cost = learn(tmp_path / "pictures", replace(config, start=None), run, backbone=backbone, space=space).cost
    # Every phrase with two pictures, then all of these few phrases with three noises of each of three pictures.
    assert cost.search == (len(space.phrases) * (2 + 3 * 3) if config.method.seeks_start else 0)
    assert cost.steps == config.steps


@pytest.mark.slow  # all methods on all families
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_learns_and_draws_on_every_family(family: str) -> None:
    backbone = backbone_of(family)
    latents = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    captions = (f"a robot {PLACEHOLDER} in the park",) * 3
    for config in [replace(one, batch_size=2) for one in CONFIGS if one.lora_rank == 0]:
        if config.method.name in ("custom-diffusion", "tara", "xti", "neti") and not backbone.cross_attention:
            continue
        method = make_method(config, backbone, small_space(backbone) if config.method.takes_space else None)
        method.attach(backbone)
        try:
            for step in range(config.steps):
                batch = draw_batch(backbone, latents, captions, config, step)
                method.loss(backbone, batch, torch.Generator().manual_seed(0))["loss"].backward()
            action = method.action("leap", {})
        finally:
            method.detach(backbone)
        generate(backbone, [f"a {PLACEHOLDER}"], {PLACEHOLDER: action.vectors}, loras=[action.lora], seeds=[0], steps=1)
