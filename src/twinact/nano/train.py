"""From the world to the shipped weights, part by part; every part resumes where it stopped."""

import json
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from twinact.backbones import load, quiet
from twinact.backbones.base import Backbone
from twinact.begun import Marker
from twinact.bench.judges import Judges, train_judges
from twinact.encoders import LatentActionEncoder, load_action_encoder
from twinact.errors import ConfigError
from twinact.nano.data import drawn_part, trained_part
from twinact.nano.encoder import train_encoder
from twinact.nano.evaluate import contact_sheet
from twinact.nano.recipe import Recipe
from twinact.nano.refine import refine_unet
from twinact.nano.text import train_text
from twinact.nano.tokenizer import build_tokenizer
from twinact.nano.unet import build_scheduler, build_unet, train_unet
from twinact.nano.vae import train_vae
from twinact.nano.vision import train_vision
from twinact.workflow import SPACE_FILE, build_space
from twinact.world.captions import with_article
from twinact.world.places import PLACES
from twinact.world.scene import WORLD_VERSION

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

MARKER = Marker("recipe.json", "nano")
PARTS = ("text", "vae", "encoder", "unet", "refine", "vision", "judges")
_BUILDS_ON = {
    "encoder": ("vae",), "unet": ("text", "vae"), "refine": ("text", "vae", "encoder", "unet"), "vision": ("text",),
    "judges": ("vae",),
}  # fmt: skip
_KEPT = ("text", "vae")  # with a model to start from
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
    parts: tuple[str, ...] | None = None,
    *,
    start: Path | None = None,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the parts that are not finished yet and write them to the model folder ``run/nano``.

    It is a pipeline, with an action space, as soon as it can draw; before that it holds the parts alone.

    Args:
        recipe: All numbers; stored in ``run/recipe.json``.
        run: Run folder; the same call goes on where an earlier one stopped. Parts may differ.
        parts: Which parts to train now, of `PARTS`; the parts they build on are trained first, or taken from `start`.
            None: all.
        start: A model folder to go on from: its text tower (unless refined) and VAE are kept as they are, its UNet and
            judges are where training begins. None starts from nothing.
        workers: Processes that draw pictures.
        report: Receives lines about progress.

    Raises:
        ConfigError: The run was begun with another recipe, world or start; `start` does not fit the recipe; a part
            that it keeps is to be trained.
        TwinactError: The folder holds something else, or `start` cannot be read. Nothing is written then.
    """
    kept = () if start is None else _KEPT
    for part in parts or ():
        if part in kept:
            raise ConfigError(f"part {part!r} of the model to start from is kept; train it without --start")
    chosen = [part for part in PARTS if (part in parts if parts else part not in kept)]
    needed = () if start is not None else (need for part in chosen for need in _BUILDS_ON.get(part, ()))
    wanted = {*chosen, *needed}
    MARKER.read(run)  # refuses a folder that is not ours before anything takes time
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    before = None if start is None else _open(start, recipe, device)
    judged = None if start is None or "judges" not in wanted or not (start / "judges").is_dir() else start / "judges"
    judges = Judges() if judged is None else Judges.load(judged)
    settings = {"recipe": asdict(recipe), "world_version": WORLD_VERSION, "start": before and before.model_id}
    MARKER.begin(run, settings)

    model = run / "nano"
    if start is not None and not model.exists():
        copy = run / ".nano"  # what is not trained now stays as it was
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(start, copy).rename(model)
    if before is None:
        tokenizer, unet, text, vae = build_tokenizer(recipe.max_tokens), build_unet(recipe), None, None
    else:
        pipeline = before.pipeline()
        tokenizer, unet, text, vae = pipeline.tokenizer, pipeline.unet, pipeline.text_encoder, pipeline.vae
    if "vae" in wanted:
        vae = train_vae(recipe, run / "vae", workers, device, report).requires_grad_(False)
        _save_half(vae, model / "vae")
    if "text" in wanted:
        text = train_text(recipe, tokenizer, run / "text", workers, device, report).requires_grad_(False)
        _save_half(text, model / "text_encoder")
        tokenizer.save_pretrained(model / "tokenizer")
    encoder = None
    if "encoder" in wanted:
        encoder = train_encoder(recipe, vae, run / "encoder", workers, report)
        encoder.save(model / "action_encoder")
    if "unet" in wanted:

        def preview(unet: "UNet2DConditionModel", step: int) -> None:
            pipeline = _pipeline(vae, text, tokenizer, unet, None)
            preview_sheet(pipeline, recipe).save(run / f"preview_{step:06d}.png")

        torch.manual_seed(recipe.seed)
        unet.requires_grad_(True)
        train_unet(recipe, vae, text, tokenizer, unet, run / "unet", workers, report, preview)
        _save_half(unet, model / "unet")
    if "refine" in wanted:
        unet.requires_grad_(True)
        reader = encoder if encoder is not None else _encoder_of(start)
        seen = run / "unet"
        refine_unet(recipe, vae, text, tokenizer, unet, reader, run / "refine", seen, workers, report)
        _save_half(unet, model / "unet")
        _save_half(text, model / "text_encoder")
    if "vision" in wanted:
        vision = train_vision(recipe, text, tokenizer, run / "vision", workers, report)
        _save_half(vision, model / "image_encoder")
    if "judges" in wanted:
        train_judges(recipe, judges.to(device), vae, run / "judges", workers, report)
        judges.save(model / "judges")
    if wanted - {"encoder", "judges"}:
        _join(model, recipe)
    card = {
        "world_version": WORLD_VERSION,
        "recipe": asdict(recipe),
        "hardware": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds_of_last_call": round(time.monotonic() - began),
    }
    (model / "training.json").write_text(json.dumps(card, indent=2) + "\n")
    return model


def _encoder_of(start: Path | None) -> LatentActionEncoder:
    encoder = None if start is None else load_action_encoder(start)
    if encoder is None:
        raise ConfigError(f"model '{start}' has no action encoder to refine with; train part 'encoder' too")
    return encoder


def _open(start: Path, recipe: Recipe, device: torch.device) -> Backbone:
    backbone = load(start, device)
    side = recipe.image_size // 4
    needed = ("StableDiffusion", (recipe.latent_channels, side, side), recipe.text_width)
    found = (type(backbone).__name__, backbone.latent_shape, backbone.token_tables()[0].weight.shape[1])
    if found != needed:
        raise ConfigError(
            f"model '{start}' does not fit the recipe: family, shape of the latents and width of the text tower are "
            f"{found} and must be {needed}; give a model of this recipe"
        )
    return backbone


def _join(model: Path, recipe: Recipe) -> None:
    """Make a pipeline of the parts in a model folder, and its action space, once there are enough to draw."""
    if not all((model / name).is_dir() for name in ("vae", "text_encoder", "unet")):
        return
    with quiet():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

        vision = model / "image_encoder"
        pipeline = _pipeline(
            AutoencoderKL.from_pretrained(model / "vae"),
            CLIPTextModel.from_pretrained(model / "text_encoder"),
            CLIPTokenizer.from_pretrained(model / "tokenizer"),
            UNet2DConditionModel.from_pretrained(model / "unet"),
            CLIPVisionModelWithProjection.from_pretrained(vision) if vision.is_dir() else None,
        )
        pipeline.scheduler.save_pretrained(model / "scheduler")
        if pipeline.feature_extractor is not None:
            pipeline.feature_extractor.save_pretrained(model / "feature_extractor")
        pipeline.save_config(model)
    known = drawn_part(recipe).phrases  # a phrase belongs in the space only when the model can draw it
    build_space(load(model, device="cpu"), phrases=known).save(model / SPACE_FILE)


def _pipeline(vae: Any, text: Any, tokenizer: Any, unet: Any, vision: Any) -> "StableDiffusionPipeline":
    with quiet():  # transformers remarks on import that torchvision is missing
        from diffusers import StableDiffusionPipeline
        from transformers import CLIPImageProcessorPil

    extractor = vision and CLIPImageProcessorPil(size=vision.config.image_size, crop_size=vision.config.image_size)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=build_scheduler(), safety_checker=None,
        feature_extractor=extractor, image_encoder=vision, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def preview_sheet(pipeline: "StableDiffusionPipeline", recipe: Recipe) -> Image.Image:
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


def _save_half(module: nn.Module, folder: Path) -> None:
    with quiet():
        module.half().save_pretrained(folder)
    module.float()
    # transformers loads in the precision that the config names, diffusers in float32; the two must not clash.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if "dtype" in config:
        path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
