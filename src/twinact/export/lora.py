"""An action's LoRA as files of diffusers, A1111, Forge, ComfyUI and OneTrainer, alone and with its word inside.

In every file alpha equals the rank and is written down: readers disagree about what a missing alpha means.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from twinact import __version__
from twinact.action import Action
from twinact.errors import ConfigError
from twinact.export.embeddings import layout_of, trigger, words_of
from twinact.export.modelspec import pack, spec
from twinact.files import atomic_write_bytes
from twinact.lora import DOWN, UP

SDXL = "StableDiffusionXLPipeline"
# How kohya's scripts call the base; A1111 tells families apart by it.
_KOHYA_BASES = {
    "stable-diffusion-v1": "sd_v1", "stable-diffusion-v2-768-v": "sd_v2_v",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
}  # fmt: skip
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.|mid_block\.attentions\.0\.")


def lora_files(name: str, folder: str | Path) -> tuple[Path, Path, Path]:
    """Where `export_lora` writes the diffusers file, the kohya file and the bundle of an action."""
    folder, word = Path(folder), trigger(name)
    diffusers = folder / word / "pytorch_lora_weights.safetensors"
    return diffusers, folder / "lora" / f"{word}.safetensors", folder / "bundle" / f"{word}.safetensors"


def export_lora(action: Action, family: str, folder: str | Path, *, layers_per_block: int = 2) -> list[Path]:
    """Write an action's LoRA for other tools, three times.

    ``<trigger>/pytorch_lora_weights.safetensors`` is for `load_lora_weights` of diffusers.
    ``lora/<trigger>.safetensors`` has the layout of kohya's scripts, for the LoRA folder of A1111, Forge and ComfyUI;
    use it with the embedding. ``bundle/<trigger>.safetensors`` is the same with the embedding inside, for A1111, Forge
    and OneTrainer.

    Layers of Stable Diffusion 1 and 2 are named as in diffusers, those of XL as in the original code, as kohya's
    scripts do for both. Those of SD3 and FLUX are named as OneTrainer does (``lora_transformer_…``), which ComfyUI and
    Forge read; the fused layers of kohya's scripts for these families are not written.

    Args:
        action: With vectors and a LoRA on the denoiser.
        family: Key of `LAYOUTS`.
        folder: Made if missing; files of these names are replaced.
        layers_per_block: Of an XL model's UNet, which numbers its blocks by it.

    Raises:
        ConfigError: The action has no LoRA or no vectors, its LoRA adapts a text encoder or, on XL, more than
            attention, or it was made for another family.
        DataError: The folder cannot be written.
    """
    layout = layout_of(family)
    part = "unet" if "unet" in action.lora_parts else "transformer"
    _check(action, family, part)
    rank = max(len(weight) for key, weight in action.lora.items() if key.endswith(DOWN))
    weights = {key: _padded(weight, rank, 0 if key.endswith(DOWN) else 1) for key, weight in action.lora.items()}
    names = [key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)]
    word = trigger(action.name)
    architecture = f"{layout.architecture(action)}/lora"
    about = {
        "title": word,
        "date": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "trigger_phrase": word,
        "tags": "action",
    }
    own = {"twinact.action": action.name, "twinact.base": action.model_id, "twinact.library_version": __version__}

    stock = spec(architecture, "diffusers", **about) | own
    stock |= {"format": "pt", "lora_adapter_metadata": json.dumps(_peft_config(names, rank, part), sort_keys=True)}
    implementation = "https://github.com/Stability-AI/generative-models" if family == SDXL else "diffusers"
    kohya = spec(architecture, implementation, **about) | own
    kohya |= _kohya_header(word, rank, layout.architecture(action))
    tensors = {}
    for name in names:
        flat = _flat(name, family, layers_per_block)
        tensors[f"{flat}.lora_down.weight"] = weights[name + DOWN]
        tensors[f"{flat}.lora_up.weight"] = weights[name + UP]
        tensors[f"{flat}.alpha"] = torch.tensor(float(rank))
    words = words_of(action, family)
    if len(layout.keys) == 1:
        words = {"string_to_param.*": words[layout.keys[0]]}
    bundled = {f"bundle_emb.{word}.{key}": vectors for key, vectors in words.items()}
    contents = ((_diffusers(weights), stock), (tensors, kohya), (tensors | bundled, kohya))
    return [
        atomic_write_bytes(path, pack(*content))
        for path, content in zip(lora_files(action.name, folder), contents, strict=True)
    ]


def _check(action: Action, family: str, part: str) -> None:
    if not action.lora or not action.vectors:
        missing = "LoRA" if not action.lora else "vectors"
        raise ConfigError(f"action {action.name!r} has no {missing}: an action needs both to be written as a LoRA file")
    if action.lora_parts != {part}:
        others = ", ".join(sorted(action.lora_parts - {part}))
        raise ConfigError(
            f"LoRA of action {action.name!r} adapts {others} too, which is not written: it came from another tool, "
            "use its own file"
        )
    if (part == "unet") != family.startswith(("StableDiffusionPipeline", SDXL)):
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


def _kohya_header(name: str, rank: int, architecture: str) -> dict[str, str]:
    header = {
        "ss_output_name": name,
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_v2": str(architecture.startswith("stable-diffusion-v2")),
    }
    base = _KOHYA_BASES.get(architecture)
    if base is not None:
        header |= {"ss_base_model_version": base, "ss_network_module": "networks.lora"}
    return header


def _flat(name: str, family: str, layers_per_block: int) -> str:
    """A layer's name in one word."""
    part, _, layer = name.partition(".")
    if family == SDXL:
        layer, found = _BLOCK.subn(lambda match: _original(match, layers_per_block + 1), layer, count=1)
        if not found:
            raise ConfigError(f"LoRA adapts {name!r}: of XL models only attention can be written in kohya's layout")
    return f"lora_{part}_{layer}".replace(".", "_")


def _original(match: re.Match[str], layers: int) -> str:
    """The original code counts the layers of all blocks through, with the first convolution as input 0."""
    if match[1] is None:
        return "middle_block.1."
    place = int(match[2]) * layers + int(match[3])
    return f"input_blocks.{place + 1}.1." if match[1] == "down" else f"output_blocks.{place}.1."
