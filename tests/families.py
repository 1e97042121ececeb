"""Every family of backbones with its tiny pipeline, and what the stock pipeline makes of texts."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from tiny import tiny_chroma, tiny_flux, tiny_klein, tiny_sd, tiny_sd3, tiny_sdxl, tiny_z_image
from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.chroma import Chroma
from twinact.backbones.flux import Flux
from twinact.backbones.flux2 import Flux2Klein
from twinact.backbones.sd import StableDiffusion
from twinact.backbones.sd3 import StableDiffusion3
from twinact.backbones.sdxl import StableDiffusionXL
from twinact.backbones.z_image import ZImage
from twinact.export import Base
from twinact.sample import generate


@dataclass(frozen=True)
class Family:
    """A kind of model to run a contract on.

    Attributes:
        make: A new pipeline; its weights are the same in every call.
        backbone: What takes it over.
        text: Keyword arguments of the stock pipeline's encoding and call that its recipe asks for.
        negative: Whether it takes a negative prompt.
        latent_shape: Of a picture of 32 x 32.
        reads: Positions of every text encoder, those of the last one at least as many.
        unguided: The guidance at which the stock pipeline draws without.
        template: What stands before and after every prompt and takes positions, too.
    """

    make: Callable[[], DiffusionPipeline]
    backbone: type[Backbone]
    text: dict[str, Any]
    negative: bool = True
    latent_shape: tuple[int, int, int] = (4, 8, 8)
    unguided: float = 1.0
    reads: tuple[int, ...] = (24,)
    template: tuple[str, str] = ("", "")


FAMILIES = {
    "sd": Family(tiny_sd, StableDiffusion, {}),
    "sd1-as-published": Family(lambda: tiny_sd(as_published=True), StableDiffusion, {}),
    "sd2": Family(lambda: tiny_sd(2, "tiny"), StableDiffusion, {}),
    "sdxl": Family(tiny_sdxl, StableDiffusionXL, {}, reads=(24, 24)),
    "sd3": Family(tiny_sd3, StableDiffusion3, {}, reads=(24, 24, 256)),
    "sd3.5-without-t5": Family(lambda: tiny_sd3(with_t5=False, normalised=True), StableDiffusion3, {}, reads=(24, 24)),
    "flux": Family(tiny_flux, Flux, {"max_sequence_length": 512}, negative=False, reads=(24, 512)),
    "flux-schnell": Family(
        lambda: tiny_flux(guidance_embeds=False), Flux, {"max_sequence_length": 256}, False, reads=(24, 256)
    ),
    "klein": Family(
        tiny_klein,
        Flux2Klein,
        {},
        latent_shape=(16, 4, 4),
        reads=(512,),
        template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ),
    "z-image": Family(
        tiny_z_image,
        ZImage,
        {},
        unguided=0.0,
        reads=(512,),
        template=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    ),
    "chroma": Family(tiny_chroma, Chroma, {}, reads=(512,)),
}
# One of each architecture, for what takes long.
CORE = ("sd", "sdxl", "sd3", "flux", "klein", "z-image", "chroma")
# Whose first text encoder is a CLIP.
WITH_CLIP = ("sd", "sdxl", "sd3", "flux")
BASES = {
    "sd": Base("StableDiffusionPipeline", "stable-diffusion-v1", layers_per_block=1),
    "sdxl": Base("StableDiffusionXLPipeline", "stable-diffusion-xl-v1-base", layers_per_block=1),
    "sd3": Base("StableDiffusion3Pipeline", "stable-diffusion-v3-medium"),
    "flux": Base("FluxPipeline", "flux-1-dev"),
    "klein": Base("Flux2KleinPipeline", "flux-2-klein-base-4b"),
    "z-image": Base("ZImagePipeline", "z-image"),
    "chroma": Base("ChromaPipeline", "chroma-1"),
}
# Where docs/other_tools.md says how diffusers loads embeddings.
HEADINGS = {
    "sd": "Stable Diffusion 1 and 2", "sdxl": "SDXL", "sd3": "Stable Diffusion 3", "flux": "FLUX.1",
    "klein": "FLUX.2 klein", "z-image": "Z-Image", "chroma": "Chroma",
}  # fmt: skip
PIPELINES = {name: base.family for name, base in BASES.items()}


@cache
def backbone_of(name: str) -> Backbone:
    """The backbone of a family, shared by all tests; they leave it as it was."""
    family = FAMILIES[name]
    return family.backbone(family.make(), f"{name}@0")


@cache
def stock_of(name: str) -> DiffusionPipeline:
    """The pipeline of a family as its library makes it, untouched by ours."""
    pipeline = FAMILIES[name].make()
    pipeline.set_progress_bar_config(disable=True)
    for module in modules(pipeline).values():
        module.eval()
    return pipeline


def modules(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """Networks of a pipeline by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


