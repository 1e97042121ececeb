"""How tools name the layers of a LoRA, brought into the two ways that the loaders read.

A layer's name is either that of diffusers after its part ("unet.mid_block…", halves A and B), or, in one word, that of
the original code or of kohya's scripts ("lora_unet_middle_block_1…", halves down and up). Scales are multiplied in on
the way: loaders disagree about alphas, and lose those of the header when they are given tensors.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from twinact.errors import CheckpointError
from twinact.lora import DOWN, UP

_HALVES = {
    f"{joint}.weight": half
    for half, (small, letter) in {"down": ("down", "A"), "up": ("up", "B")}.items()
    for joint in (f".lora_{small}", f".lora.{small}", f"_lora.{small}", f".lora_linear_layer.{small}",
                  f".lora_{letter}")
} | {".alpha": "alpha", ".lora.alpha": "alpha", "_lora.alpha": "alpha"}  # fmt: skip
_ENDS = sorted(_HALVES, key=len, reverse=True)
_NAMED = re.compile(r"(?<=\.lora_[AB])\.([\w-]+)(?=\.weight$)")  # by PEFT, which calls one adapter "default"
# How names begin -> what they begin with here; {} is the number of a text encoder among several.
_BEGINNINGS = {
    r"base_model\.model\.": "",  # PEFT
    r"(model\.)?(diffusion_model|unet_model)\.": "lora_unet_",  # ComfyUI
    r"lycoris_(?=(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)_)": "lora_unet_",
    r"lycoris_(?=(transformer_blocks|single_transformer_blocks)_)": "lora_transformer_",
    r"text_encoders\.clip_[lh]\.(transformer\.)?": "lora_te{one}_",
    r"text_encoders\.clip_g\.(transformer\.)?": "lora_te2_",
    r"(?=(input_blocks|middle_block|output_blocks)\.)": "lora_unet_",  # OneTrainer, original names
    r"(?=(double_blocks|single_blocks|joint_blocks)\.)": "lora_unet_",
    r"clip_l\.": "lora_te{one}_",
    r"clip_g\.": "lora_te2_",
    r"(?=(down_blocks|mid_block|up_blocks)\.)": "unet.",  # diffusers of 2023, PEFT
    r"(?=(transformer_blocks|single_transformer_blocks)\.)": "transformer.",
    r"(?=text_model\.)": "text_encoder.",
}
_OLDER = {  # attention processors of 2023
    r"\.processor\.": ".",
    r"\.self_attn\.to_([qkv])$": r".self_attn.\1_proj",
    r"\.self_attn\.to_out$": ".self_attn.out_proj",
    r"^(?!.*\bsingle_transformer_blocks\.)(.*)\.to_out$": r"\1.to_out.0",  # in those of FLUX.2 it is one layer
}


def respelled(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], *, encoders: int, part: str
) -> dict[str, Tensor]:
    """A LoRA under names that loaders read, with all scales multiplied in.

    Args:
        tensors: Of a foreign file, the LoRA alone.
        header: The file's metadata.
        encoders: How many text encoders the model has; with one alone, kohya's names do not number it.
        part: The denoiser's name in the pipeline.

    Raises:
        CheckpointError: A tensor is no part of a LoRA, or the header cannot be read.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _of_one_adapter(tensors):
        if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
            raise CheckpointError(f"{key!r} holds {tensor.dtype} or numbers that are not finite: copy or make it again")
        end = next((one for one in _ENDS if key.endswith(one)), None)
        if end is None:
            raise CheckpointError(f"{key!r} is no part of a LoRA, and nothing else can be read beside one")
        layers.setdefault(_renamed(key.removesuffix(end), encoders), {})[_HALVES[end]] = tensor
    scales = _adapter(header)
    found: dict[str, Tensor] = {}
    for name, halves in layers.items():
        flat = "." not in name
        down, up = (".lora_down.weight", ".lora_up.weight") if flat else (DOWN, UP)
        if "down" not in halves or "up" not in halves:
            raise CheckpointError(f"LoRA layer {name!r} lacks half of its tensors: copy or make the file again")
        if min(halves["down"].ndim, halves["up"].ndim) < 2 or not len(halves["down"]):
            shapes = " and ".join(str(tuple(halves[half].shape)) for half in ("down", "up"))
            raise CheckpointError(f"LoRA layer {name!r} has tensors of shapes {shapes}: copy or make the file again")
        scale = _scale(name, len(halves["down"]), halves.get("alpha"), scales, part)
        found[name + down] = halves["down"]
        found[name + up] = halves["up"] if scale == 1 else scale * halves["up"].float()
    return found


def _of_one_adapter(tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """Keys without the name of PEFT's adapter, with their tensors."""
    names = sorted({found[1] for key in tensors if (found := _NAMED.search(key))})
    if len(names) > 1:
        raise CheckpointError(f"it holds several adapters ({', '.join(names)}): save each in a file of its own")
    return ((_NAMED.sub("", key), tensor) for key, tensor in tensors.items())


def _renamed(name: str, encoders: int) -> str:
    for beginning, ours in _BEGINNINGS.items():
        name = re.sub(f"^{beginning}", ours.format(one="" if encoders == 1 else "1"), name)
    if name.startswith("lora_"):
        return name.replace(".", "_")
    for old, new in _OLDER.items():
        name = re.sub(old, new, name)
    return name


def _adapter(header: Mapping[str, str]) -> Mapping[str, Any]:
    """What diffusers says about a LoRA in a file's header: settings of PEFT, by part."""
    try:
        content = json.loads(header.get("lora_adapter_metadata", "{}"))
        return {str(key): value for key, value in content.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"lora_adapter_metadata in the header is not readable ({error}): copy it again"
        ) from error


def _scale(name: str, rank: int, alpha: Tensor | None, header: Mapping[str, Any], denoiser: str) -> float:
    """What a layer's second half is multiplied by: alpha / r, or alpha / √r where the header says so."""
    if alpha is not None:
        if alpha.numel() != 1:
            raise CheckpointError(
                f"alpha of LoRA layer {name!r} is {tuple(alpha.shape)}, expected one number: copy it again"
            )
        return float(alpha) / rank
    part, _, layer = name.partition(".")
    part = denoiser if part.startswith("lora_") else part
    own = {key.removeprefix(f"{part}."): value for key, value in header.items() if key.startswith(f"{part}.")} or header
    patterns = own.get("alpha_pattern") or {}
    try:
        said = next((v for k, v in patterns.items() if _names(k, layer)), own.get("lora_alpha"))
        scale = 1.0 if said is None else float(said) / (rank**0.5 if own.get("use_rslora") else rank)
        if not math.isfinite(scale):
            raise ValueError(f"an alpha of {said}")
        return scale
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"lora_adapter_metadata in the header is not usable ({error}): copy it again") from error


def _names(pattern: str, layer: str) -> bool:
    """Whether a pattern of PEFT is the end of a layer's name, as diffusers writes it.

    Other regular expressions are refused: a stranger's may take for ever.
    """
    plain = pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")
    if not re.fullmatch(r"[\w.-]+", plain):
        raise ValueError(f"pattern {pattern!r} is no name of a layer")
    return f".{layer}".endswith(f".{plain}")
