"""The Stable Diffusion backbone against the stock pipeline, its gradients, its noise and its loading errors."""

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline

from tiny import tiny_sd
from twinact.backbones import load
from twinact.backbones.base import Backbone
from twinact.backbones.noising import DDPMNoising
from twinact.backbones.sd import StableDiffusion
from twinact.errors import CheckpointError, ConfigError, DataError

PROMPTS = [
    "a robot jumping in a park",
    "",
    "A  ROBOT's <odd> prompt: 3 cats,\n[zebra]! café",
    "the cat in the red dress on the moon with a dog in the city in the park in the moon of the red dog and more",
]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return tiny_sd()


@pytest.fixture(scope="module")
def backbone(pipeline: StableDiffusionPipeline) -> Backbone:
    return StableDiffusion(pipeline, "tiny")


@pytest.fixture(scope="module")
def folder(pipeline: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "tiny"))


def stock_hidden(pipeline: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return pipeline.encode_prompt(prompts, "cpu", 1, False)[0]


def noisy(backbone: Backbone, b: int = 2) -> torch.Tensor:
    return torch.randn(b, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pad", [None, "!"])
def test_text_without_placeholder_equals_stock_bit_for_bit(pad: str | None) -> None:
    pipeline = tiny_sd()
    if pad is not None:
        pipeline.tokenizer.pad_token = pad
    backbone = StableDiffusion(pipeline, "tiny")
    expected = stock_hidden(pipeline, PROMPTS)
    assert torch.equal(backbone.encode_text(PROMPTS).hidden, expected)
    unused = {"<act>": [torch.zeros(3, 32)]}
    assert torch.equal(backbone.encode_text(PROMPTS, unused).hidden, expected)
    assert backbone.encode_text(PROMPTS).pooled is None


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a robot <act> in a park", {"<act>": "cat"}),
        ("<act>", {"<act>": "cat dog"}),
        ("a <act>, in the city", {"<act>": "red dress"}),
        ("a<act>man", {"<act>": "cat"}),
        ("<who> <act> on the moon with <who>", {"<act>": "jumping", "<who>": "robot dog"}),
        ("@act@act2", {"@act": "cat", "@act2": "dog"}),  # one begins with the other
    ],
)
def test_known_words_as_vectors_equal_the_words(backbone: Backbone, prompt: str, words: dict[str, str]) -> None:
    table = backbone.token_tables()[0]
    spelled = prompt
    for placeholder in sorted(words, key=len, reverse=True):
        spelled = spelled.replace(placeholder, f" {words[placeholder]} ")
    vectors = {placeholder: [table.embed(text)] for placeholder, text in words.items()}
    prompts = [prompt, "a dog"]  # in one batch with a prompt that has no placeholder
    assert torch.equal(
        backbone.encode_text(prompts, vectors).hidden, stock_hidden(backbone.pipeline(), [spelled, "a dog"])
    )


def test_vectors_leave_no_trace(backbone: Backbone) -> None:
    before = backbone.token_tables()[0]
    weight, size = before.weight.clone(), len(before.tokenizer)
    plain = backbone.encode_text(["a <act> dog"]).hidden
    backbone.encode_text(["a <act> dog"], {"<act>": [torch.ones(3, 32)]})
    after = backbone.token_tables()[0]
    assert torch.equal(after.weight, weight)
    assert len(after.tokenizer) == size
    assert torch.equal(backbone.encode_text(["a <act> dog"]).hidden, plain)


