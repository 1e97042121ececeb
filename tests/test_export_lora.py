"""LoRA files of other tools, proven through the stock loaders, and read back."""

import hashlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from families import BASES, CORE, FAMILIES, PIPELINES, backbone_of, documented, drawn_by_stock, drawn_by_us, modules
from twinact import lora
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.errors import CheckpointError, ConfigError
from twinact.export import export_embedding, export_lora, import_action, import_lora, lora_files
from twinact.storage import tensor_hash


def action_of(name: str) -> Action:
    """With a LoRA of two ranks that visibly changes pictures."""
    backbone, generator = backbone_of(name), torch.Generator().manual_seed(2)
    vectors = [t.weight.std() * torch.randn(3, t.width, generator=generator) for t in backbone.token_tables()]
    weights: dict[str, Tensor] = {}
    for rank, end in ((2, "to_q"), (4, "")):
        for key, weight in lora.fresh(backbone, rank, 0).items():
            if key not in weights and end in key:
                weights[key] = weight if key.endswith(lora.DOWN) else torch.randn(weight.shape, generator=generator)
    return Action("twa-leap", vectors, backbone.model_id, lora=weights)


def export(name: str, folder: Path) -> list[Path]:
    return export_lora(action_of(name), BASES[name], folder)


def read(name: str, path: Path) -> Action:
    return import_action(path, PIPELINES[name], name="back", backbone=backbone_of(name))


def filled_up(weight: Tensor, larger: Tensor) -> Tensor:
    """A weight with zeros after it, in the shape of another one."""
    whole = torch.zeros_like(larger)
    whole[tuple(slice(side) for side in weight.shape)] = weight
    return whole


def state_of(backbone: Backbone) -> str:
    parts = modules(backbone.pipeline()).items()
    return tensor_hash({f"{part}.{n}": w for part, module in parts for n, w in module.state_dict().items()})


