"""Measures after how many steps a model shows which pose it is going to draw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import Backbone
from twinact.errors import ConfigError
from twinact.intent.eyes import Eyes
from twinact.intent.intended_pose import DRAWING, early_times, step_on
from twinact.intent.prompts import other_prompts
from twinact.phrases.wording import said

COUNTS = (1, 2, 4, 8)
"""Numbers of steps that are looked at."""
ENOUGH = 0.9
"""Correlation with the finished drawing from which a pose is known."""
_AT_ONCE = 8
_LEAST = 4  # prompts; fewer vary too little for a correlation


@dataclass(frozen=True)
class MeasuredIntent:
    """How soon a model shows its pose.

    Attributes:
        correlations: Number of steps → correlation of the limb directions with those of the finished drawing.
        steps: The smallest number with at least `ENOUGH`; None where none has it.
    """

    correlations: dict[int, float]

    @property
    def steps(self) -> int | None:
        return next((count for count, value in sorted(self.correlations.items()) if value >= ENOUGH), None)


@torch.no_grad()
def measure_intent(
    backbone: Backbone,
    eyes: Eyes,
    phrases: Sequence[str],
    count: int = 32,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> MeasuredIntent:
    """Compares the poses in early estimates with those in the finished drawings of the same prompts and noise.

    Each of a segment's two components is taken relative to its mean over the prompts: that heads are above feet in all
    drawings says nothing about what a prompt means.

    Args:
        backbone: The model.
        eyes: Who reads estimates and drawings.
        phrases: Of which the prompts name one each.
        count: How many drawings, 4 or more.
        progress: Called with (drawings done, drawings in all).

    Raises:
        ConfigError: There are too few drawings.
    """
    if count < _LEAST:
        raise ConfigError(f"{count} drawings are too few to compare poses: use {_LEAST} or more")
    generator = torch.Generator().manual_seed(0)
    prompts = other_prompts(generator, count)
    chosen = torch.randint(len(phrases), (count,), generator=generator).tolist()
    texts = [said(prompt, phrases[i]) for prompt, i in zip(prompts, chosen, strict=True)]
    noise = torch.randn((count, *backbone.latent_shape), generator=generator)
    found: dict[int, list[Tensor]] = {steps: [] for steps in (*COUNTS, DRAWING)}
    for start in range(0, count, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        x = noise[part].to(backbone.device, backbone.dtype)
        cond = backbone.encode_text(texts[part])
        times = early_times(backbone, DRAWING, len(x))
        for number, t in enumerate(times, start=1):
            prediction = backbone.predict(x, t, cond)
            if number in found:
                found[number].append(eyes.directions(backbone, backbone.clean(x, t, prediction)).float().cpu())
            if number < DRAWING:
                x = step_on(backbone, x, t, times[number], prediction)
        if progress is not None:
            progress(min(start + _AT_ONCE, count), count)
    drawn = {steps: torch.cat(parts) for steps, parts in found.items()}
    return MeasuredIntent({steps: correlation(drawn[steps], drawn[DRAWING]) for steps in COUNTS})


def correlation(first: Float[Tensor, "b g 2"], second: Float[Tensor, "b g 2"]) -> float:
    """Of the directions of drawings with others of the same ones, from -1 to 1, each relative to its mean over them."""
    one, other = (values - values.mean(dim=0) for values in (first, second))
    scale = (one.square().sum() * other.square().sum()).sqrt()
    return float((one * other).sum() / scale) if scale > 0 else 0.0
