"""Embedding files of other tools, proven by loading them back through the stock loaders."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from families import BASES, FAMILIES, HEADINGS, PIPELINES, backbone_of, documented, modules, stock_text
from tiny import tiny_sd
from twinact import PLACEHOLDER, __version__
from twinact.action import Action
from twinact.backbones.sd import StableDiffusion
from twinact.configs import LearnConfig
from twinact.errors import CheckpointError, ConfigError
from twinact.export import LAYOUTS, Base, export_embedding, import_embedding, trigger
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.storage import tensor_hash

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


@pytest.mark.slow
def test_stock_loader_draws_the_same_pixels_from_both_files(action: Action, tmp_path: Path) -> None:
    shared, diffusers_own = export_embedding(action, BASES["sd"], tmp_path)
    ours, theirs = _pixels(action, [shared], token=action.name)
    assert ours == theirs
    ours, theirs = _pixels(action, [diffusers_own])
    assert ours == theirs


def _rows(text_encoder: Any) -> int:
    return int(text_encoder.get_input_embeddings().weight.shape[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADINGS)
def test_documented_lines_make_an_untouched_stock_pipeline_draw_the_same_pixels(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, generator = backbone_of(name), torch.Generator().manual_seed(2)
    vectors = [
        table.weight.std() * torch.randn(3, table.width, generator=generator) for table in backbone.token_tables()
    ]
    action = Action("twa-leap", vectors, backbone.model_id)
    export_embedding(action, BASES[name], tmp_path / "exports")
    monkeypatch.chdir(tmp_path)
    stock = FAMILIES[name].make()
    for module in modules(stock).values():
        module.eval()  # as `from_pretrained` leaves them
    scope: dict[str, Any] = {"pipeline": stock}
    rows = {part: _rows(module) for part, module in modules(stock).items() if "text_encoder" in part}
    exec(documented(name), scope)
    stock, prompt = scope["pipeline"], scope["prompt"]
    for part, before in rows.items():  # T5's table has more rows than words, and the loader cuts it to these
        tokenizer = getattr(stock, part.replace("text_encoder", "tokenizer"))
        if name in ("klein", "z-image"):  # which has rows to spare
            assert len(tokenizer) < _rows(getattr(stock, part)) == before
            continue
        assert _rows(getattr(stock, part)) == len(tokenizer)
        assert (len(tokenizer) - 3 < before) == (type(getattr(stock, part)).__name__ == "T5EncoderModel")

    theirs = stock_text(name, stock, [prompt])
    ours = backbone.encode_text(["a robot <act> in the park"], {PLACEHOLDER: vectors})
    read = slice(None) if ours.mask is None else ours.mask.bool()
    assert float(torch.cosine_similarity(ours.hidden[read], theirs.hidden[read], dim=-1).min()) >= 0.9999
    assert (ours.pooled is None) == (theirs.pooled is None) == (name in ("sd", "klein", "z-image", "chroma"))
    if ours.pooled is not None and theirs.pooled is not None:
        assert float(torch.cosine_similarity(ours.pooled, theirs.pooled).min()) >= 0.9999

    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        prompt=prompt, generator=[torch.Generator("cpu").manual_seed(4)], num_inference_steps=2,
        guidance_scale=backbone.guidance, height=backbone.image_size, width=backbone.image_size,
        **FAMILIES[name].text,
    ).images[0]  # fmt: skip
    drawing = {"seeds": [4], "steps": 2, "guidance": backbone.guidance}
    ours = generate(backbone, ["a robot <act> in the park"], {PLACEHOLDER: vectors}, **drawing)[0]
    assert ours.tobytes() == theirs.tobytes()


def test_the_shared_file_is_called_by_its_key_without_a_token(action: Action, tmp_path: Path) -> None:
    stock = tiny_sd()
    stock.load_textual_inversion(export_embedding(action, BASES["sd"], tmp_path)[0])
    assert "emb_params" in stock.tokenizer.get_vocab() and action.name not in stock.tokenizer.get_vocab()


def test_stock_loader_refuses_the_file_of_two_text_encoders_whole(tmp_path: Path) -> None:
    action = Action("twa-leap", [torch.ones(2, 32), torch.ones(2, 48)], "xl@0")
    path = export_embedding(action, BASES["sdxl"], tmp_path)[0]
    with pytest.raises(ValueError, match="Loaded state dictionary is incorrect"):
        FAMILIES["sdxl"].make().load_textual_inversion(path, token=action.name)


@pytest.mark.parametrize(
    ("name", "parts", "architecture"),
    [
        ("sd", {"unet": {"cross_attention_dim": 768}}, "stable-diffusion-v1"),
        ("sd", {"unet": {"cross_attention_dim": 1024}}, "stable-diffusion-v2-512"),
        (
            "sd",
            {"unet": {"cross_attention_dim": 1024}, "scheduler": {"prediction_type": "v_prediction"}},
            "stable-diffusion-v2-768-v",
        ),
        ("sdxl", {"unet": {"cross_attention_dim": 2048}}, "stable-diffusion-xl-v1-base"),
        ("sd3", {"transformer": {"num_layers": 24, "qk_norm": None}}, "stable-diffusion-v3-medium"),
        ("sd3", {"transformer": {"num_layers": 24, "qk_norm": "rms_norm"}}, "stable-diffusion-v3.5-medium"),
        ("sd3", {"transformer": {"num_layers": 38, "qk_norm": "rms_norm"}}, "stable-diffusion-v3.5-large"),
        ("flux", {"transformer": {"guidance_embeds": True}}, "flux-1-dev"),
        ("flux", {"transformer": {"guidance_embeds": False}}, "flux-1-schnell"),
    ],
)
def test_the_base_is_read_from_the_model(
    name: str, parts: dict[str, dict[str, Any]], architecture: str, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": PIPELINES[name]}))
    for part, settings in parts.items():
        (tmp_path / part).mkdir()
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        (tmp_path / part / file).write_text(json.dumps(settings))
    base = Base.of(tmp_path)
    assert base.architecture == architecture and base.family == PIPELINES[name]
    before = Action("leap", [torch.ones(1, 8) for _ in LAYOUTS[base.family].keys], "m@1")
    with safe_open(export_embedding(before, base, tmp_path)[0], "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == f"{architecture}/textual-inversion"
    author = "black-forest-labs/flux" if name == "flux" else "Stability-AI/generative-models"
    assert metadata["modelspec.implementation"] == f"https://github.com/{author}"


def test_the_header_says_where_the_action_comes_from(space: ActionSpace, tmp_path: Path) -> None:
    config = LearnConfig(name="leap", seed=7, steps=40).to_dict()
    action = Action.from_coefficients("leap", space, torch.ones(space.slots, space.rank), meta={"config": config})
    with safe_open(export_embedding(action, BASES["sd"], tmp_path)[0], "pt") as file:
        own = {key: value for key, value in file.metadata().items() if key.startswith("twinact.")}
    assert len(own.pop("twinact.content_sha256")) == 64
    assert own == {
        "twinact.format_version": "2",
        "twinact.library_version": __version__,
        "twinact.action": "leap",
        "twinact.base": space.model_id,
        "twinact.n_vectors": "3",
        "twinact.coefficients_sha256": tensor_hash({"coefficients": action.point(space)}),
        "twinact.basis_id": space.hash,
        "twinact.config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "twinact.seed": "7",
        "twinact.steps": "40",
    }


def test_a_name_that_the_model_knows_is_exported_as_a_word_that_it_does_not(tmp_path: Path) -> None:
    stock = tiny_sd()
    assert "jumping</w>" in stock.tokenizer.get_vocab() and len(stock.tokenizer.tokenize(trigger("jumping"))) > 1
    for name in ("jumping", "twa-jumping"):
        shared, own = export_embedding(Action(name, [torch.ones(2, 32)], "tiny@0"), BASES["sd"], tmp_path / name)
        assert trigger(name) == shared.stem == own.parent.name == next(iter(load_file(own))) == "twa-jumping"
    stock.load_textual_inversion(own)
    assert "twa-jumping" in stock.tokenizer.get_vocab()
    t5 = FAMILIES["flux"].make().tokenizer_2
    assert len(t5.tokenize(trigger("jumping"))) > 1


def test_file_for_a1111_has_one_tensor_and_the_specified_header(action: Action, tmp_path: Path) -> None:
    path = export_embedding(action, BASES["sd"], tmp_path)[0]
    assert path == tmp_path / "twa-leap.safetensors"
    assert {key: tuple(tensor.shape) for key, tensor in load_file(path).items()} == {"emb_params": (3, 32)}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert metadata["modelspec.trigger_phrase"] == "twa-leap" and "twa-leap" in metadata["modelspec.description"]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0 and list(json.loads(data[8 : 8 + length])["__metadata__"]) == sorted(metadata)
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(data[8 + length :]).hexdigest()}"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sd", {"emb_params"}),
        ("sdxl", {"clip_l", "clip_g"}),
        ("sd3", {"clip_l", "clip_g", "t5xxl", "t5"}),
        ("sd3", {"clip_l", "clip_g"}),
        ("flux", {"clip_l", "t5xxl", "t5"}),
    ],
)
def test_keys_are_those_of_the_readers_and_can_be_imported(name: str, keys: set[str], tmp_path: Path) -> None:
    widths = [8 + 4 * i for i in range(len(keys - {"t5"}))]
    before = Action("leap", [torch.randn(2, width) for width in widths], "m@1")
    paths = export_embedding(before, BASES[name], tmp_path)
    tensors = load_file(paths[0])
    assert set(tensors) == keys
    assert "t5" not in keys or torch.equal(tensors["t5"], tensors["t5xxl"])
    for path in paths:
        after = import_embedding(path, PIPELINES[name], name="back", model_id="m@1", widths=widths)
        assert all(torch.equal(a, b) for a, b in zip(before.vectors, after.vectors, strict=True))
        assert after.coefficients is None


def test_a_flipped_bit_in_our_own_file_is_told(action: Action, tmp_path: Path) -> None:
    for path in export_embedding(action, BASES["sd"], tmp_path):
        content = bytearray(path.read_bytes())
        for place in range(1, 30, 7):
            content[-place] ^= 4
            path.write_bytes(bytes(content))
            with pytest.raises(CheckpointError, match="is damaged"):
                import_embedding(path, SD, name="leap", model_id="m@1", widths=[32])
            content[-place] ^= 4


def test_what_cannot_be_used_is_one_line(action: Action, tmp_path: Path) -> None:
    def read(path: Path, family: str = SD, width: int = 32) -> Action:
        widths = [width] * len(LAYOUTS[family].keys)
        return import_embedding(path, family, name="leap", model_id="m@1", widths=widths)

    path = export_embedding(action, BASES["sd"], tmp_path)[0]
    with pytest.raises(CheckpointError, match="32 wide and the model takes 768"):
        read(path, width=768)
    with pytest.raises(CheckpointError, match="made for stable-diffusion-v1, not for StableDiffusionXLPipeline"):
        read(path, "StableDiffusionXLPipeline")
    (tmp_path / "old.pt").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match="run code"):
        read(tmp_path / "old.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "broken.safetensors")
    with pytest.raises(ConfigError, match="1 text encoders and StableDiffusionXLPipeline has 2"):
        export_embedding(action, BASES["sdxl"], tmp_path)
    with pytest.raises(ConfigError, match="use one of"):
        export_embedding(action, Base("KandinskyPipeline", "kandinsky"), tmp_path)
    many = Action("many", [torch.zeros(76, 32)], "tiny@0")
    with pytest.raises(ConfigError, match="at most 75 fit"):
        export_embedding(many, BASES["sd"], tmp_path)