def _same_rank(padded: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and what it is in a file: with zeros up to the largest rank."""
    assert int((padded != 0).sum()) == int((weight != 0).sum())
    return padded[: weight.shape[0], : weight.shape[1]], weight


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize(("name", "which"), [*((n, 0) for n in CORE), *((n, 1) for n in ("sd", "sdxl", "z-image"))])
def test_stock_loader_draws_the_same_pixels(name: str, which: int, tmp_path: Path) -> None:
    """0: the diffusers file; 1: that of other tools. For those of the others see test_export_kohya.py."""
    path = export(name, tmp_path)[which]
    assert path == lora_files("twa-leap", tmp_path)[which]
    ours = drawn_by_us(name, dict(action_of(name).lora))
    assert np.array_equal(ours, drawn_by_stock(name, lambda stock: stock.load_lora_weights(path)))
    assert (ours != drawn_by_us(name, {})).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_convolutions_are_written_for_others_and_read_back(name: str, tmp_path: Path) -> None:
    backbone, generator = backbone_of(name), torch.Generator().manual_seed(2)
    weights = lora.fresh(backbone, 2, 0, "convolutions")
    layers = dict(backbone.denoiser.named_modules())
    for path in (one for one in layers if re.search(r"down_blocks.*\.(conv_shortcut|time_emb_proj)$", one)):
        shape = layers[path].weight.shape  # as other tools adapt them
        weights[f"unet.{path}{lora.DOWN}"] = torch.randn(2, *shape[1:], generator=generator)
        weights[f"unet.{path}{lora.UP}"] = torch.zeros(shape[0], 2, *[1] * (len(shape) - 2))
    for key in (one for one in weights if one.endswith(lora.UP)):
        weights[key] = torch.randn(weights[key].shape, generator=generator)
    action = replace(action_of(name), lora=weights)
    ours = drawn_by_us(name, weights)
    assert (ours != drawn_by_us(name, {})).any()
    for path in export_lora(action, BASES[name], tmp_path)[:2]:
        assert np.array_equal(ours, drawn_by_stock(name, lambda stock, path=path: stock.load_lora_weights(path))), path
        back = read(name, path).lora
        assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.slow
def test_stock_loaders_draw_action_and_lora_together(tmp_path: Path) -> None:
    action = action_of("sd")
    word, path = export_embedding(action, BASES["sd"], tmp_path)[1], export("sd", tmp_path)[0]

    def prepare(stock: object) -> None:
        stock.load_textual_inversion(word)  # type: ignore[attr-defined]
        stock.load_lora_weights(path.parent, weight_name=path.name)  # type: ignore[attr-defined]

    theirs = drawn_by_stock("sd", prepare, f"a robot {action.name} in the park")
    ours = drawn_by_us("sd", dict(action.lora), "a robot <act> in the park", act=list(action.vectors))
    assert np.array_equal(ours, theirs)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_both_halves_of_a_bundle_draw_the_same_pixels_through_the_stock_loaders(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word by the documented lines. The stock loader has no names for SD3's LoRA and knows FLUX.1's and Chroma's at
    the real width only: these are read by twinact and given to it in its own names."""
    action, tensors = action_of(name), load_file(export(name, tmp_path)[2])
    start = f"bundle_emb.{action.name}."
    words = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(start)}
    path, own = tmp_path / "exports" / "twa-leap.safetensors", tmp_path / "exports" / "twa-leap"
    own.mkdir(parents=True)
    if name == "sd":
        assert words.keys() == {"string_to_param.*"}
    if name in ("sd", "chroma"):
        save_file({action.name: next(iter(words.values()))}, own / "learned_embeds.safetensors")
    save_file(words, path)
    if name in ("sd3", "flux", "chroma"):
        save_file(rest, tmp_path / "rest.safetensors")
        rest = import_lora(tmp_path / "rest.safetensors", backbone_of(name))
        # Fused layers share the largest rank, with zeros after their own; some processors round sums otherwise then.
        assert rest.keys() == action.lora.keys()
        assert all(torch.equal(filled_up(action.lora[key], rest[key]), rest[key]) for key in rest)
        action = replace(action, lora=rest)
    monkeypatch.chdir(tmp_path)

    def prepare(stock: object) -> tuple[Any, str]:
        scope: dict[str, Any] = {"pipeline": stock}
        exec(documented(name), scope)
        scope["pipeline"].load_lora_weights(dict(rest))
        return scope["pipeline"], scope["prompt"]

    ours = drawn_by_us(name, dict(action.lora), "a robot <act> in the park", act=list(action.vectors))
    assert np.array_equal(ours, drawn_by_stock(name, prepare))
    alone = drawn_by_us(name, {}, "a robot <act> in the park", act=list(action.vectors))
    assert (ours != alone).any() and (ours != drawn_by_us(name, dict(action.lora))).any()


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_the_stock_loader_refuses_a_bundle_whole(name: str, tmp_path: Path) -> None:
    stock = FAMILIES[name].make()
    with pytest.raises(ValueError, match=r"bundle_emb|Invalid LoRA checkpoint"):
        stock.load_lora_weights(export(name, tmp_path)[2])
    assert not stock.get_list_adapters()


def test_the_stock_loader_of_flux_forgets_the_word_of_a_bundle(tmp_path: Path) -> None:
    action, stock = action_of("flux"), FAMILIES["flux"].make()
    double = {key: weight for key, weight in action.lora.items() if "single" not in key}
    path = export_lora(Action(action.name, action.vectors, "flux@0", lora=double), BASES["flux"], tmp_path)[2]
    stock.load_lora_weights(path)
    assert stock.get_list_adapters() and action.name not in stock.tokenizer.get_vocab()


@pytest.mark.parametrize("start", ["lora_unet_joint_blocks_", "lora_transformer_"])
def test_files_that_the_stock_loader_of_sd3_takes_do_nothing_there(start: str, tmp_path: Path) -> None:
    """Neither kohya's names nor OneTrainer's: no error, and no layer."""
    tensors, stock = load_file(export("sd3", tmp_path)[1]), FAMILIES["sd3"].make()
    if start == "lora_transformer_":
        ends = {lora.DOWN: "lora_down.weight", lora.UP: "lora_up.weight"}
        tensors = {
            f"lora_{key[: -len(end)].replace('.', '_')}.{ends[end]}": weight
            for key, weight in action_of("sd3").lora.items() for end in ends if key.endswith(end)
        }  # fmt: skip
    assert all(key.startswith(start) for key in tensors)
    stock.load_lora_weights(tensors)
    assert not stock.get_list_adapters()


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_what_is_exported_can_be_imported(name: str, tmp_path: Path) -> None:
    action, backbone = action_of(name), backbone_of(name)
    before = state_of(backbone)
    diffusers, kohya, bundle = export(name, tmp_path)
    for path in (diffusers, kohya, bundle):
        back = read(name, path)
        assert all(torch.equal(*_same_rank(back.lora[key], weight)) for key, weight in action.lora.items())
        expected = action.vectors if path == bundle else ()
        assert all(torch.equal(a, b) for a, b in zip(back.vectors, expected, strict=True))
        back.save(tmp_path / "back")
        assert tensor_hash(dict(Action.load(tmp_path / "back").lora)) == tensor_hash(dict(back.lora))
    assert state_of(backbone) == before


