"""What the code of other tools does with our embedding files, told again in a few lines each.

Sources: ComfyUI comfy/sd1_clip.py (load_embed); A1111 modules/textual_inversion and Forge
backend/text_processing/textual_inversion.py (create_embedding_from_data); InvokeAI's probe of embeddings. Tools change:
this says what the files are made for, not what a version does.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from families import BASES
from twinact.action import Action
from twinact.export import Base, export_embedding, export_lora
from twinact.lora import DOWN, UP

# Base, and the real widths of its text encoders in ComfyUI's words.
MODELS = {
    "sd1": (BASES["sd"], {"clip_l": 768}),
    "sd2": (Base(BASES["sd"].family, "stable-diffusion-v2-512"), {"clip_h": 1024}),
    "sdxl": (BASES["sdxl"], {"clip_l": 768, "clip_g": 1280}),
    "sd3": (BASES["sd3"], {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}),
    "flux": (BASES["flux"], {"clip_l": 768, "t5xxl": 4096}),
}
N = 3


def comfyui(file: dict[str, Tensor], encoder: str) -> Tensor:
    """The vectors that a text encoder gets; of another width, they are left out with a warning."""
    if encoder in file:
        return file[encoder]
    for end in (".string_to_param.*", f".{encoder}"):
        bundled = [tensor for key, tensor in file.items() if key.startswith("bundle_emb.") and key.endswith(end)]
        if bundled:
            return torch.cat(bundled)
    return next(iter(file.values()))


def a1111(file: dict[str, Tensor]) -> int:
    """The width by which a file is for a model; Forge has the same code. Files of SD1, 2 and XL."""
    if {"clip_g", "clip_l"} <= file.keys():
        return file["clip_g"].shape[-1] + file["clip_l"].shape[-1]
    assert len(file) == 1, "embedding file has multiple terms in it"
    return next(iter(file.values())).shape[-1]


def invokeai(file: dict[str, Tensor]) -> str | None:
    """The base that a file is taken for."""
    width = file["emb_params"].shape[-1] if "emb_params" in file else None
    width = file["clip_g"].shape[-1] if width is None and "clip_g" in file else width
    width = next(iter(file.values())).shape[0] if width is None else width
    return {768: "sd1", 1024: "sd2", 1280: "sdxl"}.get(width)


def action_for(model: str, **more: Any) -> Action:
    widths = MODELS[model][1].values()
    return Action("twa-leap", [torch.full((N, width), float(i)) for i, width in enumerate(widths)], "m@1", **more)


@pytest.mark.parametrize("model", MODELS)
def test_comfyui_finds_the_vectors_of_every_text_encoder(model: str, tmp_path: Path) -> None:
    base, widths = MODELS[model]
    files = [load_file(path) for path in export_embedding(action_for(model), base, tmp_path)]
    if model in ("sd1", "sdxl"):  # a bundle may lie in the folder of embeddings, too
        layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        weights = {layer + DOWN: torch.ones(1, 8), layer + UP: torch.ones(8, 1)}
        files.append(load_file(export_lora(action_for(model, lora=weights), base, tmp_path)[2]))
    for file in files:
        for i, (encoder, width) in enumerate(widths.items()):
            assert torch.equal(comfyui(file, encoder), torch.full((N, width), float(i)))


@pytest.mark.parametrize(
    ("model", "width", "base"),
    [("sd1", 768, "sd1"), ("sd2", 1024, "sd2"), ("sdxl", 2048, "sdxl"), ("sd3", 2048, "sdxl"), ("flux", None, None)],
)
def test_a1111_and_invokeai_know_sd_and_sdxl(model: str, width: int | None, base: str | None, tmp_path: Path) -> None:
    """Both take a file of SD3 for one of SDXL, which Forge then leaves out, and refuse one of FLUX.1; so no header
    tells to type it there."""
    paths = export_embedding(action_for(model), MODELS[model][0], tmp_path)
    with safe_open(paths[0], "pt") as file:
        assert ("A1111" in file.metadata()["modelspec.usage_hint"]) == (model not in ("sd3", "flux"))
    shared, *own = (load_file(path) for path in paths)
    if width is None:
        with pytest.raises(AssertionError, match="multiple terms"):
            a1111(shared)
    else:
        assert a1111(shared) == width
    assert invokeai(shared) == base
    for file in own:  # that of diffusers
        assert a1111(file) == width and invokeai(file) is None
