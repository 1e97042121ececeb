"""LoRA on every family: learning beside any method, drawing with one or several, and leaving the model as it was."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from families import CORE, FAMILIES, backbone_of, modules, pixels, vectors_of
from small import exemplars_in, small_space
from twinact import PLACEHOLDER, lora
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import METHODS, LearnConfig, RunConfig, TextualInversionConfig
from twinact.data.exemplars import Exemplars
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.methods import Batch, Method, WithLora, make_method
from twinact.sample import generate
from twinact.storage import read_safetensors, tensor_hash
from twinact.training.loop import StepRecord, encode_exemplars, train

PROMPTS = [f"a robot {PLACEHOLDER} in a park", f"a cat {PLACEHOLDER}"]
BASE = LearnConfig(
    name="leap", method=TextualInversionConfig(), steps=6, batch_size=4, lora_rank=4,
    lora_learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Exemplars:
    return exemplars_in(tmp_path_factory.mktemp("exemplars"), 2)


def method_of(backbone: Backbone, config: LearnConfig) -> Method:
    space = small_space(backbone) if config.method.takes_space else None
    return make_method(config, backbone, space)


def state_of(backbone: Backbone) -> tuple[str, list[tuple[str, type, bool]]]:
    """Weights, and what the networks are built of."""
    parts = modules(backbone.pipeline()).items()
    weights = tensor_hash({f"{part}.{name}": w for part, module in parts for name, w in module.state_dict().items()})
    built = [(f"{part}.{name}", type(m), m.training) for part, module in parts for name, m in module.named_modules()]
    return weights, built


def fixed_batch(backbone: Backbone, exemplars: Exemplars) -> Batch:
    latents = encode_exemplars(backbone, exemplars).repeat(4, 1, 1, 1)
    generator = torch.Generator().manual_seed(11)
    noise = torch.randn(latents.shape, generator=generator)
    return Batch(latents, exemplars.captions * 4, latents, noise, backbone.noising.sample_t(len(latents), generator))


def some_lora(backbone: Backbone, seed: int = 1, rank: int = 2) -> dict[str, Tensor]:
    """A LoRA that visibly changes pictures."""
    generator = torch.Generator().manual_seed(seed)
    weights = lora.fresh(backbone, rank, seed)
    return {
        name: torch.randn(weight.shape, generator=generator) if name.endswith(lora.UP) else weight
        for name, weight in weights.items()
    }


@dataclass(frozen=True)
class Learned:
    backbone: Backbone
    config: LearnConfig
    action: Action
    path: Path
    before: tuple[str, list[tuple[str, type, bool]]]


@pytest.fixture(scope="module", params=[*((name, BASE.method.name) for name in CORE), ("sd", "twinact")], ids=" ".join)
def learned(request: pytest.FixtureRequest, exemplars: Exemplars, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    name, kind = request.param
    backbone = backbone_of(name)
    config = replace(BASE, method=METHODS[kind]().settled(False))
    before = state_of(backbone)
    result = train(method_of(backbone, config), backbone, exemplars, config, tmp_path_factory.mktemp("runs") / "run")
    return Learned(backbone, config, result.action, result.action_path, before)


@pytest.mark.slow
def test_loss_falls_by_the_lora_alone(learned: Learned, exemplars: Exemplars) -> None:
    """The token vectors are those of the end in both: what differs is the LoRA."""
    backbone, batch = learned.backbone, fixed_batch(learned.backbone, exemplars)
    method = make_method(replace(BASE, lora_rank=0, start="jumping"), backbone)
    method.attach(backbone)
    method.load_state_dict({f"vectors.{i}": vectors for i, vectors in enumerate(learned.action.vectors)})
    with torch.no_grad():
        without = method.loss(backbone, batch, torch.Generator())["loss"]
        with lora.attached(backbone, [learned.action.lora]):
            assert method.loss(backbone, batch, torch.Generator())["loss"] < without


@pytest.mark.slow_but("sd twinact", "sd3 textual")
def test_every_layer_learned_and_the_model_is_untouched(learned: Learned) -> None:
    assert learned.action.lora.keys() == lora.fresh(learned.backbone, 4, 0).keys()
    idle = [name for name, weight in learned.action.lora.items() if not bool((weight != 0).any())]
    # The last layer of SD3 makes a query of the text and does not use it.
    assert set(idle) <= {f"transformer.transformer_blocks.1.attn.add_q_proj{lora.UP}"}
    assert state_of(learned.backbone) == learned.before
    for module in modules(learned.backbone.pipeline()).values():
        assert not any(p.requires_grad or p.grad is not None for p in module.parameters())


@pytest.mark.slow
def test_saved_action_draws_the_same_pixels(learned: Learned) -> None:
    loaded = Action.load(learned.path)
    drawn = [
        pixels(generate(learned.backbone, PROMPTS, {PLACEHOLDER: a.vectors}, loras=[a.lora], seeds=[1, 2], steps=1))
        for a in (learned.action, loaded)
    ]
    assert np.array_equal(*drawn)
    without = generate(learned.backbone, PROMPTS, {PLACEHOLDER: loaded.vectors}, seeds=[1, 2], steps=1)
    assert (drawn[0] != pixels(without)).any()
    assert state_of(learned.backbone) == learned.before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_resume_equals_uninterrupted_to_the_bit(name: str, exemplars: Exemplars, tmp_path: Path) -> None:
    backbone = backbone_of(name)
    before = state_of(backbone)
    whole = train(method_of(backbone, BASE), backbone, exemplars, BASE, tmp_path / "whole")

    def stop(record: StepRecord) -> None:
        if record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(method_of(backbone, BASE), backbone, exemplars, BASE, tmp_path / "pieces", stop)
    assert state_of(backbone) == before
    torch.rand(3)  # the global generator must not matter
    pieces = train(method_of(backbone, BASE), backbone, exemplars, BASE, tmp_path / "pieces")
    assert pieces.resumed_from == 3
    assert tensor_hash(dict(pieces.action.lora)) == tensor_hash(dict(whole.action.lora))
    last = [read_safetensors(max((tmp_path / run / "checkpoint").iterdir()), "checkpoint")[0] for run in
            ("whole", "pieces")]  # fmt: skip
    assert tensor_hash(last[0]) == tensor_hash(last[1])


def test_it_starts_as_nothing_from_its_seed() -> None:
    backbone = backbone_of("sd")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    vectors = {PLACEHOLDER: vectors_of(backbone, "jumping red dog")}
    plain = pixels(generate(backbone, PROMPTS, vectors, seeds=[1, 2], steps=2))
    first = lora.fresh(backbone, 4, seed=0)
    assert (
        tensor_hash(first)
        == tensor_hash(lora.fresh(backbone, 4, seed=0))
        != tensor_hash(lora.fresh(backbone, 4, seed=1))
    )
    assert np.array_equal(plain, pixels(generate(backbone, PROMPTS, vectors, loras=[first], seeds=[1, 2], steps=2)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_several_at_once_are_their_sum(name: str) -> None:
    """Two of rank 2 are one of rank 4, whose halves they are; half the strength is half the addition."""
    backbone = backbone_of(name)
    before = state_of(backbone)
    one, two = some_lora(backbone, 1), some_lora(backbone, 2)
    both = {k: torch.cat([one[k], two[k]], dim=0 if k.endswith(lora.DOWN) else 1) for k in one}
    # One of them only on some layers.
    part = {k: w for k, w in two.items() if ".0." in k}
    cond, x = backbone.encode_text(["a robot"]), torch.randn(1, *backbone.latent_shape)
    t = backbone.noising.sample_t(1, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def predict(*loras: dict[str, Tensor]) -> Tensor:
        with lora.attached(backbone, loras):
            return backbone.predict(x, t, cond)

    torch.testing.assert_close(predict(one, two), predict(both), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(predict(one, part), predict(one), rtol=1e-4, atol=1e-4)
    half = {k: 0.5 * w if k.endswith(lora.UP) else w for k, w in one.items()}
    assert torch.equal(predict(lora.scaled(one, 0.5)), predict(half))
    assert state_of(backbone) == before


@pytest.mark.slow
def test_a_half_precision_model_learns_in_full_precision(exemplars: Exemplars, tmp_path: Path) -> None:
    backbone = FAMILIES["sd"].backbone(FAMILIES["sd"].make().to(torch.bfloat16), "sd@16")
    method = method_of(backbone, BASE)
    assert isinstance(method, WithLora)
    action = train(method, backbone, exemplars, BASE, tmp_path).action
    assert {weight.dtype for weight in method.layers.weights.values()} == {torch.float32}
    # Steps of Adam far below the spacing of bfloat16 around the start.
    name = next(name for name in action.lora if name.endswith(lora.DOWN))
    assert not torch.equal(action.lora[name], action.lora[name].bfloat16().float())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, on the norms inside FLUX.1
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_low_memory_learns_the_same_bits_in_half_precision(
    name: str, precision: str, exemplars: Exemplars, tmp_path: Path
) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    backbone = FAMILIES[name].backbone(FAMILIES[name].make().to(dtype=dtype), f"{name}@16")
    config = replace(BASE, steps=2)

    def learned(memory: str) -> bytes:
        run = RunConfig(precision=precision, memory=memory)
        result = train(method_of(backbone, config), backbone, exemplars, config, tmp_path / memory, run=run)
        assert any(weight.any() for key, weight in result.action.lora.items() if key.endswith(lora.UP))  # was zero
        return result.action_path.read_bytes()

    assert learned("normal") == learned("low")


def test_what_does_not_fit_is_one_line(exemplars: Exemplars, tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    before, weights = state_of(backbone), some_lora(backbone)
    with pytest.raises(CheckpointError, match=r"'unet.*', which model 'sd@0' does not have: it was made for another"):
        generate(backbone, ["a cat"], loras=[some_lora(backbone_of("sdxl"))], seeds=[0], steps=1)
    wide = {k: torch.zeros(w.shape[0], 99) if k.endswith(lora.DOWN) else w for k, w in weights.items()}
    with pytest.raises(CheckpointError, match=r"maps 99 to 16 numbers and model 'sd@0' needs 16 to 16"):
        lora.check(backbone, wide)
    name = next(iter(weights))
    with pytest.raises(CheckpointError, match="lacks its other half"):
        lora.check(backbone, {name: weights[name]})
    with pytest.raises(CheckpointError, match="does not have"):
        lora.check(backbone, {f"vae.x{lora.DOWN}": torch.zeros(2, 4), f"vae.x{lora.UP}": torch.zeros(4, 2)})
    with lora.attached(backbone, [weights]), pytest.raises(ConfigError, match="attached already"):
        lora.attach(backbone, weights)
    assert state_of(backbone) == before
    with pytest.raises(DataError, match="not finite"):
        Action("leap", [torch.zeros(2, 32)], "sd@0", lora={name: torch.full((2, 2), torch.nan)})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").write_text("x")
    with pytest.raises(DataError, match="not empty"):  # found after the LoRA was attached
        train(method_of(backbone, BASE), backbone, exemplars, BASE, tmp_path / "run")
    assert state_of(backbone) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_convolutions_of_the_finest_resolution_learn_and_nothing_else(
    name: str, exemplars: Exemplars, tmp_path: Path
) -> None:
    backbone, config = backbone_of(name), replace(BASE, lora_layers="convolutions")
    before, last = state_of(backbone), len(backbone.denoiser.up_blocks) - 1  # type: ignore[arg-type]
    action = train(method_of(backbone, config), backbone, exemplars, config, tmp_path / "run").action
    assert state_of(backbone) == before
    adapted = {key.removesuffix(lora.UP) for key in action.lora if key.endswith(lora.UP)}
    blocks = ("unet.down_blocks.0.", f"unet.up_blocks.{last}.")
    assert adapted == {
        f"unet.{path}"
        for path, module in backbone.denoiser.named_modules()
        if f"unet.{path}".startswith(blocks) and re.search(r"resnets\.\d\.conv\d", path)
    }
    assert all(bool(weight.any()) and weight.ndim == 4 for weight in action.lora.values())
    drawn = [
        pixels(generate(backbone, PROMPTS, {PLACEHOLDER: action.vectors}, loras=loras, seeds=[1, 2], steps=1))
        for loras in ([action.lora], [])
    ]
    assert (drawn[0] != drawn[1]).any()


def test_a_model_without_convolutions_says_so(exemplars: Exemplars, tmp_path: Path) -> None:
    config = replace(BASE, lora_layers="convolutions")
    with pytest.raises(ConfigError, match="has no convolutions"):
        train(method_of(backbone_of("sd3"), config), backbone_of("sd3"), exemplars, config, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_rank", -1),
        ("lora_rank", 2.0),
        ("lora_learning_rate", 0.0),
        ("lora_layers", "norms"),
        ("lora_layers", "convolutions"),  # of no LoRA
    ],
)
def test_bad_settings_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{key}"):
        LearnConfig.from_dict({"name": "leap", key: value})