@pytest.mark.slow
def test_a_flipped_bit_in_a_header_changes_nothing_or_is_told(tmp_path: Path) -> None:
    """The alpha of a LoRA stands there, and the layer that a tensor is for."""
    path, _, bundle = export("sd", tmp_path)
    content = path.read_bytes()
    for mark in (b'lora_alpha\\": ', b"attentions.", b"transformer_blocks.", b"format_version"):
        place = content.index(mark) + len(mark)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"damaged|cannot be read|unknown way"):
            read("sd", path)
    content, rng, told = bundle.read_bytes(), random.Random(5), 0
    whole = tensor_hash(dict(read("sd", bundle).lora))
    for _ in range(40):
        flipped = bytearray(content)
        flipped[rng.randrange(8 + int.from_bytes(content[:8], "little"))] ^= 1 << rng.randrange(8)
        bundle.write_bytes(bytes(flipped))
        try:
            assert tensor_hash(dict(read("sd", bundle).lora)) == whole
        except CheckpointError:
            told += 1
    assert told > 20


def test_files_of_earlier_versions_are_checked_by_the_hash_that_they_have(tmp_path: Path) -> None:
    path = export("sd", tmp_path)[0]
    content = path.read_bytes()
    older = content.replace(b'"twinact.format_version":"2"', b'"twinact.format_version":"1"')
    path.write_bytes(older.replace(b'"twinact.content_sha256"', b'"twinact.of_a_later_one"'))
    assert read("sd", path).lora
    path.write_bytes(older[:-3] + bytes([older[-3] ^ 4]) + older[-2:])
    with pytest.raises(CheckpointError, match="is damaged"):
        read("sd", path)


def test_headers_say_what_readers_look_for(tmp_path: Path) -> None:
    for path in export("sdxl", tmp_path):
        with safe_open(path, "pt") as file:
            header = file.metadata()
        assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert header["modelspec.trigger_phrase"] == "twa-leap"
        assert (
            "load_lora" in header["modelspec.usage_hint"] or "<lora:twa-leap-lora:1>" in header["modelspec.usage_hint"]
        )
        data = path.read_bytes()
        body = data[8 + int.from_bytes(data[:8], "little") :]
        assert header["modelspec.hash_sha256"] == f"0x{hashlib.sha256(body).hexdigest()}"
        if path.parent.name == "twa-leap":
            config = json.loads(header["lora_adapter_metadata"])
            assert header["format"] == "pt" and config["unet.r"] == config["unet.lora_alpha"]
        else:
            assert header["ss_base_model_version"] == "sdxl_base_v1-0" and header["ss_v2"] == "False"
            assert header["ss_output_name"] == path.stem and header["ss_network_alpha"] == "4"
    keys = load_file(lora_files("twa-leap", tmp_path)[2])
    assert {key for key in keys if "bundle" in key} == {
        "bundle_emb.twa-leap.clip_l",
        "bundle_emb.twa-leap.clip_g",
    }
    assert "bundle_emb.twa-leap.string_to_param.*" in load_file(export("sd", tmp_path / "again")[2])


