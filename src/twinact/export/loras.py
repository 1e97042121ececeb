"""An action's LoRA as files of diffusers, A1111, Forge, ComfyUI and kohya's scripts, alone and with its word inside.

In every file alpha equals the rank and is written down: readers disagree about what a missing alpha means.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from twinact.action import Action
from twinact.backbones.token_lora import TokenLora
from twinact.errors import ConfigError
from twinact.export import kohya
from twinact.export.embeddings import NEWER, layout_of, words_of
from twinact.export.modelspec import OF_LORAS, about, pack, trigger
from twinact.export.target import CHROMA, FLUX, FLUX2, SD, SD3, SDXL, Z_IMAGE, Base
from twinact.lora import DOWN, UP
from twinact.storage import write_all_new

# How kohya's scripts call the base; A1111 tells families apart by it.
_KOHYA_BASES = {
    "stable-diffusion-v1": "sd_v1", "stable-diffusion-v2-512": "sd_v2", "stable-diffusion-v2-768-v": "sd_v2_v",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
    "stable-diffusion-v3-medium": "m", "stable-diffusion-v3.5-medium": "5-medium",
    "stable-diffusion-v3.5-large": "5-large",
    "flux-1-dev": "flux1", "flux-1-schnell": "flux1",
    "flux-2-klein-4b": "flux2_klein_4b", "flux-2-klein-base-4b": "flux2_klein_4b",
    "flux-2-klein-9b": "flux2_klein_9b", "flux-2-klein-base-9b": "flux2_klein_9b",
    "z-image": "zimage", "chroma-1": "chroma",
}  # fmt: skip
_KOHYA_MODULES = {
    SD: "lora", SDXL: "lora", SD3: "lora_sd3", FLUX: "lora_flux", FLUX2: "lora_flux_2", Z_IMAGE: "lora_zimage",
    CHROMA: "lora_flux",
}  # fmt: skip
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(attentions|resnets)\.(\d+)\.|mid_block\.attentions\.0\.")
_IN_RESIDUAL = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    "time_emb_proj": "emb_layers.1",
}  # fmt: skip


def lora_files(name: str, folder: str | Path) -> tuple[Path, Path, Path]:
    """Where `export_lora` writes the diffusers file, the kohya file and the bundle of an action."""
    folder, word = Path(folder), trigger(name)
    diffusers = folder / word / "pytorch_lora_weights.safetensors"
    alone, bundle = (f"{word}{end}.safetensors" for end in OF_LORAS)
    return diffusers, folder / "lora" / alone, folder / "bundle" / bundle


def export_lora(action: Action, base: Base, folder: str | Path) -> list[Path]:
    """Write an action's LoRA for other tools, three times.

    ``<trigger>/pytorch_lora_weights.safetensors`` is for `load_lora_weights` of diffusers.
    ``lora/<trigger>-lora.safetensors`` has the layout of kohya's scripts, for the LoRA folder of A1111, Forge and
    ComfyUI; use it with the embedding. ``bundle/<trigger>-bundle.safetensors`` is the same with the embedding inside,
    for A1111.

    Layers of Stable Diffusion 1 and 2 are named as in diffusers, those of the others as in the original code,
    as kohya's scripts do; what is one layer there is one LoRA, see `twinact.export.kohya`.

    Args:
        action: With vectors and a LoRA on the denoiser.
        base: Base of the model.
        folder: Made if missing.

    Returns:
        The files, as `lora_files` names them; all of them are new, or none is written.

    Raises:
        ConfigError: The action has no LoRA or no vectors, its LoRA adapts a text encoder, on XL more than attention and
            residual blocks, or a layer that the original code does not have, or it was made for another family.
        NameTaken: A file of one of these names is there.
        DataError: The folder cannot be written.
    """
    return write_all_new(lora_contents(action, base, folder))


def lora_contents(action: Action, base: Base, folder: str | Path) -> dict[Path, bytes]:
    """What `export_lora` writes, by file; arguments and errors as there."""
    layout = layout_of(base.family)
    part = "unet" if "unet" in action.lora_parts else "transformer"
    _check(action, base.family, part)
    rank = max(len(weight) for key, weight in action.lora.items() if key.endswith(DOWN))
    weights = {key: _padded(weight, rank, 0 if key.endswith(DOWN) else 1) for key, weight in action.lora.items()}
    names = [key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)]
    word = trigger(action.name)
    kind = f"{base.architecture}/lora"
    stock = about(action, kind, "diffusers", f"diffusers: load_lora_weights(file), and the embedding of {word}")
    stock |= {"format": "pt", "lora_adapter_metadata": json.dumps(_peft_config(names, rank, part), sort_keys=True)}
    named = base.family in (SDXL, FLUX, FLUX2, CHROMA)  # by kohya's scripts, which say "diffusers" of the others
    implementation = layout.implementation if named else "diffusers"
    usage = f"{'' if base.family in NEWER else f'A1111, Forge: <lora:{word}-lora:1> {word}; '}ComfyUI: embedding:{word}"
    original = about(action, kind, implementation, usage)
    original |= _kohya_header(rank, base)
    if base.family == Z_IMAGE:
        tensors = kohya.dotted(weights)
    else:
        tensors = kohya.fused(weights, base.family) if part == "transformer" else _of_unet(names, weights, rank, base)
    words = words_of(action, base.family)
    if base.family == SD:
        words = {"string_to_param.*": words[layout.keys[0]]}
    bundled = {f"bundle_emb.{word}.{key}": vectors for key, vectors in words.items()}
    for_diffusers, alone, bundle = lora_files(action.name, folder)
    return {
        for_diffusers: pack(_diffusers(weights), stock),
        alone: pack(tensors, original | {"ss_output_name": alone.stem}),  # the name that A1111 knows it by
        bundle: pack(tensors | bundled, original | {"ss_output_name": bundle.stem}),
    }


def _check(action: Action, family: str, part: str) -> None:
    if not action.lora or not action.vectors:
        missing = "LoRA" if not action.lora else "vectors"
        raise ConfigError(f"action {action.name!r} has no {missing}: an action needs both to be written as a LoRA file")
    if isinstance(action.lora, TokenLora):
        raise ConfigError(
            f"LoRA of action {action.name!r} acts at the action's own tokens alone, and other tools let a LoRA act "
            "everywhere: draw it with twinact, or learn it with another method than tara"
        )
    if action.lora_parts != {part}:
        others = ", ".join(sorted(action.lora_parts - {part}))
        raise ConfigError(
            f"LoRA of action {action.name!r} adapts {others} too, which is not written: it came from another tool, "
            "use its own file"
        )
    if (part == "unet") != (family in (SD, SDXL)):
        raise ConfigError(f"LoRA of action {action.name!r} adapts a {part}, which {family} does not have")


def _diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under the names that diffusers' own training scripts write: older ones for UNets."""
    if not next(iter(weights)).startswith("unet."):
        return dict(weights)
    ends = {DOWN: ".lora.down.weight", UP: ".lora.up.weight"}
    return {key[: -len(DOWN)] + ends[key[-len(DOWN) :]]: weight for key, weight in weights.items()}


