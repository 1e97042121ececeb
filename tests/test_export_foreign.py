"""LoRA files as other tools spell them: every number arrives, and pictures are those of the stock loader."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from families import PIPELINES, backbone_of, drawn_by_stock, drawn_by_us
from lora_spellings import (
    ALPHA,
    RANK,
    Parts,
    Spelling,
    comfy,
    comfy_alpha,
    kohya,
    kohya_of_one_encoder,
    layers_of,
    legacy_text,
    lycoris,
    of_2023,
    of_a_named_adapter,
    older,
    older_alpha,
    original,
    peft,
    peft_alpha,
    saved_by_peft,
)
from tiny import tiny_flux
from twinact.backbones.backbone import Backbone
from twinact.backbones.flux import Flux
from twinact.errors import CheckpointError
from twinact.export import LAYOUTS, import_action, import_lora
from twinact.export.spellings import respelled
from twinact.lora import DOWN, UP

_ATTENTION, _TEXT = r"attn\d?\.(to|add)_\w+", r"self_attn\.\w+_proj|mlp\.fc"
_SD3_TEXT = rf"{_TEXT}|text_projection"  # as OneTrainer


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize(
    ("name", "spelling", "parts", "by_stock"),
    [
        ("sd", kohya_of_one_encoder, {"unet": "transformer_blocks", "text_encoder": _TEXT}, True),
        ("sd", kohya, {"unet": r"transformer_blocks|proj_(in|out)$"}, True),  # 1 x 1 convolutions
        ("sd", kohya, {"unet": r"transformer_blocks|resnets.*conv"}, True),  # LoCon
        ("sdxl", kohya, {"unet": r"transformer_blocks|proj_(in|out)$"}, True),  # OneTrainer
        ("sdxl", kohya, {"unet": _ATTENTION, "text_encoder": _TEXT, "text_encoder_2": _TEXT}, True),
        ("sdxl", legacy_text, {"unet": _ATTENTION, "text_encoder": _TEXT}, True),
        ("sdxl", older, {"unet": _ATTENTION}, True),
        ("flux", kohya, {"transformer": _ATTENTION, "text_encoder": _TEXT}, True),
        ("sd3", kohya, {"transformer": _ATTENTION}, False),  # the stock loader does not know the names
        ("sd3", kohya, {"transformer": _ATTENTION, "text_encoder": _SD3_TEXT, "text_encoder_2": _SD3_TEXT}, False),
        # The stock loader refuses or overlooks these alphas.
        ("sdxl", peft_alpha, {"unet": _ATTENTION}, False),
        ("sdxl", older_alpha, {"unet": _ATTENTION}, False),
        ("flux", peft_alpha, {"transformer": _ATTENTION}, False),
        # The stock loader says that these are for another family.
        ("sd", comfy, {"unet": _ATTENTION, "text_encoder": _TEXT}, False),
        ("sd2", comfy_alpha, {"unet": _ATTENTION}, False),
        ("sdxl", comfy, {"unet": _ATTENTION}, False),
        ("sdxl", comfy_alpha, {"unet": _ATTENTION, "text_encoder": _TEXT, "text_encoder_2": _TEXT}, False),
        ("sd", original, {"unet": _ATTENTION}, False),
        ("sdxl", original, {"unet": _ATTENTION}, False),
        ("sd", saved_by_peft, {"unet": _ATTENTION}, False),
        ("flux", saved_by_peft, {"transformer": _ATTENTION}, False),
        ("sd3", saved_by_peft, {"transformer": _ATTENTION}, False),
        ("sd", of_2023, {"unet": _ATTENTION}, False),
        ("sd", of_a_named_adapter, {"unet": _ATTENTION}, False),
        ("flux", of_a_named_adapter, {"transformer": _ATTENTION}, False),
        ("sdxl", lycoris, {"unet": _ATTENTION}, False),
        ("flux", lycoris, {"transformer": _ATTENTION}, False),
    ],
)
def test_spellings_of_other_tools(name: str, spelling: Spelling, parts: Parts, by_stock: bool, tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    for part, layer, down, up in layers_of(name, parts):
        spelled = spelling(part, layer, down, up)
        scale = ALPHA / RANK if any(key.endswith("alpha") for key in spelled) else 1.0
        tensors |= spelled
        expected |= {f"{part}.{layer}{DOWN}": down, f"{part}.{layer}{UP}": scale * up}
    _check(name, tensors, expected, by_stock, tmp_path)


def _check(
    name: str, tensors: dict[str, Tensor], expected: dict[str, Tensor], by_stock: bool, folder: Path, **header: str
) -> None:
    path = folder / "person.safetensors"
    save_file(tensors, path, metadata=header)
    found = dict(import_action(path, PIPELINES[name.rstrip("2")], name="person", backbone=backbone_of(name)).lora)
    assert found.keys() == expected.keys() and len(found) > 4
    for key in {key.rpartition(".lora_")[0] for key in expected}:
        # Loaders may scale either half.
        products = [w[key + UP].flatten(1) @ w[key + DOWN].flatten(1) for w in (found, expected)]
        torch.testing.assert_close(*products)
    if by_stock:
        theirs = drawn_by_stock(name, lambda stock: stock.load_lora_weights(path))
        assert np.array_equal(drawn_by_us(name, found), theirs)


@pytest.mark.slow
def test_alpha_in_the_header_of_diffusers(tmp_path: Path) -> None:
    layers = list(layers_of("sdxl", {"unet": _ATTENTION}))
    tensors = {key: value for layer in layers for key, value in peft(*layer).items()}
    expected = {key: ALPHA / RANK * value if key.endswith(UP) else value for key, value in tensors.items()}
    config = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.target_modules": [layer for _, layer, *_ in layers]}
    _check("sdxl", tensors, expected, True, tmp_path, lora_adapter_metadata=json.dumps(config))


@pytest.mark.parametrize("beside", ["bundle", "nothing"])
@pytest.mark.parametrize(
    ("name", "spelling", "part"),
    [
        ("sdxl", peft, "unet"),
        ("sd", comfy, "unet"),
        ("flux", peft, "transformer"),
        ("sd3", saved_by_peft, "transformer"),
    ],
)
def test_alpha_in_the_header_is_read_whatever_else_is_in_the_file(
    name: str, spelling: Spelling, part: str, beside: str, tmp_path: Path
) -> None:
    layers = list(layers_of(name, {part: _ATTENTION}))
    tensors = {key: value for layer in layers for key, value in spelling(*layer).items()}
    expected = {
        key: (ALPHA / RANK if key.endswith(UP) else 1) * value for one in layers for key, value in peft(*one).items()
    }
    if beside == "bundle":
        keys = LAYOUTS[PIPELINES[name]].keys
        widths = [table.width for table in backbone_of(name).token_tables()]
        tensors |= {f"bundle_emb.anna.{key}": torch.ones(1, width) for key, width in zip(keys, widths, strict=True)}
    config = {f"{part}.r": RANK, f"{part}.lora_alpha": ALPHA}
    _check(name, tensors, expected, False, tmp_path, lora_adapter_metadata=json.dumps(config))


@pytest.mark.parametrize(
    ("key", "header", "told"),
    [
        ("clip_l", {}, "'clip_l' is no part of a LoRA"),
        ("unet.conv_in.lora_B.bias", {}, "LoRA with biases"),
        ("unet.conv_in.lora_A.weight", {}, "'unet.conv_in' lacks half"),
        ("", {"lora_adapter_metadata": "[1]"}, "lora_adapter_metadata in the header is not readable"),
        (
            "",
            {"lora_adapter_metadata": '{"unet.lora_alpha": "x"}'},
            "lora_adapter_metadata in the header is not usable",
        ),
    ],
)
def test_nothing_beside_a_lora_is_dropped_in_silence(
    key: str, header: dict[str, str], told: str, tmp_path: Path
) -> None:
    tensors = {name: value for layer in layers_of("sd", {"unet": _ATTENTION}) for name, value in peft(*layer).items()}
    save_file(tensors | ({key: torch.ones(1, 32)} if key else {}), tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=re.escape(told)):
        import_action(tmp_path / "x.safetensors", PIPELINES["sd"], name="person", backbone=backbone_of("sd"))


_KEY = "unet.mid_block.attentions.0.proj_in"


@pytest.mark.parametrize(
    ("tensors", "header", "told"),
    [
        ({"": torch.full((2, 16), float("nan"))}, "", "numbers that are not finite"),
        ({"": torch.ones(2, 16, dtype=torch.int64)}, "", "torch.int64"),
        ({"": torch.tensor(1.0)}, "", "has tensors of shapes ()"),
        ({"": torch.ones(0, 16)}, "", "has tensors of shapes (0, 16)"),
        ({".alpha": torch.ones(2)}, "", "is (2,), expected one number"),
        ({".alpha": torch.tensor(float("inf"))}, "", "numbers that are not finite"),
        ({}, '{"unet.lora_alpha": Infinity}', "an alpha of inf"),
        ({}, f'{{"unet.lora_alpha": 1{"0" * 400}}}', "is not usable"),
        ({}, r'{"alpha_pattern": {"([a-z0-9_.]+)+!": 3}}', "is no name of a layer"),  # would be looked for for ever
    ],
)
def test_what_a_lora_cannot_hold_is_told(tensors: dict[str, Tensor], header: str, told: str, tmp_path: Path) -> None:
    whole = {_KEY + DOWN: torch.ones(2, 16), _KEY + UP: torch.ones(16, 2)}
    changed = whole | {_KEY + (end or DOWN): tensor for end, tensor in tensors.items()}
    metadata = {"lora_adapter_metadata": header} if header else None
    save_file(changed, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=re.escape(told)):
        import_action(tmp_path / "x.safetensors", PIPELINES["sd"], name="person", backbone=backbone_of("sd"))


def test_alphas_of_layers_by_the_ends_of_their_names() -> None:
    header = {"lora_adapter_metadata": r'{"lora_alpha": 2, "alpha_pattern": {"attn1\\.to_k": 8}}'}
    layers = ("unet.a.attn1.to_k", "unet.a.attn2.to_k")
    tensors = {layer + end: torch.ones(2, 2) for layer in layers for end in (DOWN, UP)}
    found = respelled(tensors, header, encoders=1, part="unet")
    assert [float(found[layer + UP][0, 0]) for layer in layers] == [4.0, 1.0]


def test_several_adapters_in_one_file_are_named(tmp_path: Path) -> None:
    tensors = {
        f"{_KEY}{half}.{name}.weight": torch.ones(2, 2) for half in (".lora_A", ".lora_B") for name in ("ann", "bo")
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"several adapters \(ann, bo\)"):
        import_action(tmp_path / "x.safetensors", PIPELINES["sd"], name="person", backbone=backbone_of("sd"))


@pytest.mark.parametrize(
    ("name", "which"), [("sdxl", r"proj_(in|out)$"), ("sd", r"proj_(in|out)$"), ("sd", _ATTENTION)]
)
@pytest.mark.parametrize("spelling", [kohya, peft])
def test_projections_may_be_written_as_convolutions_and_back(
    name: str, which: str, spelling: Spelling, tmp_path: Path
) -> None:
    tensors: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    for part, layer, down, up in layers_of(name, {"unet": which}):
        turned = [half[..., 0, 0] if half.ndim == 4 else half[..., None, None] for half in (down, up)]
        tensors |= spelling(part, layer, *turned)
        scale = ALPHA / RANK if spelling is kohya else 1.0
        expected |= {f"{part}.{layer}{DOWN}": down, f"{part}.{layer}{UP}": scale * up}
    save_file(tensors, tmp_path / "x.safetensors")
    found = import_lora(tmp_path / "x.safetensors", backbone_of(name))
    assert found.keys() == expected.keys()
    for key in {key.rpartition(".lora_")[0] for key in expected}:
        products = [w[key + UP].flatten(1) @ w[key + DOWN].flatten(1) for w in (found, expected)]
        torch.testing.assert_close(*products)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_mid_block.w_norm", "norm"),
        ("lora_unet_a.on_input", "IA3"),
        ("lora_unet_a.b1.weight", "GLoRA"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "LoRA of XLabs"),
    ],
)
def test_adapters_of_other_kinds_are_named(key: str, kind: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(1, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"is a {kind} adapter \({key}\)"):
        import_action(tmp_path / "x.safetensors", PIPELINES["sd"], name="person", backbone=backbone_of("sd"))


def wide_flux() -> Backbone:
    """The stock converter knows the real width only; the weights of the transformer are not looked at."""
    pipeline = tiny_flux()
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=24,
            joint_attention_dim=64, pooled_projection_dim=32, guidance_embeds=True,
        )  # fmt: skip
    pipeline.register_modules(transformer=transformer.to_empty(device="cpu"))
    return Flux(pipeline, "flux@real")


def fused_of_flux(width: int = 3072) -> dict[str, Tensor]:
    generator, tensors = torch.Generator().manual_seed(0), {}
    for layer, columns, rows in (("double_blocks_0_img_attn_qkv", 1, 3), ("single_blocks_0_linear1", 1, 7)):
        flat = f"lora_unet_{layer}"
        tensors[f"{flat}.lora_down.weight"] = torch.randn(RANK, columns * width, generator=generator)
        tensors[f"{flat}.lora_up.weight"] = torch.randn(rows * width, RANK, generator=generator)
        tensors[f"{flat}.alpha"] = torch.tensor(ALPHA)
    return tensors


def test_fused_layers_of_kohya_for_flux(tmp_path: Path) -> None:
    width, tensors = 3072, fused_of_flux()
    save_file(tensors, tmp_path / "x.safetensors")
    found = import_lora(tmp_path / "x.safetensors", wide_flux())
    for fused, block in (
        ("double_blocks_0_img_attn_qkv", "transformer_blocks.0.attn"),
        ("single_blocks_0_linear1", "single_transformer_blocks.0.attn"),
    ):
        down, up = (tensors[f"lora_unet_{fused}.lora_{half}.weight"] for half in ("down", "up"))
        for index, layer in enumerate(("to_q", "to_k", "to_v")):
            key = f"transformer.{block}.{layer}"
            rows = slice(index * width, index * width + 64)  # a few suffice
            expected = ALPHA / RANK * up[rows] @ down
            torch.testing.assert_close(found[key + UP][:64] @ found[key + DOWN], expected, rtol=1e-4, atol=1e-4)


def t5_layers(prefix: str, width: int) -> dict[str, Tensor]:
    """One layer of T5 as kohya's scripts (te3), OneTrainer (te2 on FLUX) and ComfyUI's trainer name it."""
    layer = f"{prefix}encoder.block.1.layer.0.SelfAttention.q"
    layer = layer if prefix.endswith(".") else layer.replace(".", "_")
    halves = {"lora_down": torch.ones(RANK, width), "lora_up": torch.ones(width, RANK)}
    return {f"{layer}.{half}.weight": weight for half, weight in halves.items()}


@pytest.mark.parametrize("prefix", ["lora_te3_", "lora_te2_", "text_encoders.t5xxl.transformer."])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_layers_of_t5_are_not_dropped_in_silence(name: str, prefix: str, tmp_path: Path) -> None:
    """The loader of FLUX.1 leaves them out with a warning, which nobody sees."""
    block = "double_blocks_0_img_attn" if name == "flux" else "joint_blocks_0_x_block_attn"
    spelled = {
        f"lora_unet_{block}_{layer}.lora_{half}.weight": torch.ones(shape)
        for layer, rows in (("qkv", 96), ("proj", 32))
        for half, shape in (("down", (RANK, 32)), ("up", (rows, RANK)))
    }
    save_file(spelled, tmp_path / "x.safetensors")
    assert len(import_lora(tmp_path / "x.safetensors", backbone_of(name))) == 2 * 4
    save_file(spelled | t5_layers(prefix, 64), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"LoRA of T5.*{prefix}.*1 layer\).*train without T5") as caught:
        import_lora(tmp_path / "x.safetensors", backbone_of(name))
    assert "\n" not in str(caught.value)


def test_every_layer_of_a_file_is_counted(tmp_path: Path) -> None:
    """The stock converter leaves out a projection of CLIP, which fused layers that become three once hid."""
    tensors = {
        f"lora_unet_double_blocks_0_{stream}_attn_qkv.lora_{half}.weight": torch.ones(shape)
        for stream in ("img", "txt")
        for half, shape in (("down", (RANK, 32)), ("up", (96, RANK)))
    }
    tensors |= {f"lora_te1_text_projection.lora_{half}.weight": torch.ones(RANK, RANK) for half in ("down", "up")}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="text_projection is no layer of the model"):
        import_lora(tmp_path / "x.safetensors", backbone_of("flux"))