def test_headers_have_these_keys_and_nothing_of_the_photographs(tmp_path: Path) -> None:
    """Other tools write captions, folders and file names there, which people then publish."""
    config = LearnConfig(name="leap", seed=7, steps=40).to_dict()
    private = ["/home/anna/photos", "IMG_1234.jpg", "a photo of anna <act> in her kitchen", "anna_model_folder/unet"]
    meta = {"config": config, "folder": private[0], "exemplars": {private[1]: "0" * 64}, "captions": private[2:]}
    plain = action_of("sd")
    action = Action(plain.name, plain.vectors, plain.model_id, lora=plain.lora, meta=meta)
    modelspec = (
        "sai_model_spec architecture implementation title description date trigger_phrase usage_hint tags hash_sha256"
    )
    own = "format_version content_sha256 library_version action base n_vectors config_sha256 seed steps"
    expected = {*(f"modelspec.{key}" for key in modelspec.split()), *(f"twinact.{key}" for key in own.split())}
    kohya = "base_model_version network_module network_dim network_alpha output_name v2"
    for path in [*export_lora(action, BASES["sd"], tmp_path), *export_embedding(action, BASES["sd"], tmp_path)]:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        if path.parent == tmp_path or path.name == "learned_embeds.safetensors":
            more = {"modelspec.is_negative_embedding"}
        elif path.parent.name == action.name:
            more = {"format", "lora_adapter_metadata"}
        else:
            more = {f"ss_{key}" for key in kohya.split()}
        assert header.keys() == expected | more
        data = path.read_bytes()
        assert not any(word.encode() in data for word in (*private, "anna", str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "version", "module", "implementation"),
    [
        ("sd", "sd_v1", "lora", "diffusers"),
        ("sdxl", "sdxl_base_v1-0", "lora", "https://github.com/Stability-AI/generative-models"),
        ("sd3", "m", "lora_sd3", "diffusers"),
        ("flux", "flux1", "lora_flux", "https://github.com/black-forest-labs/flux"),
    ],
)
def test_kohya_headers_name_the_base(name: str, version: str, module: str, implementation: str, tmp_path: Path) -> None:
    diffusers, *others = export(name, tmp_path)
    for path in others:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        assert header["ss_base_model_version"] == version and header["ss_network_module"] == f"networks.{module}"
        assert header["modelspec.implementation"] == implementation
    with safe_open(diffusers, "pt") as file:
        assert file.metadata()["modelspec.implementation"] == "diffusers"


def test_xl_is_named_as_in_the_original_code(tmp_path: Path) -> None:
    """Layers of the published UNet and their names in kohya's files."""
    inner, flat = "transformer_blocks.9.attn2.to_out.0", "transformer_blocks_9_attn2_to_out_0"
    down, up = [(i, j) for i in (0, 1, 2) for j in (0, 1)], [(i, j) for i in (0, 1, 2) for j in (0, 1, 2)]
    residual = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    names = {
        **{f"down_blocks.{i}.attentions.{j}.{inner}": f"input_blocks_{1 + 3 * i + j}_1_{flat}" for i, j in down if i},
        **{f"up_blocks.{i}.attentions.{j}.{inner}": f"output_blocks_{3 * i + j}_1_{flat}" for i, j in up if i < 2},
        f"mid_block.attentions.0.{inner}": f"middle_block_1_{flat}",
        **{f"down_blocks.{i}.resnets.{j}.{a}": f"input_blocks_{1 + 3 * i + j}_0_{b}"
           for i, j in down for a, b in residual.items()},
        **{f"up_blocks.{i}.resnets.{j}.{a}": f"output_blocks_{3 * i + j}_0_{b}"
           for i, j in up for a, b in residual.items()},
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
    }  # fmt: skip
    weights = {f"unet.{name}{end}": torch.ones(1, 1) for name in names for end in (lora.DOWN, lora.UP)}
    action = Action("twa-leap", [torch.ones(1, 768), torch.ones(1, 1280)], "xl@0", lora=weights)
    keys = load_file(export_lora(action, replace(BASES["sdxl"], layers_per_block=2), tmp_path)[1])
    assert {key.partition(".")[0] for key in keys} == {f"lora_unet_{name}" for name in names.values()}
    assert {key.partition(".")[2] for key in keys} == {"alpha", "lora_down.weight", "lora_up.weight"}