def _padded(weight: Tensor, rank: int, dim: int) -> Tensor:
    """With zeros up to a rank: stock loaders take one alpha for a whole UNet, so all layers need equal ranks."""
    missing = list(weight.shape)
    missing[dim] = rank - weight.shape[dim]
    return torch.cat([weight, weight.new_zeros(missing)], dim=dim)


def _peft_config(names: Sequence[str], rank: int, part: str) -> dict[str, object]:
    """What `LoraConfig` needs to be made again."""
    layers = [name.removeprefix(f"{part}.") for name in names]
    return {f"{part}.r": rank, f"{part}.lora_alpha": rank, f"{part}.target_modules": layers}


def _kohya_header(rank: int, base: Base) -> dict[str, str]:
    return {
        "ss_base_model_version": _KOHYA_BASES[base.architecture],
        "ss_network_module": f"networks.{_KOHYA_MODULES[base.family]}",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_v2": str(base.architecture.startswith("stable-diffusion-v2")),
    }


def _of_unet(names: Sequence[str], weights: Mapping[str, Tensor], rank: int, base: Base) -> dict[str, Tensor]:
    tensors = {}
    for name in names:
        flat = _flat(name, base)
        tensors[f"{flat}.lora_down.weight"] = weights[name + DOWN]
        tensors[f"{flat}.lora_up.weight"] = weights[name + UP]
        tensors[f"{flat}.alpha"] = torch.tensor(float(rank))
    return tensors


def _flat(name: str, base: Base) -> str:
    """A layer's name in one word."""
    part, _, layer = name.partition(".")
    if base.family == SDXL:
        layer, found = _BLOCK.subn(lambda match: _original(match, base.layers_per_block + 1), layer, count=1)
        if not found:
            raise ConfigError(
                f"LoRA adapts {name!r}: of XL models only attention and residual blocks can be "
                "written in kohya's layout"
            )
        block, _, end = layer.rpartition(".")
        layer = f"{block}.{_IN_RESIDUAL.get(end, end)}"
    return f"lora_{part}_{layer}".replace(".", "_")


def _original(match: re.Match[str], layers: int) -> str:
    """The original code counts the layers of all blocks through, with the first convolution as input 0."""
    if match[1] is None:
        return "middle_block.1."
    place, within = int(match[2]) * layers + int(match[4]), int(match[3] == "attentions")
    return f"input_blocks.{place + 1}.{within}." if match[1] == "down" else f"output_blocks.{place}.{within}."
