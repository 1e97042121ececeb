"""Pictures from prompts, through the stock pipeline."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from twinact.backbones.base import Backbone
from twinact.backbones.text import held
from twinact.errors import ConfigError, DataError
from twinact.lora import attached
from twinact.nano.recipe import RECIPE


def default_guidance(backbone: Backbone) -> float:
    """Guidance that suits a model: nano's own, otherwise what its family is mostly used with."""
    return RECIPE.guidance if backbone.model_id.startswith("nano@") else backbone.guidance


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None,
    *,
    loras: Sequence[Mapping[str, Tensor]] = (),
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float | None = None,
    negative_prompt: str = "",
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
        steps: Denoising steps of the model's own scheduler.
        guidance: Classifier-free guidance, 1 or less turns it off; for FLUX.1 the distilled one. None takes
            `default_guidance`.
        negative_prompt: What classifier-free guidance leads away from; FLUX.1 takes none.
        batch_size: Pictures drawn at once: memory against speed.
        progress: Called with (pictures done, pictures in all) after each batch.

    Raises:
        ConfigError: Not as many seeds as prompts, a number out of range, or a negative prompt that the model has no
            use for.
        CheckpointError: A LoRA was made for another model.
        DataError: A prompt without placeholder although there are vectors, or too long.
    """
    if len(seeds) != len(prompts):
        raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one seed per prompt")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: use 1 or more")
    placeholders = list(vectors or {})
    for prompt in prompts:
        if placeholders and not held(prompt, placeholders):
            raise DataError(
                f"prompt {prompt!r} does not say where the action goes: put {' or '.join(placeholders)} in it"
            )
    guidance = default_guidance(backbone) if guidance is None else guidance

    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    for table in backbone.token_tables():
        setattr(pipeline, table.name, None)  # it gets the text encoded, and need not know where encoders rest
    images: list[Image.Image] = []
    with attached(backbone, loras), backbone.seeing():
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            cond = backbone.encode_text(prompts[batch], vectors)
            # A generator per picture, on the CPU: the same start noise in any batch and on any device.
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[batch]]
            images += pipeline(
                generator=generators,
                num_inference_steps=steps,
                **backbone.pipeline_arguments(cond, negative_prompt, guidance),
            ).images
            if progress is not None:
                progress(len(images), len(prompts))
    return images
