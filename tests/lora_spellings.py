"""A LoRA in the names that other tools give its layers."""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from families import backbone_of, modules
from twinact.export.loras import _BLOCK, _original
from twinact.lora import DOWN, UP

RANK, ALPHA = 4, 2.0


# Parts of a pipeline and which of their layers a case adapts.
Parts = dict[str, str]


Spelling = Callable[[str, str, Tensor, Tensor], dict[str, Tensor]]


_KOHYA = {"unet": "unet", "transformer": "transformer", "text_encoder": "te1", "text_encoder_2": "te2"}


def layers_of(name: str, parts: Parts) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(part, layer, down, up) of every layer that a case adapts."""
    generator = torch.Generator().manual_seed(0)
    for part, which in parts.items():
        for layer, module in modules(backbone_of(name).pipeline())[part].named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and re.search(which, layer):
                rows, columns, *kernel = module.weight.shape
                ones = [1] * len(kernel)
                down = 0.2 * torch.randn(RANK, columns, *kernel, generator=generator)
                yield part, layer, down, 0.2 * torch.randn(rows, RANK, *ones, generator=generator)


def kohya(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """kohya's scripts and OneTrainer, with the names that diffusers gives to layers."""
    if part.startswith("text_encoder") and layer != "text_projection":
        layer = "text_model." + layer.removeprefix("text_model.")
    flat = f"lora_{_KOHYA[part]}_{layer.replace('.', '_')}"
    return {
        f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA),
    }  # fmt: skip


def kohya_of_one_encoder(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """As for Stable Diffusion 1 and 2, whose text encoder has no number."""
    return {key.replace("lora_te1", "lora_te"): value for key, value in kohya(part, layer, down, up).items()}


def peft(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"{part}.{layer}{DOWN}": down, f"{part}.{layer}{UP}": up}


def peft_alpha(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return peft(part, layer, down, up) | {f"{part}.{layer}.alpha": torch.tensor(ALPHA)}


def older(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"{part}.{layer}.lora.down.weight": down, f"{part}.{layer}.lora.up.weight": up}


def older_alpha(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return older(part, layer, down, up) | {f"{part}.{layer}.lora.alpha": torch.tensor(ALPHA)}


def legacy_text(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """The text encoder as transformers 4 names it."""
    if part == "text_encoder":
        layer = "text_model." + layer
    return peft(part, layer, down, up)


def comfy(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """ComfyUI: names of the original code after diffusion_model, those of transformers for text encoders."""
    if part == "unet":
        prefix, layer = "diffusion_model", _BLOCK.sub(lambda match: _original(match, 2), layer, count=1)
    else:
        prefix = f"text_encoders.clip_{'l' if part == 'text_encoder' else 'g'}.transformer"
        layer = "text_model." + layer.removeprefix("text_model.")
    return {f"{prefix}.{layer}{DOWN}": down, f"{prefix}.{layer}{UP}": up}


def comfy_alpha(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    ends = {DOWN: ".lora_down.weight", UP: ".lora_up.weight"}
    spelled = {
        key.replace(DOWN, ends[DOWN]).replace(UP, ends[UP]): w for key, w in comfy(part, layer, down, up).items()
    }
    return spelled | {next(iter(spelled)).removesuffix(ends[DOWN]) + ".alpha": torch.tensor(ALPHA)}


def original(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """OneTrainer's "Original": no prefix at all."""
    return {key.replace("diffusion_model.", ""): w for key, w in comfy_alpha(part, layer, down, up).items()}


def saved_by_peft(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """The adapter of a network alone, as PEFT saves it."""
    return {f"base_model.model.{layer}{DOWN}": down, f"base_model.model.{layer}{UP}": up}


def of_a_named_adapter(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """As PEFT keeps it while it learns, and as accelerate saves that."""
    spelled = saved_by_peft(part, layer, down, up)
    return {key.replace(".weight", ".anna.weight"): tensor for key, tensor in spelled.items()}


def lycoris(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """LyCORIS outside of kohya's scripts."""
    name = f"lycoris_{layer}".replace(".", "_")
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(ALPHA)}


def of_2023(part: str, layer: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """Attention processors of old diffusers, without the part's name."""
    block, _, projection = layer.removesuffix(".0").rpartition(".")
    name = f"{block}.processor.{projection}_lora"
    return {f"{name}.down.weight": down, f"{name}.up.weight": up}
