"""kohya's names for the layers of SD3 and FLUX.1: what they stand for, by the converters of diffusers, and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, FluxPipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from families import BASES, PIPELINES, backbone_of, drawn_by_stock, drawn_by_us
from test_export_lora import action_of, read
from twinact.action import Action
from twinact.errors import CheckpointError, ConfigError
from twinact.export import export_lora, import_lora
from twinact.export.kohya import fused
from twinact.lora import DOWN, UP

RANK = 3


def lora_of_all(name: str, *, without: str = "nothing") -> dict[str, Tensor]:
    """A LoRA on every linear layer of a transformer."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for layer, module in backbone_of(name).denoiser.named_modules():
        if isinstance(module, nn.Linear) and without not in layer:
            rows, columns = module.weight.shape
            weights[f"transformer.{layer}{DOWN}"] = torch.randn(RANK, columns, generator=generator)
            weights[f"transformer.{layer}{UP}"] = torch.randn(rows, RANK, generator=generator)
    return weights


def product(weights: dict[str, Tensor], key: str) -> Tensor:
    """What a layer of kohya's gains, alpha and all."""
    down, up = weights[f"{key}.lora_down.weight"], weights[f"{key}.lora_up.weight"]
    return up @ down * (float(weights[f"{key}.alpha"]) / len(down))


class Deltas(dict[str, Tensor]):
    """A checkpoint of the original code whose weights are what a LoRA adds; biases and the like are zeros."""

    def pop(self, key: str, *_: object) -> Tensor:  # type: ignore[override]
        return self.get(key, torch.zeros(6))


@pytest.mark.parametrize("name", ["sd3", "sd3.5-without-t5"])
def test_layers_of_sd3_are_those_of_the_original_code(name: str, tmp_path: Path) -> None:
    """diffusers has no converter for LoRAs of SD3, but one for checkpoints: a LoRA is what is added to one."""
    weights, backbone = lora_of_all(name), backbone_of(name)
    tensors = fused(weights, PIPELINES["sd3"])
    originals = {name.replace(".", "_"): name for name in _names_in_sd3(blocks=2)}
    deltas = Deltas()
    for key in {key.partition(".")[0] for key in tensors}:
        deltas[f"{originals.pop(key.removeprefix('lora_unet_'))}.weight"] = product(tensors, key)
    # Only 3.5 medium attends twice, in its first blocks; the last block's text goes no further.
    assert originals.keys() == {
        f"joint_blocks_{block}_x_block_attn2_{layer}" for block in (0, 1) for layer in ("qkv", "proj")
        if block or name == "sd3"
    }  # fmt: skip
    converted = convert_sd3_transformer_checkpoint_to_diffusers(deltas)
    for key in (key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)):
        layer = key.removeprefix("transformer.")
        torch.testing.assert_close(converted[f"{layer}.weight"], weights[key + UP] @ weights[key + DOWN])
    save_file(tensors, tmp_path / "x.safetensors")
    back = import_lora(tmp_path / "x.safetensors", backbone)
    assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


def _names_in_sd3(blocks: int) -> list[str]:
    names = ["context_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1"]
    names += [f"{start}_embedder.mlp.{place}" for start in "ty" for place in (0, 2)]
    for block in range(blocks):
        x, context = (f"joint_blocks.{block}.{stream}_block" for stream in ("x", "context"))
        names += [f"{x}.attn2.qkv", f"{x}.attn2.proj"]
        for stream in (x, context):
            names += [f"{stream}.attn.qkv", f"{stream}.adaLN_modulation.1"]
            if stream == x or block < blocks - 1:
                names += [f"{stream}.attn.proj", f"{stream}.mlp.fc1", f"{stream}.mlp.fc2"]
    return names


