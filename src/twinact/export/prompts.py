"""A prompt for A1111 and Forge, and a workflow for ComfyUI, that use an exported action at once.

The workflow is in ComfyUI's API form, which its page opens as well; it has built-in nodes alone. The names of models in
it are those that the publishers gave their files.
"""

import json
from pathlib import Path
from typing import Any

from twinact.action import Action
from twinact.export.embeddings import NEWER
from twinact.export.loras import lora_files
from twinact.export.modelspec import trigger
from twinact.export.target import CHROMA, FLUX, FLUX2, SD3, SDXL, Z_IMAGE, Base

_PROMPT = "a panda {word} in a park"
# Architecture -> file as published, side in pixels.
_CHECKPOINTS = {
    "stable-diffusion-v1": ("v1-5-pruned-emaonly.safetensors", 512),
    "stable-diffusion-v2-512": ("512-base-ema.safetensors", 512),
    "stable-diffusion-v2-768-v": ("v2-1_768-ema-pruned.safetensors", 768),
    "stable-diffusion-xl-v1-base": ("sd_xl_base_1.0.safetensors", 1024),
    "stable-diffusion-v3-medium": ("sd3_medium_incl_clips_t5xxlfp8.safetensors", 1024),
    "stable-diffusion-v3.5-medium": ("sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors", 1024),
    "stable-diffusion-v3.5-large": ("sd3.5_large_fp8_scaled.safetensors", 1024),
    "flux-1-dev": ("flux1-dev-fp8.safetensors", 1024),
    "flux-1-schnell": ("flux1-schnell-fp8.safetensors", 1024),
}
# Family whose parts are published as files of their own -> denoiser, text encoder and its kind, autoencoder.
_PARTS = {
    FLUX2: ("flux-2-klein-4b.safetensors", "qwen_3_4b.safetensors", "flux2", "flux2-vae.safetensors"),
    CHROMA: ("Chroma1-HD.safetensors", "t5xxl_fp8_e4m3fn.safetensors", "chroma", "ae.safetensors"),
}
# Family -> steps, guidance, sampler, schedule; Stable Diffusion's if it is not here.
_USUAL: dict[str, tuple[int, float, str, str]] = {
    SD3: (28, 4.5, "euler", "sgm_uniform"),
    FLUX: (20, 1.0, "euler", "simple"),
    FLUX2: (20, 4.0, "euler", "simple"),
    CHROMA: (26, 4.0, "euler", "simple"),
}
_OF_SD = (30, 7.0, "euler", "normal")


def prompt_contents(action: Action, base: Base, folder: str | Path) -> dict[Path, bytes]:
    """What ``<trigger>.comfyui.json`` and ``<trigger>.a1111.txt`` hold; each is there if the tool reads such words.

    Args:
        action: Exported to the same folder.
        base: Base of its model.
        folder: Where the export lies.
    """
    word, contents = trigger(action.name), {}
    if base.family != Z_IMAGE:  # ComfyUI reads no words there
        text = json.dumps(workflow(action, base), indent=2) + "\n"
        contents[Path(folder) / f"{word}.comfyui.json"] = text.encode()
    if base.family not in NEWER:
        contents[Path(folder) / f"{word}.a1111.txt"] = a1111_prompt(action, base).encode()
    return contents


def a1111_prompt(action: Action, base: Base) -> str:
    """Text to paste into the prompt of A1111 or Forge; the arrow below "Generate" takes it apart."""
    word = trigger(action.name)
    lora = f"<lora:{lora_files(action.name, '')[1].stem}:1> " if action.lora else ""
    side = _CHECKPOINTS[base.architecture][1]
    return (
        f"{lora}{_PROMPT.format(word=word)}\nNegative prompt: \n"
        f"Steps: {_OF_SD[0]}, Sampler: Euler, CFG scale: {_OF_SD[1]:g}, Seed: 0, Size: {side}x{side}\n"
    )


def workflow(action: Action, base: Base) -> dict[str, Any]:
    """ComfyUI's nodes by their numbers, from the model's files to the saved picture."""
    nodes: dict[str, Any] = {}

    def add(kind: str, title: str = "", **inputs: Any) -> str:
        nodes[str(len(nodes) + 1)] = {
            "class_type": kind,
            "inputs": inputs,
            **({"_meta": {"title": title}} if title else {}),
        }
        return str(len(nodes))

    side = _CHECKPOINTS.get(base.architecture, ("", 1024))[1]
    if base.family in _PARTS:
        denoiser, encoder, kind, autoencoder = _PARTS[base.family]
        model = [add("UNETLoader", unet_name=denoiser, weight_dtype="default"), 0]
        clip = [add("CLIPLoader", clip_name=encoder, type=kind), 0]
        vae = [add("VAELoader", vae_name=autoencoder), 0]
    else:
        loader = add("CheckpointLoaderSimple", ckpt_name=_CHECKPOINTS[base.architecture][0])
        model, clip, vae = [loader, 0], [loader, 1], [loader, 2]
    if action.lora:
        name = lora_files(action.name, "")[1].name
        lora = add("LoraLoader", model=model, clip=clip, lora_name=name, strength_model=1.0, strength_clip=1.0)
        model, clip = [lora, 0], [lora, 1]
    text = _PROMPT.format(word=f"embedding:{trigger(action.name)}")
    positive = [add("CLIPTextEncode", "The action: write who does it, and where", text=text, clip=clip), 0]
    negative = [add("CLIPTextEncode", text="", clip=clip), 0]
    if base.architecture == "flux-1-dev":
        positive = [add("FluxGuidance", conditioning=positive, guidance=3.5), 0]
    plain = base.family == SDXL or base.architecture.startswith(("stable-diffusion-v1", "stable-diffusion-v2"))
    empty = "EmptyLatentImage" if plain else "EmptyFlux2LatentImage" if base.family == FLUX2 else "EmptySD3LatentImage"
    latent = [add(empty, width=side, height=side, batch_size=1), 0]
    steps, guidance, sampler, schedule = _USUAL.get(base.family, _OF_SD)
    if base.architecture == "flux-1-schnell" or (base.family == FLUX2 and "base" not in base.architecture):
        steps, guidance = 4, 1.0  # distilled
    drawn = add(
        "KSampler", seed=0, steps=steps, cfg=guidance, sampler_name=sampler, scheduler=schedule, denoise=1.0,
        model=model, positive=positive, negative=negative, latent_image=latent,
    )  # fmt: skip
    decoded = add("VAEDecode", samples=[drawn, 0], vae=vae)
    add("SaveImage", filename_prefix=trigger(action.name), images=[decoded, 0])
    return nodes
