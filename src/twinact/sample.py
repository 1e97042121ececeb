"""Draws pictures from prompts through the stock pipeline."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from twinact.backbones import quiet
from twinact.backbones.backbone import LONGEST_SIDE, Backbone
from twinact.backbones.text import check_reach, placeholders_in
from twinact.configs import GUIDANCES, check_number
from twinact.errors import ConfigError, DataError
from twinact.lora import attached

_MULTIPLE = 16  # of a side in pixels; patches of two latents of eight


def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    vectors: Mapping[str, Sequence[Float[Tensor, "*_ _ _"]]] | None = None,
    *,
    loras: Sequence[Mapping[str, Tensor]] = (),
    seeds: Sequence[int],
    steps: int | None = None,
    guidance: float | None = None,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
    scheduler: str | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """Draws one picture per prompt; each depends on its own prompt and seed alone, not on the batch it is in.

    Args:
        backbone: The model; as it was, to the bit, when this returns.
        prompts: One text per picture, with placeholders where learned vectors go.
        vectors: As `Backbone.encode_text` takes them; every prompt must then hold one of the placeholders.
        loras: LoRAs to draw with, of the action and the actor for example, in the form of `twinact.lora`; for all
            pictures alike.
        seeds: One per picture.
        steps: Denoising steps; None takes the backbone's own.
        guidance: Classifier-free guidance, 1 or less turns it off (in Z-Image 0); for FLUX.1 the distilled one. None
            takes the backbone's own.
        negative_prompt: What classifier-free guidance leads away from; models whose guidance is distilled take none.
        size: (width, height) in pixels, multiples of 16; None is a square of the backbone's `image_size`.
        scheduler: Class of diffusers to denoise with, made from the settings of the model's own; None is its own.
        batch_size: Pictures drawn at once: memory against speed.
        progress: Called with (pictures done, pictures in all) after each batch.

    Raises:
        ConfigError: Not as many seeds as prompts, a number out of range, a negative prompt that the model has no use
            for, or a scheduler that does not fit it.
        CheckpointError: A LoRA was made for another model.
        DataError: A prompt without placeholder although there are vectors, or too long; vectors out of the model's
            reach; a picture that came out black.
    """
    images: list[Image.Image] = []
    for image in draw(
        backbone,
        prompts,
        vectors,
        loras=loras,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        size=size,
        scheduler=scheduler,
        batch_size=batch_size,
    ):
        images.append(image)
        if progress is not None and (len(images) % batch_size == 0 or len(images) == len(prompts)):
            progress(len(images), len(prompts))
    return images


@torch.no_grad()
def draw(
    backbone: Backbone,
    prompts: Sequence[str],
    vectors: Mapping[str, Sequence[Float[Tensor, "*_ _ _"]]] | None = None,
    *,
    loras: Sequence[Mapping[str, Tensor]] = (),
    seeds: Sequence[int],
    steps: int | None = None,
    guidance: float | None = None,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
    scheduler: str | None = None,
    batch_size: int = 8,
) -> Iterator[Image.Image]:
    """As `generate`, but yields every picture when its batch is finished. Until the last one the model is in use."""
    if len(seeds) != len(prompts):
        raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one seed per prompt")
    steps = backbone.steps if steps is None else steps
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: use 1 or more")
    placeholders = list(vectors or {})
    for prompt in prompts:
        if placeholders and not placeholders_in(prompt, placeholders):
            raise DataError(
                f"prompt {prompt!r} does not say where the action goes: put {' or '.join(placeholders)} in it"
            )
    guidance = backbone.guidance if guidance is None else guidance
    check_number("guidance", guidance, GUIDANCES)
    check_reach(backbone.token_tables(), vectors or {})

    sides = {} if size is None else dict(zip(("width", "height"), _checked_size(size), strict=True))
    if size is not None and max(size) > backbone.longest_side:
        raise ConfigError(f"{size[0]} × {size[1]} pixels: this model draws at most {backbone.longest_side} a side")
    pipeline = backbone.pipeline()
    if scheduler is not None:
        pipeline.scheduler = _other_scheduler(pipeline.scheduler, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    for table in backbone.token_tables():
        setattr(pipeline, table.name, None)  # it gets the text encoded, and need not know where encoders rest
    with attached(backbone, loras), backbone.autoencoder_on_device():
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            cond = backbone.encode_text(prompts[batch], vectors)
            # A generator per picture, on the CPU: the same start noise in any batch and on any device.
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[batch]]
            drawn = pipeline(
                generator=generators,
                num_inference_steps=steps,
                output_type="np",
                **backbone.pipeline_arguments(cond, negative_prompt, guidance) | sides,
            ).images
            for values, prompt, seed in zip(drawn, prompts[batch], seeds[batch], strict=True):
                _check_picture(values, prompt, seed)
            yield from pipeline.image_processor.numpy_to_pil(drawn)


def check_size(name: str, side: int) -> None:
    """Refuses pixels that cannot be the width or height of a picture.

    Raises:
        ConfigError: They are no multiple of 16, or too many.
    """
    if side % _MULTIPLE or not _MULTIPLE <= side <= LONGEST_SIDE:
        raise ConfigError(f"{name} is {side}: use a multiple of {_MULTIPLE} up to {LONGEST_SIDE} pixels")


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    for name, side in zip(("width", "height"), size, strict=True):
        check_size(name, side)
    return size


def _other_scheduler(own: Any, name: str) -> Any:
    """A scheduler of another class with the settings of a model's own."""
    known = {kind.__name__: kind for kind in (type(own), *own.compatibles)}
    if name not in known:
        raise ConfigError(f"scheduler {name!r} does not fit this model: use one of {', '.join(sorted(known))}")
    with quiet():  # settings that it has no use for
        return known[name].from_config(own.config)


def _check_picture(values: np.ndarray, prompt: str, seed: int) -> None:
    """Refuses what no model draws on purpose: numbers that overflowed, which would be saved as black."""
    if not np.isfinite(values).all() or not values.any():
        raise DataError(
            f"the picture of prompt {prompt!r} with seed {seed} came out black, because numbers in the model "
            "overflowed: use precision fp32 or bf16, a LoRA at a lower strength, or an action nearer to its phrases"
        )
