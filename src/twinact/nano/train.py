"""From the world to the shipped weights, part by part; every part resumes where it stopped."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from twinact.backbones import load, quiet
from twinact.backbones.facts import ModelFacts
from twinact.backbones.memory import bf16_if_native
from twinact.errors import ConfigError
from twinact.intent import intended_pose
from twinact.intent.pose_table import pose_table
from twinact.nano.data import drawn_part, trained_part
from twinact.nano.encoder import train_encoder
from twinact.nano.judges import train_judges
from twinact.nano.pictures import Pictures
from twinact.nano.recipe import Fit, Recipe
from twinact.nano.refine import refine_unet
from twinact.nano.text import train_text
from twinact.nano.tokenizer import build_tokenizer
from twinact.nano.unet import Denoising, build_scheduler, build_unet, train_unet
from twinact.nano.vae import PatchCodes, train_vae
from twinact.readers import load_action_encoder
from twinact.runs.marker import Marker
from twinact.sheets import contact_sheet
from twinact.space.build import SPACE_FILE, build_space
from twinact.world.captions import with_article
from twinact.world.judges.judges import Judges
from twinact.world.places import PLACES
from twinact.world.scene import WORLD_VERSION

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

MARKER = Marker("recipe.json", "nano")
PARTS = ("text", "vae", "encoder", "unet", "refine", "judges")
_BUILDS_ON = {
    "encoder": ("vae",), "unet": ("text", "vae"), "refine": ("text", "vae", "encoder", "unet"), "judges": ("vae",),
}  # fmt: skip
# Where the lowest joint of figures lies that stand, in all drawings of the world: its camera hardly moves.
_GROUND = 0.905
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
        parts: Which parts to train now, of `PARTS`; the parts that they build on are trained first, or taken from
            `start`. None: all.
        start: A model folder to go on from: every part begins with its weights, and latents stay the codes that its
            VAE makes. Its words and the size of its pictures may be fewer. None starts from nothing.
        workers: Processes that draw pictures.
        report: Receives lines about progress.

    Raises:
        ConfigError: The run was begun with another recipe, world or start; a part of `start` that is not trained now
            does not fit the recipe.
        TwinactError: The folder holds something else, or `start` cannot be read. Nothing is written then.
    """
    chosen = set(parts or PARTS)
    if start is None:
        chosen |= {need for part in chosen for need in _BUILDS_ON.get(part, ())}
    MARKER.read(run)  # refuses a folder that is not ours before anything takes time
    settings = {"recipe": asdict(recipe), "world_version": WORLD_VERSION, "start": start and load(start).model_id}
    MARKER.begin(run, settings)
    model = run / "nano"
    if start is not None and not model.exists():
        copy = run / ".nano"  # what is not trained now stays as it was
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(start, copy).rename(model)
    making = _Making(recipe, run, start, workers, report)
    for part in PARTS:
        if part in chosen:
            began = time.monotonic()
            getattr(making, part)()
            _note(model, {part: asdict(getattr(recipe, part))}, time.monotonic() - began)
    if chosen - {"judges"}:  # the space holds poses as the encoder sees them
        _join(model, recipe)
    return model


