"""Learning, keeping and drawing an action on every family; the model's own words stay what they were."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from families import CORE, FAMILIES, backbone_of, modules, pixels
from small import exemplars_in, small_space
from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import METHODS, LearnConfig, TwinActConfig
from twinact.data.exemplars import Exemplars
from twinact.methods import Method
from twinact.methods.method import Batch, denoise
from twinact.methods.textual_inversion import TextualInversion
from twinact.methods.twinact import Start, TwinAct
from twinact.sample import generate
from twinact.storage import tensor_hash
from twinact.training.loop import encode_exemplars, train

STEPS = 6


@dataclass(frozen=True)
class Learned:
    """A run on one family, and what the model was before it."""

    backbone: Backbone
    method: Method
    start: list[torch.Tensor]
    action: Action
    path: Path
    weights: str
    picture: np.ndarray


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Exemplars:
    return exemplars_in(tmp_path_factory.mktemp("exemplars"), 2)


RUNS = [(name, "twinact") for name in FAMILIES] + [(name, "textual-inversion") for name in CORE if name != "klein"]


@pytest.fixture(scope="module", params=RUNS, ids=" ".join)
def learned(request: pytest.FixtureRequest, exemplars: Exemplars, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    name, kind = request.param
    backbone = backbone_of(name)
    method: Method
    if kind == "twinact":
        space, settings = small_space(backbone), TwinActConfig(prior_weight=0.0).settled(False)
        start = Start.of(None, space, backbone.token_tables())
        method = TwinAct(space, None, None, settings, learning_rate=0.3, start=start)
    else:
        method = TextualInversion(3, learning_rate=0.03)
    method.attach(backbone)
    before = list(method.action("start", {}).vectors)
    weights, picture = weights_hash(backbone), plain_picture(backbone)
    config = LearnConfig(name="leap", method=METHODS[kind](), steps=STEPS, batch_size=4)
    result = train(method, backbone, exemplars, config, tmp_path_factory.mktemp("runs") / "run")
    return Learned(backbone, method, before, result.action, result.action_path, weights, picture)


def weights_hash(backbone: Backbone) -> str:
    parts = modules(backbone.pipeline()).items()
    return tensor_hash({f"{part}.{name}": w for part, module in parts for name, w in module.state_dict().items()})


def plain_picture(backbone: Backbone) -> np.ndarray:
    return pixels(generate(backbone, ["a robot jumping"], seeds=[5], steps=1))


@pytest.mark.slow
def test_loss_falls(learned: Learned, exemplars: Exemplars) -> None:
    """On pictures, noise and times that are the same before and after."""
    backbone = learned.backbone
    latents = encode_exemplars(backbone, exemplars).repeat(4, 1, 1, 1)  # b c h w
    generator = torch.Generator().manual_seed(11)
    noise = torch.randn(latents.shape, generator=generator)
    t = backbone.noising.sample_t(len(latents), generator)
    batch = Batch(latents, exemplars.captions * 4, latents, noise, t)
    with torch.no_grad():
        before = denoise(backbone, batch, learned.start).loss
        after = denoise(backbone, batch, list(learned.action.vectors)).loss
    assert after < before


@pytest.mark.slow_but("sd twinact", "sd3 twinact", "sd textual")
def test_every_encoder_learned(learned: Learned) -> None:
    widths = [table.width for table in learned.backbone.token_tables()]
    assert [vectors.shape for vectors in learned.action.vectors] == [(3, width) for width in widths]
    for start, end in zip(learned.start, learned.action.vectors, strict=True):
        assert (start != end).all()


@pytest.mark.slow_but("sd twinact", "sd3 twinact", "sd textual")
def test_saved_action_draws_the_same_pixels(learned: Learned) -> None:
    prompts = [f"a robot {PLACEHOLDER} in a park", f"a cat {PLACEHOLDER}"]
    drawn = [
        pixels(generate(learned.backbone, prompts, {PLACEHOLDER: action.vectors}, seeds=[1, 2], steps=1))
        for action in (learned.action, Action.load(learned.path))
    ]
    assert np.array_equal(*drawn)
    plain = generate(learned.backbone, ["a robot in a park", "a cat"], seeds=[1, 2], steps=1)
    assert (drawn[0] != pixels(plain)).any()


@pytest.mark.slow_but("sd twinact", "sd3 twinact", "sd textual")
def test_the_models_own_words_are_untouched(learned: Learned) -> None:
    assert weights_hash(learned.backbone) == learned.weights
    assert np.array_equal(plain_picture(learned.backbone), learned.picture)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_reaches_every_coefficient_through_every_encoder_and_is_right(name: str, exemplars: Exemplars) -> None:
    backbone = backbone_of(name)
    space = small_space(backbone)
    latents, generator = encode_exemplars(backbone, exemplars), torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    batch = Batch(latents, exemplars.captions, latents, noise, backbone.noising.sample_t(len(latents), generator))
    u = torch.randn(space.slots, space.rank, generator=generator)
    # Coefficients of its own for each encoder: their gradient is what comes through it alone.
    own = [u.clone().requires_grad_() for _ in space.encoders]
    denoise(backbone, batch, [space.reconstruct(part)[index] for index, part in enumerate(own)]).loss.backward()
    for encoder, part in zip(space.encoders, own, strict=True):
        assert part.grad is not None
        assert part.grad.ne(0).equal(space.sigma > 0), encoder

    gradient = torch.stack([part.grad for part in own if part.grad is not None]).sum(0)
    step = 0.1 * gradient / gradient.norm()  # the steepest way, where rounding matters least

    def loss(by: float) -> float:
        with torch.no_grad():
            return float(denoise(backbone, batch, space.reconstruct(u + by * step)).loss)

    assert (loss(1) - loss(-1)) / 2 == pytest.approx(float((gradient * step).sum()), rel=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, on the norms inside FLUX.1
@pytest.mark.parametrize("name", CORE)
def test_learning_works_under_autocast(name: str, exemplars: Exemplars) -> None:
    backbone = backbone_of(name)
    method = TextualInversion(3, learning_rate=0.03)
    method.attach(backbone)
    latents = encode_exemplars(backbone, exemplars)
    t = backbone.noising.sample_t(len(latents), torch.Generator().manual_seed(0))
    batch = Batch(latents, exemplars.captions, latents, torch.ones_like(latents), t)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.loss(backbone, batch, torch.Generator())["loss"]
    rounded.backward()
    assert all(vectors.grad is not None and vectors.grad.isfinite().all() for vectors in method.vectors)
    exact = method.loss(backbone, batch, torch.Generator())["loss"]
    # A network of its own makes Chroma's modulations, and rounds them.
    torch.testing.assert_close(rounded, exact, rtol=0.03 if name == "chroma" else 0.02, atol=0)
