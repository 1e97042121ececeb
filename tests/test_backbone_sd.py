"""Loading a model and its errors, on Stable Diffusion; what holds for every family is in test_backbones.py."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import GatedRepoError
from transformers import CLIPImageProcessor

from tiny import tiny_sd
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
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


@pytest.mark.slow
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

    def gated(*names: str) -> None:
        raise GatedRepoError.__new__(GatedRepoError)  # to make one takes the HTTP library of this version of the hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(DataError, match=r"accept its licence at https://huggingface\.co/some/model, then log in"):
        load("some/model")


def test_load_refuses_other_families(own_folder: Path) -> None:
    index = own_folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    with pytest.raises(
        ConfigError, match="is of class AudioLDMPipeline, which is not supported: use one of StableDiff"
    ):
        load(own_folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="is not usable JSON"):
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


# Published folders name the first or the second; the third is what transformers writes without torchvision.
@pytest.mark.parametrize("kind", ["CLIPFeatureExtractor", "CLIPImageProcessor", "CLIPImageProcessorPil"])
def test_parts_that_are_not_needed_may_be_in_the_folder(kind: str, own_folder: Path, backbone: Backbone) -> None:
    pipeline = tiny_sd()
    pipeline.register_modules(feature_extractor=CLIPImageProcessor(crop_size=8, size=8))
    pipeline.save_pretrained(own_folder)
    index = own_folder / "model_index.json"
    known = json.loads(index.read_text())
    assert known["feature_extractor"][1] in ("CLIPImageProcessor", "CLIPImageProcessorPil")
    index.write_text(json.dumps({**known, "feature_extractor": ["transformers", kind]}))
    loaded = load(own_folder, "cpu")
    assert torch.equal(loaded.encode_text(PROMPTS).hidden, backbone.encode_text(PROMPTS).hidden)