def test_layers_of_flux_are_those_of_the_stock_converter(tmp_path: Path) -> None:
    """But for the first of single blocks, for which that one knows the real width only."""
    weights = lora_of_all("flux", without="single_transformer_blocks.0.attn")
    weights = {key: weight for key, weight in weights.items() if "proj_mlp" not in key}
    tensors = fused(weights, PIPELINES["flux"])
    stock = FluxPipeline.lora_state_dict(dict(tensors))
    # It forgets the part of some.
    stock = {f"transformer.{key.removeprefix('transformer.')}": weight for key, weight in stock.items()}
    assert stock.keys() == weights.keys() and all(torch.equal(stock[key], weights[key]) for key in weights)
    save_file(tensors, tmp_path / "x.safetensors")
    back = import_lora(tmp_path / "x.safetensors", backbone_of("flux"))
    assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


def test_layers_of_flux2_are_those_of_the_stock_converter(tmp_path: Path) -> None:
    """But for those that turn time into shifts, which it leaves out."""
    weights = lora_of_all("klein")
    tensors = fused(weights, PIPELINES["klein"])
    stock = Flux2KleinPipeline.lora_state_dict(dict(tensors))
    left_out = {key for key in weights if "modulation" in key or "norm_out" in key}
    assert stock.keys() == weights.keys() - left_out
    assert all(torch.equal(stock[key], weights[key]) for key in stock)
    save_file(tensors, tmp_path / "x.safetensors")
    back = import_lora(tmp_path / "x.safetensors", backbone_of("klein"))
    assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


def test_layers_of_chroma_are_those_of_the_stock_converter(tmp_path: Path) -> None:
    """That of FLUX.1, and with the same exception; what makes the shifts is written under no other names."""
    weights = {key: weight for key, weight in lora_of_all("chroma").items() if "distilled_guidance" not in key}
    tensors = fused(weights, PIPELINES["chroma"])
    double = {key: tensor for key, tensor in tensors.items() if "double_blocks" in key}
    stock = FluxPipeline.lora_state_dict(dict(double))
    assert stock and all(torch.equal(stock[key], weights[key]) for key in stock)
    assert len(stock) == sum(key.startswith("transformer.transformer_blocks") for key in weights)
    save_file(tensors, tmp_path / "x.safetensors")
    back = import_lora(tmp_path / "x.safetensors", backbone_of("chroma"))
    assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


def test_layers_of_z_image_are_read_under_the_names_of_the_original_code(tmp_path: Path) -> None:
    """Which has queries, keys and values in one layer."""
    weights = {key: weight for key, weight in lora_of_all("z-image").items() if ".attention." in key}
    tensors = fused(weights, PIPELINES["z-image"])
    assert "lora_unet_context_refiner_0_attention_qkv.lora_down.weight" in tensors
    save_file(tensors, tmp_path / "x.safetensors")
    back = import_lora(tmp_path / "x.safetensors", backbone_of("z-image"))
    assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


def test_single_blocks_of_flux_at_their_real_width_go_through_the_stock_converter(tmp_path: Path) -> None:
    generator, weights = torch.Generator().manual_seed(0), {}
    blocks = [("single_transformer_blocks.37", ("to_q", "to_v")), ("transformer_blocks.18", ("to_q", "to_k", "to_v"))]
    for layer in (f"transformer.{block}.attn.{layer}" for block, layers in blocks for layer in layers):
        weights[layer + DOWN] = torch.randn(2, 3072, generator=generator)
        weights[layer + UP] = torch.randn(3072, 2, generator=generator)
    action = Action("twa-leap", [torch.ones(1, 768), torch.ones(1, 4096)], "flux@0", lora=weights)
    path = export_lora(action, BASES["flux"], tmp_path)[1]
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(path).items()}
    assert shapes == {
        "lora_unet_single_blocks_37_linear1.lora_down.weight": (8, 3072),
        "lora_unet_single_blocks_37_linear1.lora_up.weight": (7 * 3072, 8),
        "lora_unet_single_blocks_37_linear1.alpha": (),
        "lora_unet_double_blocks_18_img_attn_qkv.lora_down.weight": (6, 3072),
        "lora_unet_double_blocks_18_img_attn_qkv.lora_up.weight": (3 * 3072, 6),
        "lora_unet_double_blocks_18_img_attn_qkv.alpha": (),
    }
    stock = FluxPipeline.lora_state_dict(path)
    assert all(torch.equal(stock[key], weight) for key, weight in weights.items())
    rest = {key: weight for key, weight in stock.items() if key not in weights}
    assert len(rest) == 4 and not any(weight.any() for weight in rest.values())  # to_k and proj_mlp


