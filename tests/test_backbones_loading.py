"""Folders of every family, in every precision, and what published folders have that new ones lack."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from families import CORE, FAMILIES, WITH_CLIP, backbone_of, noisy, pixels, stock_text, times, vectors_of
from tiny import tiny_flux, tiny_sd3, tiny_sdxl
from twinact.backbones import load
from twinact.backbones.sd3 import StableDiffusion3
from twinact.backbones.sdxl import StableDiffusionXL
from twinact.backbones.weights import same_model
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.sample import generate

# "!" is the padding token of some tokenizers, and another token in a new one than in one that was saved and loaded.
PROMPTS = ["a robot jumping in a park", "", "zebra!"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, family in FAMILIES.items():
        family.make().save_pretrained(root / name)
    return {name: root / name for name in FAMILIES}


@pytest.mark.slow_but("sd")
@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", list(FAMILIES))
def test_load_recognises_the_family(
    name: str, folders: dict[str, Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    backbone = load(folders[name], device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert type(backbone) is FAMILIES[name].backbone
    assert backbone.model_id.startswith(f"{name}@")
    assert (backbone.device, backbone.dtype) == (torch.device("cpu"), torch.float32)
    before = backbone_of(name)
    assert backbone.tokenizer_hash == before.tokenizer_hash
    assert (backbone.latent_shape, backbone.image_size) == (before.latent_shape, before.image_size)
    cond, expected = backbone.encode_text(PROMPTS), stock_text(name, backbone.pipeline(), PROMPTS)
    assert torch.equal(cond.hidden, expected.hidden)
    torch.testing.assert_close(cond.hidden[:2], before.encode_text(PROMPTS[:2]).hidden)
    if cond.pooled is not None and expected.pooled is not None:
        assert torch.equal(cond.pooled, expected.pooled)


@pytest.mark.slow  # it imports everything anew
def test_a_fresh_process_opens_a_model_without_a_word(folders: dict[str, Path]) -> None:
    """As in this one, where all that the libraries say on import was said before."""
    code = "import sys, twinact.backbones as b; b.load(sys.argv[1], 'cpu')"
    opened = subprocess.run([sys.executable, "-c", code, folders["sd"]], capture_output=True, text=True, timeout=280)
    assert (opened.returncode, opened.stdout, opened.stderr) == (0, "", "")


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", list(FAMILIES))
def test_half_precision_draws_and_learns(name: str, dtype: torch.dtype, folders: dict[str, Path]) -> None:
    backbone = load(folders[name], "cpu", dtype)
    assert backbone.dtype == backbone.denoiser.dtype == dtype
    expected = stock_text(name, backbone.pipeline(), PROMPTS)
    assert torch.equal(backbone.encode_text(PROMPTS).hidden, expected.hidden)
    values = [value.float().clone().requires_grad_() for value in vectors_of(backbone, "cat dog red")]
    cond = backbone.encode_text(["a <act>"] * 2, {"<act>": values})
    assert cond.hidden.dtype == dtype
    assert cond.pooled is None or cond.pooled.dtype == dtype

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_image(images)
    assert latents.dtype == dtype
    noised = backbone.noising.add(latents, noisy(backbone).to(dtype), times(backbone, 0.2, 0.8))
    prediction = backbone.predict(noised.x_t, noised.t, cond)
    assert prediction.dtype == dtype
    estimate = backbone.decode_latents(backbone.clean(noised.x_t, noised.t, prediction))
    (prediction - noised.target).float().square().mean().add(estimate.float().square().mean()).backward()
    for value in values:
        assert value.grad is not None
        assert value.grad.isfinite().all() and value.grad.any()

    drawn = pixels(generate(backbone, ["a <act>"], {"<act>": [v.detach() for v in values]}, seeds=[1], steps=2))
    assert drawn.std() > 0
    assert {module.dtype for module in (backbone.pipeline().vae, backbone.denoiser)} == {dtype}


def overflowing(pipeline: Any) -> Any:
    """With activations in the decoder that float16 cannot hold and float32 can; the next norm brings them back."""
    pipeline.vae.decoder.conv_in.weight.data.mul_(1e5)
    return pipeline


@pytest.mark.slow
def test_vae_that_overflows_in_float16_is_run_in_float32() -> None:
    exact = StableDiffusionXL(overflowing(tiny_sdxl()), "tiny")
    half = StableDiffusionXL(overflowing(tiny_sdxl()).to(dtype=torch.float16), "tiny")
    fixed = StableDiffusionXL(overflowing(tiny_sdxl(force_upcast=False)).to(dtype=torch.float16), "tiny")
    latents = noisy(exact)
    decoded = half.decode_latents(latents.half())
    assert decoded.isfinite().all()
    torch.testing.assert_close(decoded, exact.decode_latents(latents), rtol=0.05, atol=0.05)
    assert not fixed.decode_latents(latents.half()).isfinite().all()  # its config says that it need not be upcast
    assert generate(half, ["a cat"], seeds=[0], steps=1)[0].getextrema() != ((0, 0),) * 3  # black, as NaN would be
    assert half.pipeline().vae.dtype == torch.float16
    assert half.encode_image(torch.zeros(1, 3, 32, 32)).dtype == torch.float16
    assert (
        StableDiffusionXL(tiny_sdxl().to(dtype=torch.bfloat16), "tiny").decode_latents(latents).dtype == torch.bfloat16
    )


def test_sdxl_leads_away_from_nothing_as_its_config_says() -> None:
    for zeros in (True, False):
        backbone = StableDiffusionXL(tiny_sdxl(zeros_for_empty_prompt=zeros), "tiny")
        arguments = backbone.pipeline_arguments(backbone.encode_text(["a cat"]), "", 4.0)
        away = [arguments["negative_prompt_embeds"], arguments["negative_pooled_prompt_embeds"]]
        assert all(bool(part.any()) is not zeros for part in away)
        stock = backbone.pipeline()
        stock.set_progress_bar_config(disable=True)
        options = {"generator": [torch.Generator().manual_seed(1)], "num_inference_steps": 2}
        assert np.array_equal(
            pixels(generate(backbone, ["a cat"], seeds=[1], steps=2)), pixels(stock(["a cat"], **options).images)
        )


def pooled_by(encoder: Any, ids: Tensor) -> Tensor:
    outputs = encoder(ids)
    return outputs.text_embeds if hasattr(encoder, "text_projection") else outputs.pooler_output


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3, tiny_flux])
def test_pooled_text_is_taken_at_the_end_whatever_was_added_to_the_tokenizer(make: Any, tmp_path: Path) -> None:
    """Added tokens have larger ids than the end, and published configs make CLIP pool at the largest."""
    pipeline = make()
    encoders = {"text_encoder": pipeline.tokenizer}
    if make is not tiny_flux:
        encoders["text_encoder_2"] = pipeline.tokenizer_2
    for encoder, tokenizer in encoders.items():
        tokenizer.add_tokens("<new>")
        getattr(pipeline, encoder).resize_token_embeddings(len(tokenizer), mean_resizing=False)
    name = {tiny_sdxl: "sdxl", tiny_sd3: "sd3", tiny_flux: "flux"}[make]
    backbone = FAMILIES[name].backbone(pipeline, "tiny")
    prompt = "a <new> robot <act> in a park"
    vectors = {"<act>": vectors_of(backbone, "cat dog")}
    pooled = backbone.encode_text([prompt], vectors).pooled
    saved = tmp_path / "saved"
    backbone.pipeline().save_pretrained(saved)
    ends: list[Tensor] = []
    for encoder, tokenizer in encoders.items():
        if name == "sdxl" and encoder == "text_encoder":
            continue  # SDXL does not pool its first encoder
        ids = tokenizer(prompt.replace("<act>", "cat dog"), padding="max_length", return_tensors="pt").input_ids
        end = ids[0].tolist().index(tokenizer.eos_token_id)
        assert ids.argmax() != end
        module = getattr(pipeline, encoder)
        again = type(module).from_pretrained(saved / encoder)  # by the stock class, which knows the config alone
        # Not to the bit: sums may be ordered by where a process has its weights in memory.
        torch.testing.assert_close(pooled_by(again, ids), pooled_by(module, ids))
        last = getattr(module, "text_model", module)(ids).last_hidden_state[:, end]
        ends.append(module.text_projection(last) if hasattr(module, "text_projection") else last)
    assert pooled is not None
    torch.testing.assert_close(pooled, torch.cat(ends, dim=-1))


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", WITH_CLIP)
def test_encoders_in_the_layout_of_published_models_load(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    old = {
        key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": w
        for key, w in weights.items()
    }
    save_file(old, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    expected, cond = load(folders[name], "cpu").encode_text(PROMPTS), load(folder, "cpu").encode_text(PROMPTS)
    torch.testing.assert_close(cond.hidden, expected.hidden)
    torch.testing.assert_close(cond.pooled, expected.pooled)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_half_precision_files_are_read_where_there_are_no_others(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    full = load(folder, "cpu")
    for path in list(folder.rglob("*.safetensors")):
        save_file(
            {key: w.half() for key, w in load_file(path).items()}, path.with_name(f"{path.stem}.fp16.safetensors")
        )
    both = load(folder, "cpu")
    assert both.model_id == full.model_id  # as before they came
    assert torch.equal(both.encode_text(PROMPTS).hidden, full.encode_text(PROMPTS).hidden)
    for path in folder.rglob("*.safetensors"):
        if ".fp16" not in path.name:
            path.unlink()
    half = load(folder, "cpu")
    assert not same_model(half.model_id, full.model_id)
    for one, other in zip(half.denoiser.parameters(), full.denoiser.parameters(), strict=True):
        assert torch.equal(one, other.half().float())


def test_sd3_without_t5_is_sd3_with_silent_t5() -> None:
    with_t5, without = backbone_of("sd3"), backbone_of("sd3.5-without-t5")
    long, short = with_t5.encode_text(PROMPTS), without.encode_text(PROMPTS)
    assert torch.equal(long.hidden[:, :24], short.hidden[:, :24])
    assert short.hidden.shape == long.hidden.shape and not short.hidden[:, 24:].any()
    assert with_t5.tokenizer_hash != without.tokenizer_hash  # their actions differ in encoders, so do their spaces
    assert without.pipeline().text_encoder_3 is None


def test_models_that_do_not_fit_are_refused() -> None:
    for name, part in (("sdxl", "text_encoder"), ("sd3", "text_encoder_2")):
        pipeline = FAMILIES[name].make()
        pipeline.register_modules(**{part: None})
        with pytest.raises(ConfigError, match="'tiny' lacks one of its two"):
            FAMILIES[name].backbone(pipeline, "tiny")
    pipeline = tiny_sd3()
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ConfigError, match="DDIMScheduler has no shift"):
        StableDiffusion3(pipeline, "tiny")
    pipeline = tiny_sdxl()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigError, match="has no alphas_cumprod"):
        StableDiffusionXL(pipeline, "tiny")


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_damaged_folders_are_one_line_errors(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    weights = folder / "text_encoder_2" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    weights.unlink()
    torch.save({}, weights.with_name("pytorch_model.bin"))
    with pytest.raises(CheckpointError):
        load(folder)
    weights.write_bytes(whole)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxKontextPipeline"}))
    with pytest.raises(ConfigError, match="is of class FluxKontextPipeline, which is not supported: use one of Stable"):
        load(folder)
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": ["pipeline", "FluxPipeline"]}))
    with pytest.raises(ConfigError, match=r"is of class \['pipeline', 'FluxPipeline'\], which is not supported"):
        load(folder)


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_weights_that_a_library_has_rounded_are_told_with_the_way_without_it(
    part: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As those that bitsandbytes and torchao write; neither needs to be installed to be told."""
    folder = Path(shutil.copytree(folders["flux"], tmp_path / "flux"))
    config = folder / part / "config.json"
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": how}))
    with pytest.raises(CheckpointError, match=rf"{part} is stored in fewer bits, as bitsandbytes .* nf4") as caught:
        load(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_a_folder_with_a_part_missing_is_one_line(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    for part in ("vae", "tokenizer", "text_encoder", "scheduler"):
        folder = Path(shutil.copytree(folders[name], tmp_path / part))
        shutil.rmtree(folder / part)
        with pytest.raises((CheckpointError, ConfigError, DataError)) as caught:
            load(folder, "cpu")
        assert "\n" not in str(caught.value) and part in str(caught.value)


@pytest.mark.parametrize(
    ("file", "changes", "refused"),
    [
        ("model_index.json", {"unet": ["evil", "UNet2DConditionModel"]}, True),
        ("model_index.json", {"tokenizer": ["evil", "CLIPTokenizer"]}, True),
        ("model_index.json", {"_class_name": ["evil", "StableDiffusionPipeline"]}, True),
        ("model_index.json", {"safety_checker": ["evil", "Checker"]}, False),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.CLIPTextModel"}}, False),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.CLIPTokenizer"] * 2}}, False),
        ("unet/config.json", {"auto_map": {"AutoModel": "evil.UNet2DConditionModel"}}, False),
    ],
    ids=lambda value: "".join(value) if isinstance(value, (str, dict)) else "",
)
def test_code_in_a_folder_is_never_run(
    file: str, changes: dict[str, Any], refused: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder, canary = Path(shutil.copytree(folders["sd"], tmp_path / "sd")), tmp_path / "ran"
    classes = [
        f"from {library} import {name}"
        for library, name in (
            ("diffusers", "StableDiffusionPipeline, UNet2DConditionModel"),
            ("transformers", "CLIPTextModel, CLIPTokenizer"),
        )
    ]
    code = "\n".join([f"open({str(canary)!r}, 'w').close()", *classes])
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("evil.py", "pipeline.py"):
            (place / name).write_text(code)
    changed = folder / file
    changed.write_text(json.dumps({**json.loads(changed.read_text()), **changes}))
    if refused:
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            load(folder, "cpu")
        assert "\n" not in str(caught.value)
    else:
        load(folder, "cpu")
    assert not canary.exists()


def test_an_autoencoder_without_its_shift_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    FAMILIES["flux"].make().save_pretrained(model)
    config = model / "vae" / "config.json"
    config.write_text(config.read_text().replace("shift_factor", "shift_fact0r"))
    with pytest.raises(CheckpointError, match="no shift_factor"):
        load(model, "cpu")