def test_long_prompt_is_cut_after_the_placeholder_only(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    vectors = {"<act>": [torch.zeros(3, 32)]}
    fits = "cat " * 19 + "<act>"  # 19 + 3 + begin and end = 24
    with caplog.at_level(logging.WARNING):
        backbone.encode_text([fits], vectors)
        assert not caplog.records
        backbone.encode_text([f"{fits} in a park"], vectors)
    assert "in a park" in caplog.text
    with pytest.raises(DataError, match=r"puts <act> beyond the 22 tokens that text_encoder reads"):
        backbone.encode_text(["cat " + fits], vectors)


def test_vectors_of_another_model_are_refused(backbone: Backbone) -> None:
    with pytest.raises(DataError, match="16 wide and text_encoder takes 32"):
        backbone.encode_text(["<act>"], {"<act>": [torch.zeros(3, 16)]})
    with pytest.raises(DataError, match="vectors for 2 text encoders and tiny has 1"):
        backbone.encode_text(["<act>"], {"<act>": [torch.zeros(3, 32)] * 2})


def test_gradient_reaches_vectors_and_is_right() -> None:
    backbone = StableDiffusion(tiny_sd().to(dtype=torch.float64), "tiny")
    start = backbone.token_tables()[0].embed("cat dog red").clone()
    x_t, t = noisy(backbone).double(), torch.tensor([100, 900])

    def loss(value: torch.Tensor) -> torch.Tensor:
        cond = backbone.encode_text(["a robot <act> in a park", "a <act>"], {"<act>": [value]})
        return backbone.predict(x_t, t, cond).square().mean()

    value = start.requires_grad_()
    loss(value).backward()
    assert value.grad is not None
    assert value.grad.abs().amin(dim=1).gt(0).all()
    direction = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-6
    with torch.no_grad():
        numeric = (loss(start + step * direction) - loss(start - step * direction)) / (2 * step)
    assert (value.grad * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-4)
    assert all(parameter.grad is None for parameter in backbone.denoiser.parameters())


def test_predict_is_the_unet_and_everything_is_frozen(backbone: Backbone) -> None:
    x_t, t = noisy(backbone), torch.tensor([3, 700])
    cond = backbone.encode_text(["a cat", "a dog"])
    expected = backbone.denoiser(x_t, t, encoder_hidden_states=cond.hidden, return_dict=False)[0]
    assert torch.equal(backbone.predict(x_t, t, cond), expected)
    stock = backbone.pipeline()
    for module in (stock.unet, stock.vae, stock.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_pipelines_share_modules_and_not_the_scheduler(backbone: Backbone) -> None:
    first, second = backbone.pipeline(), backbone.pipeline()
    assert type(first) is StableDiffusionPipeline
    assert first.unet is second.unet is backbone.denoiser
    assert first.scheduler is not second.scheduler
    assert first.scheduler.config == second.scheduler.config


@pytest.mark.parametrize("vae", ["kl", "tiny"])
def test_latents_are_scaled_as_the_stock_pipeline_reads_them(vae: str) -> None:
    pipeline = tiny_sd(vae=vae)
    backbone = StableDiffusion(pipeline, "tiny")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_image(images)
    assert latents.shape[1:] == backbone.latent_shape == (4, 8, 8)
    assert backbone.image_size == 32
    assert torch.equal(latents, backbone.encode_image(images))
    encoded = pipeline.vae.encode(images)
    raw = encoded.latent_dist.mode() if vae == "kl" else encoded.latents
    factor = pipeline.vae.config.scaling_factor
    assert factor != 1
    torch.testing.assert_close(latents, raw * factor)
    torch.testing.assert_close(backbone.decode_latents(latents), pipeline.vae.decode(raw).sample)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_clean_undoes_add_and_add_equals_the_scheduler(prediction_type: str) -> None:
    pipeline = tiny_sd(prediction_type)
    backbone = StableDiffusion(pipeline, "tiny")
    t = torch.tensor([0, 1, 250, 500, 750, 998, 999])
    latents, noise = noisy(backbone, len(t)).double(), torch.randn(len(t), *backbone.latent_shape, dtype=torch.float64)
    noised = backbone.noising.add(latents, noise, t)
    torch.testing.assert_close(backbone.clean(noised.x_t, t, noised.target), latents, rtol=1e-6, atol=1e-6)
    scheduler = pipeline.scheduler
    torch.testing.assert_close(noised.x_t, scheduler.add_noise(latents, noise, t), rtol=1e-6, atol=1e-6)
    if prediction_type == "v_prediction":
        torch.testing.assert_close(noised.target, scheduler.get_velocity(latents, noise, t), rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(noised.target, noise)
    assert torch.equal(noised.weight, torch.ones(len(t), dtype=torch.float64))


def test_zero_terminal_snr_leaves_no_signal() -> None:
    pipeline = tiny_sd("v_prediction")
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


@pytest.mark.parametrize("bias", [0.0, 0.9])
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


@pytest.mark.filterwarnings("error")
def test_load_reads_a_folder_quietly(
    folder: Path, backbone: Backbone, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert loaded.model_id.startswith("tiny@")
    assert load(str(folder), "cpu", torch.float64).dtype == torch.float64
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    assert loaded.tokenizer_hash == backbone.tokenizer_hash
    assert torch.equal(loaded.encode_text(PROMPTS).hidden, backbone.encode_text(PROMPTS).hidden)


def test_model_id_tells_weights_apart(folder: Path, own_folder: Path) -> None:
    same = load(own_folder).model_id
    assert same == load(folder).model_id
    pipeline = tiny_sd()
    torch.nn.init.zeros_(pipeline.unet.conv_in.bias)
    pipeline.save_pretrained(own_folder)
    assert load(own_folder).model_id != same


def test_tokenizer_hash_tells_vocabularies_apart(backbone: Backbone) -> None:
    other = StableDiffusion(tiny_sd(words=("a", "bear")), "tiny")
    assert len(other.tokenizer_hash) == len(backbone.tokenizer_hash) == 16
    assert other.tokenizer_hash != backbone.tokenizer_hash


def test_load_says_what_is_wrong_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="is not a folder: give 'nano'"):
        load(tmp_path / "missing")
    with pytest.raises(DataError, match=r"has no model_index\.json"):
        load(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither a folder here nor reachable"):
        load("nobody/nothing")


def test_load_refuses_other_families(own_folder: Path) -> None:
    index = own_folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    with pytest.raises(
        ConfigError, match="is of class AudioLDMPipeline, which is not supported: use one of StableDiff"
    ):
        load(own_folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load(own_folder)


def test_load_refuses_pickles(own_folder: Path) -> None:
    weights = own_folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="no denoiser weights in safetensors"):
        load(own_folder)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "pickled"])
def test_load_reports_damaged_weights(own_folder: Path, part: str, damage: str) -> None:
    weights = own_folder / part
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        torch.save({}, weights.with_name("pytorch_model.bin"))
        weights.unlink()
    with pytest.raises(CheckpointError) as caught:
        load(own_folder)
    assert "\n" not in str(caught.value)
