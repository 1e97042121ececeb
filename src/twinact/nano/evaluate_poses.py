"""How surely poses are read: off drawings, and off the first step, in which nano means what it will draw."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from twinact.backbones.backbone import Backbone
from twinact.intent import IntendedPose
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.nano.refine import pose_distance
from twinact.nano.wishes import Wish, Wishes
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import segment_directions
from twinact.readers.own import LatentPoseReader
from twinact.sample import generate
from twinact.world.draw import drawing
from twinact.world.sampling import sample_free_limbs, sample_scene

_STEP = 10_000_000  # of the refining's captions; no training comes that far
_AT_ONCE = 32


@torch.no_grad()
def evaluate_intent(
    backbone: Backbone, intent: IntendedPose, reader: LatentPoseReader, count: int, *, steps: int | None = None
) -> dict[str, Any]:
    """Distances between unit vectors along the body's segments, from those that captions ask for.

    Args:
        backbone: The embedded model.
        intent: How its intended pose is read.
        reader: Reads finished drawings.
        count: How many captions; their actors and places are all that nano knows.
        steps: Of the drawings; None takes the model's own.

    Returns:
        Means over the segments that captions name, as JSON: of the pose read at the first step from pure noise, of the
        finished drawing with the same noise, and their difference.
    """
    asked = [wish for wish in Wishes(RECIPE).of(_STEP, 2 * count) if wish.words == wish.second][:count]
    meant, drawn = [], []
    for start in range(0, len(asked), _AT_ONCE):
        chunk = asked[start : start + _AT_ONCE]
        words, seeds = [wish.words for wish in chunk], range(start, start + len(chunk))
        noise = torch.stack(
            [torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        directions = intent.read(backbone, backbone.encode_text(words), noise.to(backbone.dtype))[:, : len(SEGMENTS)]
        pictures = generate(backbone, words, seeds=seeds, steps=steps, guidance=RECIPE.guidance)
        finished = reader.read(pictures).directions
        meant += [_distance(found, wish) for found, wish in zip(directions, chunk, strict=True)]
        drawn += [_distance(found, wish) for found, wish in zip(finished, chunk, strict=True)]
    first, last = (sum(values) / len(values) for values in (meant, drawn))
    figures = {"first step": first, "finished drawing": last, "difference": abs(first - last)}
    return {name: round(value, 4) for name, value in figures.items()} | {"count": len(asked)}


def evaluate_reader(reader: LatentPoseReader, count: int, seed: int) -> dict[str, Any]:
    """Errors in degrees of the directions that a reader sees in drawn pictures of freely drawn poses, as JSON.

    Args:
        reader: Reads pictures through the model's autoencoder.
        count: How many pictures, with all actors, places, things and lights that nano knows.
        seed: No training stream uses it.
    """
    errors = []
    for start in range(0, count, _AT_ONCE):
        rngs = [np.random.default_rng([seed, 998, index]) for index in range(start, min(start + _AT_ONCE, count))]
        scenes = [sample_scene(rng, drawn_part(RECIPE), sample_free_limbs(rng)) for rng in rngs]
        drawn = [drawing(scene, RECIPE.image_size) for scene in scenes]
        seen = reader.read([Image.fromarray(one.picture) for one in drawn]).directions
        true = segment_directions(torch.from_numpy(np.stack([one.joints for one in drawn])).float(), SEGMENTS)
        errors.append(torch.rad2deg((seen * true).sum(2).clamp(-1, 1).arccos()))
    off = torch.cat(errors).numpy()
    return {
        "median degrees": round(float(np.median(off)), 2),
        "95th percentile": round(float(np.quantile(off, 0.95)), 2),
        "count": count,
    }


def _distance(found: torch.Tensor, wish: Wish) -> float:
    return float(pose_distance(found[None, None], wish.poses[None], wish.weights[None], 0.0))
