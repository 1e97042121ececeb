"""How good the embedded model is, in judged numbers."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.errors import ConfigError
from twinact.nano.between import between_pairs
from twinact.nano.calibrate import AT_ONCE, drawn_scenes, round_trip
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.phrases import headings
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.statistics import share
from twinact.world.captions import caption, with_article
from twinact.world.draw import draw
from twinact.world.judges.judges import Judges, Verdict
from twinact.world.light import LIGHTS
from twinact.world.meanings import meanings, phrase_holds
from twinact.world.places import PLACES
from twinact.world.sampling import (
    LIGHT_SHARES,
    THING_SHARE,
    sample_limb_by_limb,
    sample_plain,
    sample_scene,
)
from twinact.world.scene import Scene
from twinact.world.splits import is_held_out_pose
from twinact.world.things import THINGS

KINDS = ("one phrase", "two phrases", "limb by limb")
"""What prompts ask for: one or two phrases, or three or four that each name one limb."""


@dataclass(frozen=True)
class Prompt:
    """A caption from the grammar and a scene that shows what it asks for."""

    kind: str
    text: str
    scene: Scene
    phrases: tuple[str, ...]

    def action_right(self, verdict: Verdict) -> list[bool]:
        """For every phrase, whether one of its meanings holds."""
        return [phrase_holds(phrase, verdict.pose) for phrase in self.phrases]


def prompts(kind: str, count: int, seed: int) -> list[Prompt]:
    """Captions that say everything: a known actor and place, phrases, things worn or held, and the light.

    Args:
        kind: One of `KINDS`.
        count: How many.
        seed: No training stream uses it.
    """
    part, index = drawn_part(RECIPE), 0
    result: list[Prompt] = []
    while len(result) < count:
        rng = np.random.default_rng([seed, 991, KINDS.index(kind), index])
        index += 1
        if kind == "limb by limb":
            posed, least = sample_limb_by_limb(rng, part.phrases, int(rng.integers(3, 5)), single=True), 3
        else:
            least = 1 + KINDS.index(kind)
            posed = sample_plain(rng, part.phrases, least)
        if len(posed.phrases) < least or is_held_out_pose(posed.pose):
            continue
        scene = sample_scene(rng, part, posed.pose)
        text = caption(
            scene.actor, posed.phrases, PLACES[scene.place].text, rng,
            things=[THINGS[thing].words[0] for thing in scene.things], light=LIGHTS[scene.light].words[0],
        )  # fmt: skip
        result.append(Prompt(kind, text, scene, posed.phrases))
    return result


def evaluate_nano(
    backbone: Backbone, judges: Judges, count: int, seed: int, *, steps: int | None = None,
    guidance: float | None = None, progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[Image.Image]]:  # fmt: skip
    """Draw `count` prompts of each of `KINDS`, and as many that leave place, things and light unsaid, and judge them.

    Returns:
        Judged shares with intervals, also by heading, actor and phrase, and pictures per second, as JSON; and the
        pictures of the first three sorts, each to the right of what the world draws for its prompt.
    """
    steps = backbone.steps if steps is None else steps
    guidance = RECIPE.guidance if guidance is None else guidance
    asked = [prompt for kind in KINDS for prompt in prompts(kind, count, seed)]
    unsaid = unsaid_prompts(count, seed)
    texts = [prompt.text for prompt in asked] + unsaid
    began = time.perf_counter()
    pictures = generate(
        backbone, texts, seeds=[seed + index for index in range(len(texts))], steps=steps, guidance=guidance,
        progress=progress,
    )  # fmt: skip
    facts = {
        "prompts": count,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "pictures per second": round(len(texts) / (time.perf_counter() - began), 2),
    }
    verdicts = judges.judge(pictures)
    pairs = [_beside_truth(p.scene, picture) for p, picture in zip(asked, pictures, strict=False)]
    return facts | _shares(asked, verdicts[: len(asked)]) | {"unsaid": spread(verdicts[len(asked) :])}, pairs


def unsaid_prompts(count: int, seed: int) -> list[str]:
    """Prompts that name an actor and one phrase, and nothing else."""
    said = (prompt for prompt in prompts("one phrase", count, seed + 1))
    return [
        caption(prompt.scene.actor, prompt.phrases, None, np.random.default_rng([seed, 997, index]))
        for index, prompt in enumerate(said)
    ]


def spread(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How often each place, thing and light is seen where nothing is said of it, over how often training showed it."""
    count = len(verdicts)
    trained = (
        {place: 1 / len(RECIPE.places) for place in RECIPE.places}
        | dict.fromkeys(THINGS, THING_SHARE)
        | dict(zip(LIGHTS, LIGHT_SHARES, strict=True))
    )
    seen = [{v.place, v.light, *v.things} for v in verdicts]
    return {name: round(sum(name in one for one in seen) / count / expected, 2) for name, expected in trained.items()}


def _beside_truth(scene: Scene, picture: Image.Image) -> Image.Image:
    pair = Image.new("RGB", (2 * picture.width, picture.height))
    pair.paste(Image.fromarray(draw(scene, picture.width)), (0, 0))
    pair.paste(picture, (picture.width, 0))
    return pair


