"""How good the embedded model and its judges are, in judged numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from twinact.backbones.base import Backbone
from twinact.bench.judges import Judges, Verdict, free_scene
from twinact.bench.metrics import Share
from twinact.nano.data import trained_part
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.world.captions import caption
from twinact.world.draw import draw, joints
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, distance
from twinact.world.sampling import sample_described
from twinact.world.scene import Scene

# The joints whose angles a person sees at once; face and fingers are a few pixels.
LIMBS = tuple(name for name in DOF_NAMES if name.endswith(("shoulder", "elbow", "hip", "knee")))


@dataclass(frozen=True)
class Prompt:
    """A caption from the grammar and what it asks for."""

    text: str
    actor: str
    place: str
    phrases: tuple[str, ...]

    def action_right(self, verdict: Verdict) -> list[bool]:
        """For every phrase, whether one of its meanings holds."""
        return [any(meaning.holds(verdict.pose) for meaning in meanings()[phrase]) for phrase in self.phrases]


def prompts(count: int, seed: int) -> list[Prompt]:
    """Captions of the grammar with known actors and places: one or two phrases, the place always said."""
    part = trained_part(RECIPE)
    result: list[Prompt] = []
    index = 0
    while len(result) < count:
        rng = np.random.default_rng([seed, 991, index])
        index += 1
        item = sample_described(rng, part)
        if item.phrases:
            scene = item.scene
            text = caption(scene.actor, item.phrases, PLACES[scene.place].text, rng)
            result.append(Prompt(text, scene.actor, scene.place, item.phrases))
    return result


def evaluate_nano(
    backbone: Backbone, judges: Judges, count: int, seed: int, *, steps: int = 25, guidance: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[Image.Image]]:  # fmt: skip
    """Draw `count` prompts and judge them.

    Returns:
        Judged shares with intervals ("actor", "place", "action", "all", "both phrases") as JSON, and the pictures.
    """
    guidance = RECIPE.guidance if guidance is None else guidance
    asked = prompts(count, seed)
    seeds = [seed + index for index in range(count)]
    pictures = generate(
        backbone, [p.text for p in asked], seeds=seeds, steps=steps, guidance=guidance, progress=progress
    )
    verdicts = judges.judge(pictures)
    return {"prompts": count, "seed": seed, "steps": steps, "guidance": guidance, **_shares(asked, verdicts)}, pictures


def _shares(asked: Sequence[Prompt], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    rows = [
        (v.actor == p.actor, v.place == p.place, all(right := p.action_right(v)), sum(right) / len(right), len(right))
        for p, v in zip(asked, verdicts, strict=True)
    ]
    single = [r for r in rows if r[4] == 1]
    double = [r for r in rows if r[4] == 2]
    return {
        "actor": share([r[0] for r in rows]),
        "place": share([r[1] for r in rows]),
        "action of one phrase": share([r[2] for r in single]),
        "both of two phrases": share([r[2] for r in double]),
        "all three": share([all(r[:3]) for r in rows]),
    }


def share(hits: Sequence[bool]) -> dict[str, float | None]:
    """A share with its Wilson interval, for JSON."""
    return Share(sum(hits), len(hits)).as_json()


@torch.no_grad()
def evaluate_judges(judges: Judges, count: int, seed: int, *, phrases: bool = True) -> dict[str, Any]:
    """The judges on drawn pictures that they have never seen.

    Args:
        judges: To be measured.
        count: Number of pictures.
        seed: Of the scenes; no training stream uses it.
        phrases: Poses of the caption grammar; otherwise drawn freely.

    Returns:
        Shares of actor and place, median error in degrees of the limb angles, and share of actions judged right.
    """
    part = trained_part(RECIPE)
    scenes: list[Scene] = []
    named: list[tuple[str, ...]] = []
    for index in range(count):
        rng = np.random.default_rng([seed, 992, index])
        if phrases:
            item = sample_described(rng, part)
            scenes.append(item.scene)
            named.append(item.phrases)
        else:
            scenes.append(free_scene(rng))
            named.append(())
    verdicts = judges.judge([draw(scene, RECIPE.image_size) for scene in scenes])
    errors = np.array(
        [
            [distance(n, getattr(v.pose, n), getattr(s.pose, n)) for n in LIMBS]
            for s, v in zip(scenes, verdicts, strict=True)
        ]
    )
    right = [
        any(m.holds(v.pose) for m in meanings()[phrase])
        for v, chosen in zip(verdicts, named, strict=True)
        for phrase in chosen
    ]
    return {
        "actor": share([v.actor == s.actor for s, v in zip(scenes, verdicts, strict=True)]),
        "place": share([v.place == s.place for s, v in zip(scenes, verdicts, strict=True)]),
        "limb angle error, median degrees": round(float(np.median(errors)), 2),
        "limb angle error, 90th percentile": round(float(np.quantile(errors, 0.9)), 2),
        "joint error, mean share of height": round(
            float(np.mean([_joint_error(s, v) for s, v in zip(scenes, verdicts, strict=True)])), 4
        ),
        "phrases judged right": share(right),
    }


def _joint_error(scene: Scene, verdict: Verdict) -> float:
    seen = Scene(scene.actor, verdict.pose, scene.place, scene.camera, scene.detail_seed)
    return float(np.linalg.norm(joints(seen) - joints(scene), axis=1).mean())


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 8, zoom: int = 2) -> Image.Image:
    """Pictures of one size in rows, each enlarged `zoom` times."""
    size = pictures[0].width
    sheet = Image.new("RGB", (columns * size, -(-len(pictures) // columns) * size))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * size, index // columns * size))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.BICUBIC)
