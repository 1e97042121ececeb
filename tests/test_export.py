"""Embedding files of other tools, proven by loading them back through the stock loaders."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from families import FAMILIES, backbone_of
from tiny import tiny_sd
from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.sd import StableDiffusion
from twinact.errors import CheckpointError, ConfigError
from twinact.export import LAYOUTS, export_embedding, import_embedding
from twinact.sample import generate

SD = "StableDiffusionPipeline"


@pytest.fixture
def action() -> Action:
    vectors = 0.3 * torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    return Action("twa-leap", [vectors], "tiny@0")


def _pixels(action: Action, files: list[Path], **loading: str) -> tuple[bytes, bytes]:
    """The same picture by twinact and by a stock pipeline that has loaded a file."""
    ours = generate(
        StableDiffusion(tiny_sd(), "tiny@0"), ["a robot <act> in the park"], {PLACEHOLDER: action.vectors},
        seeds=[4], steps=3, guidance=2.0,
    )[0]  # fmt: skip
    stock = tiny_sd()
    stock.set_progress_bar_config(disable=True)
    stock.load_textual_inversion(files[0], **loading)
    theirs = stock(
        f"a robot {action.name} in the park", generator=torch.Generator("cpu").manual_seed(4), num_inference_steps=3,
        guidance_scale=2.0, height=32, width=32,
    ).images[0]  # fmt: skip
    return ours.tobytes(), theirs.tobytes()


def test_stock_loader_draws_the_same_pixels_from_both_files(action: Action, tmp_path: Path) -> None:
    shared, diffusers_own = export_embedding(action, SD, tmp_path)
    ours, theirs = _pixels(action, [shared], token=action.name)
    assert ours == theirs
    ours, theirs = _pixels(action, [diffusers_own])
    assert ours == theirs


@pytest.mark.parametrize(("name", "family"), [("sdxl", "StableDiffusionXLPipeline"), ("flux", "FluxPipeline")])
def test_stock_pipelines_of_two_text_encoders_draw_the_same_pixels(name: str, family: str, tmp_path: Path) -> None:
    backbone = backbone_of(name)
    generator = torch.Generator().manual_seed(2)
    vectors = [
        table.weight.std() * torch.randn(3, table.width, generator=generator) for table in backbone.token_tables()
    ]
    action = Action("twa-leap", vectors, backbone.model_id)
    drawing = {"steps": 2, "guidance": backbone.guidance}
    ours = generate(backbone, ["a robot <act> in the park"], {PLACEHOLDER: vectors}, seeds=[4], **drawing)[0]

    stock = FAMILIES[name].make()
    stock.set_progress_bar_config(disable=True)
    tensors = load_file(export_embedding(action, family, tmp_path)[0])
    for key, part in zip(LAYOUTS[family].keys, ("", "_2"), strict=True):
        encoder, tokenizer = getattr(stock, f"text_encoder{part}"), getattr(stock, f"tokenizer{part}")
        stock.load_textual_inversion(tensors[key], token=action.name, text_encoder=encoder, tokenizer=tokenizer)
    loaded = type(backbone)(stock, "stock")  # pools at the true end of text, which added tokens hide from CLIP
    theirs = loaded.pipeline()(
        f"a robot {action.name} in the park", generator=[torch.Generator("cpu").manual_seed(4)],
        num_inference_steps=2, guidance_scale=backbone.guidance, height=backbone.image_size,
        width=backbone.image_size, **FAMILIES[name].text,
    ).images[0]  # fmt: skip
    assert ours.tobytes() == theirs.tobytes()


def test_file_for_a1111_has_one_tensor_and_the_specified_header(action: Action, tmp_path: Path) -> None:
    path = export_embedding(action, SD, tmp_path)[0]
    assert path == tmp_path / "twa-leap.safetensors"
    assert {key: tuple(tensor.shape) for key, tensor in load_file(path).items()} == {"emb_params": (3, 32)}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert metadata["modelspec.trigger_phrase"] == "twa-leap"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0 and list(json.loads(data[8 : 8 + length])["__metadata__"]) == sorted(metadata)
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(data[8 + length :]).hexdigest()}"


@pytest.mark.parametrize("family", LAYOUTS)
@pytest.mark.parametrize("every", [True, False])
def test_what_is_exported_can_be_imported(family: str, every: bool, tmp_path: Path) -> None:
    count = len(LAYOUTS[family].keys) if every else LAYOUTS[family].required
    widths = [8 + 4 * i for i in range(count)]
    before = Action("leap", [torch.randn(2, width) for width in widths], "m@1")
    for path in export_embedding(before, family, tmp_path):
        after = import_embedding(path, family, name="back", model_id="m@1", widths=widths)
        assert all(torch.equal(a, b) for a, b in zip(before.vectors, after.vectors, strict=True))
        assert after.coefficients is None


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        (SD, ["emp_params"]),  # as OneTrainer spells it
        (SD, ["<somebody>"]),
        (SD, ["bundle_emb.leap.string_to_param.*"]),
        ("StableDiffusionXLPipeline", ["clip_l", "clip_g", "clip_l_out", "clip_g_out"]),
        ("StableDiffusionXLPipeline", ["bundle_emb.leap.clip_l", "bundle_emb.leap.clip_g"]),
        ("FluxPipeline", ["clip_l", "t5"]),
    ],
)
def test_spellings_of_other_tools(family: str, keys: list[str], tmp_path: Path) -> None:
    save_file({key: torch.full((2, 8), float(i)) for i, key in enumerate(keys)}, tmp_path / "x.safetensors")
    widths = [8] * len(LAYOUTS[family].keys)
    action = import_embedding(tmp_path / "x.safetensors", family, name="leap", model_id="m@1", widths=widths)
    assert [float(v[0, 0]) for v in action.vectors] == list(range(len(widths)))


def test_what_cannot_be_used_is_one_line(action: Action, tmp_path: Path) -> None:
    def read(path: Path, family: str = SD, width: int = 32) -> Action:
        widths = [width] * len(LAYOUTS[family].keys)
        return import_embedding(path, family, name="leap", model_id="m@1", widths=widths)

    path = export_embedding(action, SD, tmp_path)[0]
    with pytest.raises(CheckpointError, match="32 wide and the model takes 768"):
        read(path, width=768)
    with pytest.raises(CheckpointError, match="no clip_l: it is made for another family"):
        read(path, "StableDiffusionXLPipeline")
    (tmp_path / "old.pt").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match="run code"):
        read(tmp_path / "old.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "broken.safetensors")
    with pytest.raises(ConfigError, match="1 text encoders and StableDiffusionXLPipeline has 2"):
        export_embedding(action, "StableDiffusionXLPipeline", tmp_path)
    with pytest.raises(ConfigError, match="use one of"):
        export_embedding(action, "KandinskyPipeline", tmp_path)
    many = Action("many", [torch.zeros(8, 32)], "tiny@0")
    with pytest.raises(ConfigError, match="at most 7"):
        export_embedding(many, SD, tmp_path)
