"""Rounded weights: how near they are, where their gradients go, and models that are opened with them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from families import FAMILIES, noisy, times
from small import exemplars_in
from twinact import lora
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import PRESETS
from twinact.backbones.quantised import QuantisedLinear, quantise
from twinact.configs import LearnConfig, TextualInversionConfig
from twinact.jobs.job import Job
from twinact.jobs.models import open_model, precision_of
from twinact.jobs.resources import Gpu, resources_for
from twinact.jobs.run import run_job

CPU = torch.device("cpu")
OTHERS = ("sdxl", "sd3", "klein", "z-image", "chroma")


@pytest.mark.parametrize(("kind", "bits", "error"), [("int8", 8.2, 0.01), ("nf4", 4.6, 0.11)])
def test_rounded_weights_are_small_and_near(kind: str, bits: float, error: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(256, 128)
    rounded = QuantisedLinear(layer, kind, CPU)
    off = (rounded.spelled_out() - layer.weight.detach()).norm() / layer.weight.detach().norm()
    assert 0 < float(off) < error
    size = rounded.weight.numel() * rounded.weight.element_size() + rounded.scale.numel() * 4
    assert 8 * size / layer.weight.numel() < bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("kind", "columns"), [("int8", 32), ("nf4", 32), ("int8", 128), ("nf4", 64), ("nf4", 128)])
def test_a_layer_is_a_linear_layer_of_its_rounded_weights(kind: str, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rounded = QuantisedLinear(nn.Linear(columns, 48), kind, CPU)
    plain = nn.Linear(columns, 48).to(dtype)
    plain.weight.data, plain.bias.data = rounded.spelled_out().to(dtype), rounded.bias.data.to(dtype)
    outputs, gradients = [], []
    for layer in (rounded, plain):
        x = torch.linspace(-1, 1, 6 * columns, dtype=dtype).reshape(2, 3, columns).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        outputs.append(y.detach())
        gradients.append(x.grad)
    tolerance = {torch.bfloat16: 0.05}.get(dtype, 1e-5)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=10 * tolerance)
    assert all(parameter.grad is None for parameter in rounded.parameters())


def test_extreme_weights_stay_what_they_are() -> None:
    layer = nn.Linear(64, 3, bias=False)
    layer.weight.data.zero_()
    layer.weight.data[1], layer.weight.data[2, 5] = 1e30, -3.0
    for kind in ("int8", "nf4"):
        torch.testing.assert_close(QuantisedLinear(layer, kind, CPU).spelled_out(), layer.weight.data)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", ["sd", "flux", *OTHERS])
def test_predictions_and_gradients_are_near_those_of_full_precision(name: str, kind: str, tmp_path: Path) -> None:
    FAMILIES[name].make().save_pretrained(tmp_path)
    exact, rounded = load(tmp_path, "cpu"), load(tmp_path, "cpu", quantised=kind)
    layers = [m for network in (rounded.denoiser, *rounded._text_encoders.values()) for m in network.modules()]
    assert sum(isinstance(layer, QuantisedLinear) for layer in layers) > 10
    assert rounded.quantised == kind and rounded.dtype == torch.float32

    def told(backbone: Backbone, savings: str = "normal") -> tuple[torch.Tensor, list[torch.Tensor]]:
        values = [t.embed("jumping red").float().clone().requires_grad_() for t in exact.token_tables()]
        with backbone.saving(PRESETS[savings]):
            cond = backbone.encode_text(["a robot <act> in a park"], {"<act>": values})
            prediction = backbone.predict(noisy(backbone, 1), times(backbone, 0.5), cond)
            prediction.square().mean().backward()
        return prediction.detach(), [value.grad for value in values if value.grad is not None]

    (prediction, gradients), (near, near_gradients) = told(exact), told(rounded)
    least = {"int8": 0.995, "nf4": 0.9}[kind]
    assert float(torch.cosine_similarity(near.flatten(), prediction.flatten(), dim=0)) > least
    for one, other in zip(near_gradients, gradients, strict=True):
        assert float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > least - 0.1
    # Resting text encoders and activations that are computed again give the same bits as ever.
    again, again_gradients = told(rounded, "low")
    assert torch.equal(again, near) and all(map(torch.equal, again_gradients, near_gradients))


def test_a_lora_learns_beside_rounded_weights(tmp_path: Path) -> None:
    FAMILIES["sd"].make().save_pretrained(tmp_path)
    backbone = load(tmp_path, "cpu", quantised="int8")
    lora.attach(backbone, lora.fresh(backbone, 2, 0))
    cond = backbone.encode_text(["a cat"])
    backbone.predict(noisy(backbone, 1), times(backbone, 0.5), cond).square().mean().backward()
    gradients = [parameter.grad for parameter in lora.parameters(backbone).values()]
    assert gradients and any(gradient is not None and gradient.any() for gradient in gradients)


def test_only_layers_in_blocks_are_rounded() -> None:
    network = nn.ModuleDict(
        {"first": nn.Linear(64, 64), "blocks": nn.ModuleList([nn.Linear(64, 64), nn.LayerNorm(64)])}
    )
    quantise(network, "nf4", CPU)
    assert type(network["first"]) is nn.Linear and isinstance(network["blocks"][0], QuantisedLinear)


@pytest.mark.slow
def test_a_job_learns_and_goes_on_with_rounded_weights(model: Path, tmp_path: Path) -> None:
    exemplars_in(tmp_path / "leap", 2)
    config = LearnConfig(name="leap", method=TextualInversionConfig(), steps=2, batch_size=2)
    job = Job(
        exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run", model=str(model),
        run={"precision": "int8", "preview_every": 0},
    )  # fmt: skip
    assert not run_job(job).already_done
    assert run_job(job).already_done
    assert precision_of(open_model(model, "int8", device="cpu")) == "int8"


# Numbers in all networks.
GIB, SDXL, KLEIN, FLUX = 2**30, 3_468_837_447, 7_986_000_000, 16_870_599_039


@pytest.mark.parametrize(
    ("budget", "numbers", "expected"),
    [
        ("8", SDXL, "int8"), ("12", SDXL, "bf16"), ("8", KLEIN, "nf4"), ("12", KLEIN, "int8"), ("24", KLEIN, "bf16"),
        ("12", FLUX, "nf4"), ("24", FLUX, "int8"), ("8", FLUX, "nf4"),
    ],
)  # fmt: skip
def test_a_budget_takes_the_finest_weights_that_fit(budget: str, numbers: int, expected: str) -> None:
    found = resources_for(Gpu(80 * GIB, True), numbers, memory=budget)
    assert (found.precision, found.memory, found.at_once) == (expected, "low", 1)


def test_a_budget_is_no_more_than_is_free_and_given_precision_stands() -> None:
    assert resources_for(Gpu(7 * GIB, True), SDXL, memory="24").precision == "int8"
    assert resources_for(Gpu(80 * GIB, True), FLUX, "bf16", "8").precision == "bf16"
    assert resources_for(None, FLUX, memory="8").memory == "normal"