class _Making:
    """The parts of one model: each method trains one, writes it to the model folder, and keeps it for the next."""

    def __init__(
        self, recipe: Recipe, run: Path, start: Path | None, workers: int, report: Callable[[str], None]
    ) -> None:
        self.recipe, self.run, self.start, self.workers, self.report = recipe, run, start, workers, report
        self.model = run / "nano"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def text(self) -> None:
        before = None if self.start is None else (_text_of(self.model), _tokenizer_of(self.model))
        tokenizer = build_tokenizer(self.recipe.max_tokens)
        tower = train_text(
            self.recipe, tokenizer, self.run / "text", self.workers, self.device, self.report, start=before
        )
        _save_half(tower, self.model / "text_encoder")
        tokenizer.save_pretrained(self.model / "tokenizer")

    def vae(self) -> None:
        before = None if self.start is None else _vae_of(self.start)
        vae = train_vae(self.recipe, self.run / "vae", self.workers, self.device, self.report, start=before)
        _save_half(vae, self.model / "vae")

    def encoder(self) -> None:
        before = None if self.start is None else load_action_encoder(self.start)
        folder = self.run / "encoder"
        encoder = train_encoder(self.recipe, self.codes, self.device, folder, self.workers, self.report, start=before)
        encoder.save(self.model / "action_encoder")

    def unet(self) -> None:
        unet, denoising = self._unet(), self._denoising(self.recipe.unet)

        def preview(step: int) -> None:
            pipeline = _pipeline(_vae_of(self.model).to(self.device), denoising.text, self.tokenizer, unet)
            preview_sheet(pipeline, self.recipe).save(self.run / f"preview_{step:06d}.png")

        train_unet(self.recipe, denoising, unet, self.run / "unet", self.report, preview)
        self._keep(unet, denoising)

    def refine(self) -> None:
        unet, denoising = self._unet(), self._denoising(self.recipe.refine)
        encoder = load_action_encoder(self.model)
        if encoder is None:
            raise ConfigError(f"model '{self.model}' has no action encoder to refine with; train part 'encoder' first")
        folder = self.run / "refine"
        refine_unet(self.recipe, denoising, unet, encoder, self.tokenizer, folder, self.workers, self.report)
        self._keep(unet, denoising)

    def judges(self) -> None:
        judges = Judges()
        if self.start is not None and (self.start / "judges").is_dir():
            judges.take_over(self.start / "judges")
        vae = _vae_of(self.model).to(self.device)
        folder = self.run / "judges"
        train_judges(self.recipe, judges.to(self.device), vae, folder, self.workers, self.report)
        judges.save(self.model / "judges")

    @cached_property
    def codes(self) -> PatchCodes:
        """What latents are: the linear codes that the VAE imitates."""
        return PatchCodes.of(_vae_of(self.model if self.start is None else self.start), self.recipe, self.workers)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return _tokenizer_of(self.model)

    @cached_property
    def pictures(self) -> Pictures:
        folder = self.run / "pictures"
        return Pictures(self.recipe, self.codes, self.tokenizer, folder, self.workers, self.device, self.report)

    def _denoising(self, fit: Fit) -> Denoising:
        text = _text_of(self.model)
        if text.config.max_position_embeddings != self.recipe.max_tokens:
            raise ConfigError(
                f"the text tower of '{self.model}' reads {text.config.max_position_embeddings} tokens and the recipe "
                f"has {self.recipe.max_tokens}; train part 'text' too"
            )
        return Denoising(self.recipe, self.pictures, text.to(self.device), self.tokenizer, fit.batch_size)

    def _unet(self) -> "UNet2DConditionModel":
        from diffusers import UNet2DConditionModel

        folder = self.model / "unet"
        torch.manual_seed(self.recipe.seed)
        unet = UNet2DConditionModel.from_pretrained(folder).float() if folder.is_dir() else build_unet(self.recipe)
        return unet.to(self.device)

    def _keep(self, unet: "UNet2DConditionModel", denoising: Denoising) -> None:
        _save_half(unet, self.model / "unet")
        _save_half(denoising.text, self.model / "text_encoder")


def _vae_of(model: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(model / "vae").float().requires_grad_(False).eval()


def _text_of(model: Path) -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(model / "text_encoder").float().eval()


def _tokenizer_of(model: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(model / "tokenizer")


def _note(model: Path, trained: dict[str, Any], seconds: float) -> None:
    """Add what one call trained to the model's ``training.json``."""
    path = model / "training.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    card.setdefault("calls", []).append(
        {"world_version": WORLD_VERSION, "hardware": hardware, "seconds": round(seconds), **trained}
    )
    path.write_text(json.dumps(card, indent=2) + "\n")


def _join(model: Path, recipe: Recipe) -> None:
    """Make a pipeline of the parts in a model folder, and its action space, once there are enough to draw."""
    if not all((model / part).is_dir() for part in ("vae", "text_encoder", "tokenizer", "unet")):
        return
    from diffusers import UNet2DConditionModel

    with quiet():
        unet = UNet2DConditionModel.from_pretrained(model / "unet")
    pipeline = _pipeline(_vae_of(model), _text_of(model), _tokenizer_of(model), unet)
    pipeline.scheduler.save_pretrained(model / "scheduler")
    pipeline.save_config(model)
    facts = ModelFacts(
        guidance=recipe.guidance, steps=recipe.drawing_steps, intent_steps=1, ground=_GROUND, square=True
    )
    facts.write(model)
    known = drawn_part(recipe).phrases  # a phrase belongs in the space only when the model can draw it
    backbone = load(model, device="cpu")
    space, intent = build_space(backbone, phrases=known), intended_pose(backbone)
    poses = None if intent is None else pose_table(backbone, intent, known, drawings=recipe.phrase_drawings)
    replace(space, poses=poses).save(model / SPACE_FILE)


def _pipeline(vae: Any, text: Any, tokenizer: Any, unet: Any) -> "StableDiffusionPipeline":
    with quiet():  # transformers remarks on import that torchvision is missing
        from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=build_scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
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
    with bf16_if_native(pipeline.device):
        images = pipeline(
            prompts, num_inference_steps=recipe.drawing_steps, guidance_scale=recipe.guidance, generator=generators
        ).images
    return contact_sheet(images, columns=len(_PREVIEW_PHRASES))


def _save_half(module: nn.Module, folder: Path) -> None:
    with quiet():
        module.half().save_pretrained(folder)
    module.float()
    # transformers loads in the precision that the config names, diffusers in float32; the two must not clash.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)  # a folder of this machine
    path.write_text(json.dumps(config | ({"dtype": "float32"} if "dtype" in config else {}), indent=2) + "\n")