@torch.no_grad()
def stock_text(name: str, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> TextCond:
    """What the stock pipeline's `encode_prompt` gives for prompts."""
    kind = next(kind.__name__ for kind in type(pipeline).__mro__ if kind.__name__ in PIPELINES.values())
    options: dict[str, Any] = {"device": "cpu", **FAMILIES[name].text}
    if kind == "StableDiffusion3Pipeline":
        options |= {"prompt_2": None, "prompt_3": None}
    if kind == "StableDiffusionPipeline":
        options |= {"num_images_per_prompt": 1}
    if kind not in ("FluxPipeline", "Flux2KleinPipeline"):
        options |= {"do_classifier_free_guidance": False}
    outputs = pipeline.encode_prompt(list(prompts), **options)
    if kind == "ZImagePipeline":  # one tensor a prompt
        hidden = pad_sequence(outputs[0], batch_first=True)
        mask = pad_sequence([torch.ones(len(one)) for one in outputs[0]], batch_first=True)
        rest = 512 - hidden.shape[1]
        return TextCond(F.pad(hidden, (0, 0, 0, rest)), mask=F.pad(mask, (0, rest)))
    pooled = {"FluxPipeline": 1, "StableDiffusionXLPipeline": 2, "StableDiffusion3Pipeline": 2}.get(kind)
    mask = outputs[2] if kind == "ChromaPipeline" else None
    return TextCond(outputs[0], None if pooled is None else outputs[pooled], mask)


def vectors_of(backbone: Backbone, words: str) -> list[Tensor]:
    """The model's own embeddings of words, one tensor per text encoder."""
    return [table.embed(words) for table in backbone.token_tables()]


def noisy(backbone: Backbone, b: int = 2) -> Tensor:
    return torch.randn(b, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))


def times(backbone: Backbone, *shares: float) -> Tensor:
    """Times at shares of the noisiest, as the backbone takes them."""
    t = backbone.noising.sample_t(1, torch.Generator())
    return (torch.tensor(shares) * 999).to(t.dtype)


def documented(name: str) -> str:
    """The lines that docs/other_tools.md gives for embeddings of a family in diffusers."""
    page = Path(__file__).parents[1].joinpath("docs", "other_tools.md").read_text(encoding="utf-8")
    lines = page.partition(f"### {HEADINGS[name]}\n")[2].partition("\n##")[0]
    return "".join(re.findall(r"```python\n(.*?)```", lines, flags=re.DOTALL))


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def drawn_by_stock(name: str, prepare: Callable[..., Any], prompt: str = "a robot in the park") -> np.ndarray:
    """A picture by the stock pipeline after something was loaded into it; `prepare` may give another and a prompt."""
    backbone, stock = backbone_of(name), FAMILIES[name].make()
    for module in modules(stock).values():
        module.eval()  # as `from_pretrained` leaves them
    stock, prompt = prepare(stock) or (stock, prompt)
    stock.set_progress_bar_config(disable=True)
    assert stock.get_list_adapters()
    return pixels(
        stock(
            prompt=prompt, generator=[torch.Generator("cpu").manual_seed(4)], num_inference_steps=2,
            guidance_scale=backbone.guidance, height=backbone.image_size, width=backbone.image_size,
            **FAMILIES[name].text,
        ).images
    )  # fmt: skip


def drawn_by_us(
    name: str, weights: dict[str, Tensor], prompt: str = "a robot in the park", **vectors: list[Tensor]
) -> np.ndarray:
    """A picture by twinact with a LoRA and the vectors of <words>."""
    backbone = backbone_of(name)
    words = {f"<{key}>": value for key, value in vectors.items()}
    options = {"seeds": [4], "steps": 2, "guidance": backbone.guidance}
    return pixels(generate(backbone, [prompt], words, loras=[weights], **options))
