"""Single-file checkpoints of tiny pipelines, with the names that their original code gave to tensors."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single_file(
    pipeline: Any, path: Path, change: Callable[[Tensors], Tensors] = lambda weights: weights
) -> Path:
    """A file that holds a tiny pipeline as those of Civitai hold a large one; `change` may damage it."""
    kind = type(pipeline).__name__
    if kind == "StableDiffusionPipeline":
        weights = _unet(pipeline.unet) | _vae(pipeline.vae) | _clip(pipeline.text_encoder, "cond_stage_model")
    elif kind == "StableDiffusionXLPipeline":
        weights = _unet(pipeline.unet) | _vae(pipeline.vae)
        weights |= _clip(pipeline.text_encoder, "conditioner.embedders.0") | _open_clip(pipeline.text_encoder_2)
    elif kind == "Flux2KleinPipeline":
        weights = _flux2(pipeline.transformer)
    else:
        weights = _z_image(pipeline.transformer)
    save_file({name: value.contiguous().clone() for name, value in change(weights).items()}, path)
    return path


def _unet(unet: nn.Module) -> Tensors:
    per_block = unet.config.layers_per_block + 1
    named = {**DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"]}
    if unet.config.addition_embed_type:
        named |= DIFFUSERS_TO_LDM_MAPPING["unet"]["addition_embed_type"]

    def renamed(name: str) -> str:
        if name in named:
            return str(named[name])
        parts = name.split(".")
        if parts[0] == "mid_block":
            parts.insert(1, "0")
        block, kind, number, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
        if parts[0] == "mid_block":
            place = f"middle_block.{1 if kind == 'attentions' else 2 * number}"
            return f"{place}.{rest if kind == 'attentions' else _swapped(rest, _RESNET)}"
        down = parts[0] == "down_blocks"
        first = block * per_block + down
        side = "input_blocks" if down else "output_blocks"
        if kind == "downsamplers":
            return f"{side}.{first + per_block - 1}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            attends = "CrossAttn" in unet.config.up_block_types[block]
            return f"{side}.{first + per_block - 1}.{1 + attends}.{rest}"
        if kind == "attentions":
            return f"{side}.{first + number}.1.{rest}"
        return f"{side}.{first + number}.0.{_swapped(rest, _RESNET)}"

    return {f"model.diffusion_model.{renamed(name)}": value for name, value in unet.state_dict().items()}


def _vae(vae: nn.Module) -> Tensors:
    blocks = len(vae.config.up_block_types)

    def renamed(name: str) -> str:
        known = DIFFUSERS_TO_LDM_MAPPING["vae"].get(name)
        if known is not None:
            return str(known)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            head, _, rest = name.partition("mid_block.attentions.0.")
            return f"{head}mid.attn_1.{_swapped(rest, _VAE_ATTENTION)}"
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        return name.replace("conv_shortcut", "nin_shortcut")

    return {f"first_stage_model.{renamed(name)}": value for name, value in vae.state_dict().items()}


def _clip(encoder: nn.Module, place: str) -> Tensors:
    names = {name: name.removeprefix("text_model.") for name in encoder.state_dict()}
    return {f"{place}.transformer.text_model.{names[name]}": value for name, value in encoder.state_dict().items()}


def _open_clip(encoder: nn.Module) -> Tensors:
    """As OpenCLIP names tensors: queries, keys and values are one, and the projection is turned."""
    place, found = "conditioner.embedders.1.model", {}
    state = encoder.state_dict()
    layers = DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"]
    swaps = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj", "self_attn": "attn"}
    for name, value in state.items():
        if name in layers:
            found[f"{place}.{layers[name]}"] = value.T if name == "text_projection.weight" else value
            continue
        block = name.replace("text_model.encoder.layers.", f"{place}.transformer.resblocks.")
        if ".q_proj." in block:
            own = [state[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
            head, _, end = block.replace("self_attn", "attn").partition(".q_proj.")
            found[f"{head}.in_proj_{end}"] = torch.cat(own)
        elif ".k_proj." not in block and ".v_proj." not in block:
            found[_swapped(block, swaps)] = value
    return found


def _flux2(transformer: nn.Module) -> Tensors:
    swaps = {
        "x_embedder": "img_in", "context_embedder": "txt_in",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin", "proj_out": "final_layer.linear",
        "attn.norm_q.weight": "img_attn.norm.query_norm.scale", "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
        "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
        "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
        "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
        "ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2",
        "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
    }  # fmt: skip
    single = {
        "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2",
        "attn.norm_q.weight": "norm.query_norm.scale", "attn.norm_k.weight": "norm.key_norm.scale",
    }  # fmt: skip
    found: Tensors = {}
    state = transformer.state_dict()
    for name, value in state.items():
        if name == "norm_out.linear.weight":
            scale, shift = value.chunk(2)
            found["final_layer.adaLN_modulation.1.weight"] = torch.cat([shift, scale])
        elif name.startswith("single_transformer_blocks."):
            found[_swapped(name.replace("single_transformer_blocks", "single_blocks"), single)] = value
        elif (fused := re.search(r"attn\.(to_q|add_q_proj)\.weight$", name)) is not None:
            own = [state[name.replace("_q", which)] for which in ("_q", "_k", "_v")]
            side = "img_attn" if fused[1] == "to_q" else "txt_attn"
            head = name.replace("transformer_blocks", "double_blocks").partition("attn.")[0]
            found[f"{head}{side}.qkv.weight"] = torch.cat(own)
        elif re.search(r"attn\.(to_[kv]|add_[kv]_proj)\.weight$", name) is None:
            found[_swapped(name.replace("transformer_blocks", "double_blocks"), swaps)] = value
    return found


def _z_image(transformer: nn.Module) -> Tensors:
    """With the word before all names that files have which hold other networks too, and one of those."""
    swaps = {
        "all_final_layer.2-1.": "final_layer.", "all_x_embedder.2-1.": "x_embedder.",
        "attention.to_out.0.": "attention.out.", "attention.norm_k.": "attention.k_norm.",
        "attention.norm_q.": "attention.q_norm.",
    }  # fmt: skip
    found: Tensors = {"vae.encoder.conv_in.bias": torch.zeros(3)}
    state = transformer.state_dict()
    for name, value in state.items():
        if name.endswith("attention.to_q.weight"):
            own = [state[name.replace("to_q", which)] for which in ("to_q", "to_k", "to_v")]
            found[f"model.diffusion_model.{name.replace('to_q', 'qkv')}"] = torch.cat(own)
        elif not name.endswith(("attention.to_k.weight", "attention.to_v.weight")):
            found[f"model.diffusion_model.{_swapped(name, swaps)}"] = value
    return found


def _swapped(name: str, swaps: dict[str, str]) -> str:
    """A name with the longest word that it holds put in place of ours."""
    for old in sorted(swaps, key=len, reverse=True):
        if old in name:
            return name.replace(old, swaps[old])
    return name