@pytest.mark.slow
def test_alphas_and_text_encoders_of_other_tools(tmp_path: Path) -> None:
    """A kohya file with half the strength and a LoRA of the text encoder draws what the stock pipeline draws."""
    before = state_of(backbone_of("sd"))
    tensors = load_file(export("sd", tmp_path)[1])
    tensors = {key: 0.5 * value if key.endswith("alpha") else value for key, value in tensors.items()}
    generator = torch.Generator().manual_seed(1)
    for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
        flat = f"lora_te_text_model_encoder_layers_1_self_attn_{layer}"
        for way, shape in (("down", (4, 32)), ("up", (32, 4))):
            tensors[f"{flat}.lora_{way}.weight"] = 0.5 * torch.randn(shape, generator=generator)
        tensors[f"{flat}.alpha"] = torch.tensor(2.0)
    path = tmp_path / "person.safetensors"
    save_file(tensors, path)
    person = read("sd", path)
    own = action_of("sd").lora
    halved = {key: weight if key.endswith(lora.DOWN) else 0.5 * weight for key, weight in own.items()}
    assert all(torch.equal(*_same_rank(person.lora[key], weight)) for key, weight in halved.items())
    assert person.lora_parts == {"unet", "text_encoder"}
    ours = drawn_by_us("sd", dict(person.lora))
    assert np.array_equal(ours, drawn_by_stock("sd", lambda stock: stock.load_lora_weights(path)))
    assert (ours != drawn_by_us("sd", {k: w for k, w in person.lora.items() if k.startswith("unet")})).any()
    assert state_of(backbone_of("sd")) == before
    both = Action("twa-leap", action_of("sd").vectors, "sd@0", lora=person.lora)
    with pytest.raises(ConfigError, match="adapts text_encoder too"):
        export_lora(both, BASES["sd"], tmp_path)


# Chroma has kept the layers of FLUX.1, and people use LoRAs of the one on the other.
KIN = {"flux", "chroma"}
STRANGERS = [(a, b) for a in CORE for b in CORE if a != b and {a, b} != KIN]


@pytest.mark.slow_but("sd on sdxl", "flux on sd3", "sd3 on klein")
@pytest.mark.parametrize(("made_for", "used_on"), STRANGERS, ids=" on ".join)
def test_a_file_for_another_family_is_told(made_for: str, used_on: str, tmp_path: Path) -> None:
    before = state_of(backbone_of(used_on))
    for path in export(made_for, tmp_path):
        with pytest.raises(CheckpointError, match=r"safetensors.*(made for|unknown way|does not fit)") as caught:
            read(used_on, path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert state_of(backbone_of(used_on)) == before


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    backbone, path = backbone_of("sd"), tmp_path / "x.safetensors"
    before = state_of(backbone)
    tensors = load_file(export("sd", tmp_path)[1])
    wide = {k: torch.zeros(w.shape[0], 768) if "attn2_to_k.lora_down" in k else w for k, w in tensors.items()}
    save_file(wide, path)
    with pytest.raises(CheckpointError, match=r"attn2.to_k' maps 768 to 16 numbers.*needs 32 to 16"):
        read("sd", path)
    save_file({k.replace("blocks_0", "blocks_7"): w for k, w in tensors.items()}, path)
    with pytest.raises(CheckpointError, match="does not have: it was made for another model"):
        import_lora(path, backbone)
    name = next(iter(tensors)).partition(".")[0]
    for mark, kind in ((f"{name}.dora_scale", "DoRA"), (f"{name}.hada_w1_a", "LoHa"), (f"{name}.lokr_w1", "LoKr")):
        save_file({**tensors, mark: torch.ones(2, 2)}, path)
        with pytest.raises(CheckpointError, match=f"is a {kind} adapter"):
            read("sd", path)
    save_file({f"base_model.model.{k}": w for k, w in action_of("sd").lora.items()}, path)  # as PEFT saves
    assert len(read("sd", path).lora) == len(action_of("sd").lora)
    with pytest.raises(ConfigError, match="must be 2 to 28"):
        import_action(path, PIPELINES["sd"], name="l" * 29, backbone=backbone)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read("sd", path)
    (tmp_path / "old.pt").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match="run code"):
        read("sd", tmp_path / "old.pt")
    assert state_of(backbone) == before
    with pytest.raises(ConfigError, match="has no LoRA"):
        export_lora(Action("leap", [torch.ones(1, 32)], "sd@0"), BASES["sd"], tmp_path)
    with pytest.raises(ConfigError, match="adapts a unet, which FluxPipeline does not have"):
        export_lora(action_of("sd"), BASES["flux"], tmp_path)