def _shares(asked: Sequence[Prompt], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    rows = [(p, v, p.action_right(v)) for p, v in zip(asked, verdicts, strict=True)]
    plain = [row for row in rows if row[0].kind != "limb by limb"]
    by_phrase = _grouped((phrase, hit) for p, _, right in plain for phrase, hit in zip(p.phrases, right, strict=True))
    heading = headings()
    by_heading = _grouped((heading[phrase], hit) for phrase, hits in by_phrase.items() for hit in hits)
    by_actor = _grouped((p.scene.actor, hit) for p, _, right in plain for hit in right)
    return {
        **{kind: share([all(right) for p, _, right in rows if p.kind == kind]) for kind in KINDS},
        "actor": share([v.actor == p.scene.actor for p, v, _ in rows]),
        "place": share([v.place == p.scene.place for p, v, _ in rows]),
        "things": share([v.things == p.scene.things for p, v, _ in rows]),
        "light": share([v.light == p.scene.light for p, v, _ in rows]),
        "phrases by heading": {name: share(by_heading[name]) for name in sorted(by_heading)},
        "phrases by actor": {name: share(by_actor[name]) for name in sorted(by_actor)},
        "phrases": {name: f"{sum(by_phrase[name])}/{len(by_phrase[name])}" for name in sorted(by_phrase)},
        "phrases that fail": sorted(name for name, hits in by_phrase.items() if len(hits) > 1 and not any(hits)),
    }


def _grouped(pairs: Iterable[tuple[str, bool]]) -> dict[str, list[bool]]:
    groups: dict[str, list[bool]] = {}
    for name, hit in pairs:
        groups.setdefault(name, []).append(hit)
    return groups


def measured_pairs(space: ActionSpace, count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of phrases, of those that are kept for measuring (see `between_pairs`), that fill every slot.

    Raises:
        ConfigError: The space has fewer such pairs than `count`.
    """
    whole = {phrase for phrase, mask in zip(space.phrases, space.phrase_mask, strict=True) if bool(mask.all())}
    fitting = between_pairs([p for p in drawn_part(RECIPE).phrases if p in whole], measured=True)
    if len(fitting) < count:
        raise ConfigError(
            f"between is {count} and the space has {len(fitting)} pairs of phrases that name the same joints with "
            f"clearly different angles and are kept for measuring; give at most {len(fitting)}"
        )
    order = np.random.default_rng([seed, 994]).permutation(len(fitting))
    return [fitting[i] for i in order[:count]]


def evaluate_between(
    backbone: Backbone, space: ActionSpace, judges: Judges, pairs: Sequence[tuple[str, str]], seed: int, *,
    steps: int | None = None, guidance: float | None = None, progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Whether points between two phrases of the space (see `measured_pairs`) are drawn as poses between theirs.

    Five points of each way are drawn with the same four actors and noises. Their judged joint angles, in tolerances,
    are projected on the line from one phrase's pose to the other's; a way is monotone when the mean advances by at
    least half of it in all, and at no point goes back by more than a twentieth.
    """
    guidance = RECIPE.guidance if guidance is None else guidance
    table, asked = meanings(), prompts("one phrase", 4, seed)
    shares = torch.linspace(0, 1, 5)
    monotone, ways = [], []
    for number, (a, b) in enumerate(pairs):
        ends = torch.stack([space.project_phrase(text)[0] for text in (a, b)])
        names = list(table[a][0].targets)
        start, end = (np.array([table[text][0].targets[n].value for n in names]) for text in (a, b))
        unit = np.array([table[a][0].targets[n].tolerance for n in names])
        line = (end - start) / unit
        advance = []
        for part in shares:
            vectors = space.reconstruct(torch.lerp(*ends, part))
            pictures = generate(
                backbone, [f"{with_article(p.scene.actor)} {PLACEHOLDER} {PLACES[p.scene.place].text}" for p in asked],
                {PLACEHOLDER: vectors}, seeds=range(seed, seed + len(asked)), steps=steps, guidance=guidance,
            )  # fmt: skip
            seen = [np.array([getattr(v.pose, n) for n in names]) for v in judges.judge(pictures)]
            advance.append(float(np.mean([((pose - start) / unit) @ line / (line @ line) for pose in seen])))
        steps_forward = np.diff(advance)
        monotone.append(bool(advance[-1] - advance[0] >= 0.5 and steps_forward.min() >= -0.05))
        ways.append({"from": a, "to": b, "advance": [round(x, 3) for x in advance]})
        if progress is not None:
            progress(number + 1, len(pairs))
    return {"monotone": share(monotone), "ways": ways}


def evaluate_vae(
    backbone: Backbone, count: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """PSNR in dB, over values in [0, 1], of drawn pictures that the VAE has encoded and decoded; as JSON, with the
    bounds of a normal 95 % interval of the mean.

    Args:
        backbone: The embedded model.
        count: Number of pictures of the caption grammar, at least 2.
        seed: Of the scenes; no training stream uses it.
        progress: Called with (pictures decoded, pictures in all), every few of them.
    """
    spoil, scenes, psnr = round_trip(backbone), drawn_scenes(count, seed), np.empty(count)
    for start in range(0, count, AT_ONCE):
        drawn = np.stack([draw(item.scene, RECIPE.image_size) for item in scenes[start : start + AT_ONCE]])
        decoded = np.stack([np.asarray(picture) for picture in spoil(list(drawn))])
        errors = ((decoded.astype(np.float64) - drawn) / 255) ** 2
        psnr[start : start + AT_ONCE] = -10 * np.log10(errors.mean(axis=(1, 2, 3)))
        if progress is not None:
            progress(start + len(drawn), count)
    mean, half = psnr.mean(), 1.96 * psnr.std(ddof=1) / math.sqrt(count)
    figures = {"psnr, mean dB": mean, "low": mean - half, "high": mean + half, "psnr, lowest dB": psnr.min()}
    return {name: round(float(value), 2) for name, value in figures.items()} | {"count": count}
