"""From the world to the shipped weights, part by part; every part resumes where it stopped."""

import json
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessorPil

from twinact.backbones import load
from twinact.bench.judges import Judges, train_judges
from twinact.nano.data import drawn_part, trained_part
from twinact.nano.encoder import train_encoder
from twinact.nano.evaluate import contact_sheet
from twinact.nano.recipe import Recipe
from twinact.nano.text import train_text
from twinact.nano.tokenizer import build_tokenizer
from twinact.nano.unet import build_scheduler, build_unet, train_unet
from twinact.nano.vae import train_vae
from twinact.nano.vision import train_vision
from twinact.workflow import SPACE_FILE, build_space
from twinact.world.captions import with_article
from twinact.world.places import PLACES
from twinact.world.scene import WORLD_VERSION

PARTS = ("text", "vae", "unet", "vision", "encoder", "judges")
_PREVIEW_PHRASES = (
    "arms spread wide",
    "kicking left",
    "squatting",
    "hands on hips",
    "left arm raised",
    "lunging right",
)


def train_nano(
    recipe: Recipe,
    run: Path,
    parts: tuple[str, ...] = PARTS,
    *,
    start: Path | None = None,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the parts that are not finished yet and write the model folder ``run/nano``.

    Args:
        recipe: All numbers; stored as ``run/recipe.json``.
        run: Run folder; the same call goes on where an earlier one stopped.
        parts: Which parts to train now, of `PARTS`; the parts they build on are trained first.
        start: A model folder to go on from: its text tower and VAE are kept as they are, its UNet and judges are
            where training begins. None starts from nothing.
        workers: Processes that draw pictures.
        report: Receives lines about progress.
    """
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = run / "nano"
    if start is not None and not model.exists():
        shutil.copytree(start, model)  # what is not trained now stays as it was
    torch.manual_seed(recipe.seed)
    before = None if start is None else StableDiffusionPipeline.from_pretrained(start).to(device)
    vae = train_vae(recipe, run / "vae", workers, device, report) if before is None else before.vae
    vae.requires_grad_(False).eval()
    if "judges" in parts:
        judges = (Judges() if start is None else Judges.load(start / "judges")).to(device)
        train_judges(recipe, judges, vae, run / "judges", workers, report)
        judges.save(model / "judges")
    if parts == ("judges",):
        return model
    if before is None:
        tokenizer, unet, vision = build_tokenizer(recipe.max_tokens), build_unet(recipe), None
        text = train_text(recipe, tokenizer, run / "text", workers, device, report)
    else:
        tokenizer, unet, vision, text = before.tokenizer, before.unet, before.image_encoder, before.text_encoder
    if "encoder" in parts:
        train_encoder(recipe, vae, run / "encoder", workers, report).save(model / "action_encoder")
    if "unet" in parts:

        def preview(unet: UNet2DConditionModel, step: int) -> None:
            pipeline = _pipeline(vae, text, tokenizer, unet, None)
            preview_sheet(pipeline, recipe).save(run / f"preview_{step:06d}.png")

        train_unet(recipe, vae, text, tokenizer, unet, run / "unet", workers, report, preview)
        if "vision" in parts:
            vision = train_vision(recipe, text, tokenizer, run / "vision", workers, report)
        _save_half(_pipeline(vae, text, tokenizer, unet, vision), model)
        known = drawn_part(recipe).phrases  # a phrase belongs in the space only when the model can draw it
        build_space(load(model, device="cpu"), phrases=known).save(model / SPACE_FILE)
    card = {
        "world_version": WORLD_VERSION,
        "recipe": asdict(recipe),
        "hardware": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds_of_last_call": round(time.monotonic() - began),
    }
    (model / "training.json").write_text(json.dumps(card, indent=2) + "\n")
    return model


def _pipeline(vae: Any, text: Any, tokenizer: Any, unet: Any, vision: Any) -> StableDiffusionPipeline:
    extractor = vision and CLIPImageProcessorPil(size=vision.config.image_size, crop_size=vision.config.image_size)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=build_scheduler(), safety_checker=None,
        feature_extractor=extractor, image_encoder=vision, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def preview_sheet(pipeline: StableDiffusionPipeline, recipe: Recipe) -> Image.Image:
    """A sheet of fixed prompts and seeds: one row an actor, one column an action, one place a row."""
    part = trained_part(recipe)
    actors = [part.actors[i * len(part.actors) // 4] for i in range(4)]
    prompts = [
        f"{with_article(actor)} {phrase} {PLACES[part.places[row % len(part.places)]].text}"
        for row, actor in enumerate(actors)
        for phrase in _PREVIEW_PHRASES
    ]
    generators = [torch.Generator().manual_seed(7) for _ in prompts]
    with torch.autocast(pipeline.device.type, torch.bfloat16):
        images = pipeline(
            prompts, num_inference_steps=12, guidance_scale=recipe.guidance, generator=generators,
            height=recipe.image_size, width=recipe.image_size,
        ).images  # fmt: skip
    return contact_sheet(images, columns=len(_PREVIEW_PHRASES))


def _save_half(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    modules = [m for m in pipeline.components.values() if isinstance(m, nn.Module)]
    for module in modules:
        module.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for module in modules:
        module.float()
    # transformers loads in the precision that the config names, diffusers in float32; the two must not clash.
    for path in folder.glob("*_encoder/config.json"):
        config = json.loads(path.read_text())
        if "dtype" in config:
            path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