def test_double_blocks_of_flux_draw_the_same_pixels_through_the_stock_loader(tmp_path: Path) -> None:
    action = action_of("flux")
    double = {key: weight for key, weight in action.lora.items() if "single" not in key}
    path = export_lora(Action(action.name, action.vectors, "flux@0", lora=double), BASES["flux"], tmp_path)[1]
    ours = drawn_by_us("flux", double)
    assert np.array_equal(ours, drawn_by_stock("flux", lambda stock: stock.load_lora_weights(path)))
    assert (ours != drawn_by_us("flux", {})).any()


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("rank", [2, 3, 4, 12])
def test_what_was_learned_in_one_piece_is_shared_by_its_layers(name: str, rank: int, tmp_path: Path) -> None:
    """As kohya's scripts learn unless told to split; also ranks that could be three or four parts."""
    flat = {"sd3": "joint_blocks_1_context_block_attn_qkv", "flux": "single_blocks_0_linear1"}[name]
    rows = {"sd3": [32] * 3, "flux": [32, 32, 32, 128]}[name]
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"lora_unet_{flat}.lora_down.weight": torch.randn(rank, 32, generator=generator),
        f"lora_unet_{flat}.lora_up.weight": torch.randn(sum(rows), rank, generator=generator),
        f"lora_unet_{flat}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found = import_lora(tmp_path / "x.safetensors", backbone_of(name))
    start = "transformer.transformer_blocks.1.attn.add_{}_proj"
    layers = [start.format(letter) for letter in "qkv"]
    if name == "flux":
        start = "transformer.single_transformer_blocks.0"
        layers = [*(f"{start}.attn.to_{letter}" for letter in "qkv"), f"{start}.proj_mlp"]
    together = torch.cat([found[layer + UP] @ found[layer + DOWN] for layer in layers])
    torch.testing.assert_close(together, product(tensors, f"lora_unet_{flat}"))


def test_what_cannot_be_represented_is_one_line(tmp_path: Path) -> None:
    tensors = load_file(export_lora(action_of("sd3"), BASES["sd3"], tmp_path)[1])
    wide = {key: torch.cat([w, w[:32]]) if "qkv.lora_up" in key else w for key, w in tensors.items()}
    save_file(wide, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x.safetensors: LoRA of .*qkv' is \(128, 12\).*96 rows.*another model"):
        read("sd3", tmp_path / "x.safetensors")
    half = {key: weight for key, weight in tensors.items() if "blocks_0_x_block_attn_qkv.lora_up" not in key}
    save_file(half, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"attn_qkv' lacks half of its tensors"):
        read("sd3", tmp_path / "x.safetensors")
    ends = {DOWN: "lora_down.weight", UP: "lora_up.weight"}
    twice = {
        f"lora_transformer_transformer_blocks_0_attn_to_q.{ends[end]}": weight
        for key, weight in action_of("sd3").lora.items()
        for end in ends
        if key.endswith(f".0.attn.to_q{end}")
    }
    assert len(twice) == 2
    save_file(tensors | twice, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"is transformer.*attn.to_q, which has another name here, too"):
        read("sd3", tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"adapts .transformer.norm., which cannot be written in kohya's layout"):
        fused({f"transformer.norm{end}": torch.ones(1, 1) for end in (DOWN, UP)}, PIPELINES["flux"])
