"""Says whether another program will read a file, by that program's own rules.

The rules are those of ComfyUI's `comfy/sd1_clip.py` and `comfy/lora.py`, of A1111's and Forge's `textual_inversion.py`
and `networks.py`, of InvokeAI's probe of embeddings, and of diffusers' loaders, all of 2026.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from twinact.configs.settings import check_choice
from twinact.export.embeddings import MAX_VECTORS, read_tensors
from twinact.export.kinds import is_lora
from twinact.storage import stored_kind

# Widths of the text encoders that the published models have, by ComfyUI's names of them.
_WIDTHS = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280, "t5xxl": 4096, "qwen3_4b": 2560, "qwen3_8b": 4096}
_PLAIN_WIDTHS = {768, 1024, 2048}  # of Stable Diffusion 1, 2 and XL, as A1111 counts them


def obstacles(path: str | Path, program: str) -> list[str]:
    """Why a program will not read a file, or not as it is meant; empty where it will.

    Args:
        path: A safetensors file.
        program: One of `PROGRAMS`.

    Raises:
        CheckpointError: It is no safetensors file, or damaged.
        ConfigError: There is no such program.
    """
    path = Path(path)
    check_choice("program", program, PROGRAMS)
    kind = stored_kind(path)
    if kind is not None:
        way = "twinact export writes files for it" if kind == "action" else "it is for twinact alone"
        return [f"a twinact {kind} file is not in a form that {program} knows; {way}"]
    tensors = read_tensors(path)[0]
    layers = [key for key in tensors if is_lora(key)]
    if layers:
        return _LORAS[program](layers)
    words = {key: tensor for key, tensor in tensors.items() if tensor.ndim}
    return PROGRAMS[program](path.stem, words) if words else ["it holds no vectors and no LoRA"]


def _comfyui(stem: str, tensors: Mapping[str, Tensor]) -> list[str]:
    found = []
    if re.search(r"[\s<\[():,]", stem):
        found.append(f"the name {stem!r} has a blank, bracket, colon or comma, where ComfyUI ends a word")
    try:
        float(stem)
        found.append(f"the name {stem!r} reads as a number, which ComfyUI takes for a weight")
    except ValueError:
        pass
    named = {key: tensor for key, tensor in tensors.items() if key in _WIDTHS}
    if "t5" in tensors and "t5xxl" not in tensors:
        found.append("the vectors for T5 are called 't5', and ComfyUI looks for 't5xxl'")
    for key, tensor in named.items():
        if tensor.shape[-1] != _WIDTHS[key]:
            found.append(f"{key} is {tensor.shape[-1]} wide, and ComfyUI's encoder of that name {_WIDTHS[key]}")
    if not named:
        width = next(iter(tensors.values())).shape[-1]
        if width not in _WIDTHS.values():
            found.append(f"its vectors are {width} wide, and ComfyUI has no text encoder of that width")
    longest = max(tensor.reshape(-1, tensor.shape[-1]).shape[0] for tensor in tensors.values())
    if longest > MAX_VECTORS:
        found.append(f"it has {longest} vectors, and a prompt holds at most {MAX_VECTORS} together")
    return found


def _a1111(stem: str, tensors: Mapping[str, Tensor]) -> list[str]:
    if {"clip_l", "clip_g"} <= tensors.keys():
        width = tensors["clip_l"].shape[-1] + tensors["clip_g"].shape[-1]
    elif len(tensors) == 1:
        width = next(iter(tensors.values())).shape[-1]
    else:
        return [f"it holds {len(tensors)} tensors, and A1111 and Forge take one, or clip_l and clip_g"]
    if tensors.keys() & {"t5", "t5xxl", "qwen3_4b", "qwen3_8b"}:
        return ["it is for a text encoder for which A1111 and Forge read no words"]
    return [] if width in _PLAIN_WIDTHS else [f"its vectors are {width} wide, and no model of A1111's is"]


def _invokeai(stem: str, tensors: Mapping[str, Tensor]) -> list[str]:
    known = next((tensors[key].shape[-1] for key in ("emb_params", "clip_g") if key in tensors), None)
    width = next(iter(tensors.values())).shape[0] if known is None else known
    if width in (768, 1024, 1280):
        return []
    return [f"InvokeAI takes {width} for its width, which is that of no model it knows"]


def _diffusers(stem: str, tensors: Mapping[str, Tensor]) -> list[str]:
    if len(tensors) == 1:
        return []
    return [
        f"it holds {', '.join(sorted(tensors))}: give load_textual_inversion each tensor with its token, text_encoder "
        "and tokenizer"
    ]


def _lora_of_comfyui(layers: list[str]) -> list[str]:
    known = ("lora_", "unet.", "transformer.", "diffusion_model.", "text_encoder", "base_model.model.", "lycoris_")
    strange = next((key for key in layers if not key.startswith(known)), None)
    return [] if strange is None else [f"its layers are named as {strange!r}, which ComfyUI does not know"]


def _lora_of_webui(layers: list[str]) -> list[str]:
    strange = next((key for key in layers if not key.startswith(("lora_unet_", "lora_te"))), None)
    return [] if strange is None else [f"its layers are named as {strange!r}; A1111 and Forge read kohya's names"]


def _lora_of_a1111(layers: list[str]) -> list[str]:
    if any("_joint_blocks_" in key for key in layers):
        return ["A1111 cannot take the names of SD3's layers apart"]
    return _lora_of_webui(layers)


def _lora_of_invokeai(layers: list[str]) -> list[str]:
    return ["which names of LoRA layers InvokeAI reads has not been looked into"]


def _lora_of_diffusers(layers: list[str]) -> list[str]:
    if any("_joint_blocks_" in key for key in layers):
        return ["diffusers reads kohya's names of SD3's layers without an error and without an effect"]
    return []


PROGRAMS: dict[str, Callable[[str, Mapping[str, Tensor]], list[str]]] = {
    "comfyui": _comfyui,
    "a1111": _a1111,
    "forge": _a1111,
    "invokeai": _invokeai,
    "diffusers": _diffusers,
}
"""Programs, and what each makes of an embedding by its stem and tensors."""
_LORAS: dict[str, Callable[[list[str]], list[str]]] = {
    "comfyui": _lora_of_comfyui,
    "a1111": _lora_of_a1111,
    "forge": _lora_of_webui,
    "invokeai": _lora_of_invokeai,
    "diffusers": _lora_of_diffusers,
}
