"""Plans what the demo draws, and draws it: each picture once, under a file name that follows from all its settings."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from twinact import ACTOR_PLACEHOLDER, PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone, TokenTable
from twinact.backbones.token_lora import at
from twinact.bench.metrics import Asked
from twinact.bench.tasks import Ask
from twinact.errors import ConfigError
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.sheets import png_bytes
from twinact.space import ActionSpace
from twinact.storage import atomic_write_bytes, tensor_hash
from twinact.world.captions import with_article
from twinact.world.places import PLACES
from twinact.world.splits import CustomAction, shared_by

_BATCH = 8
_FIRST_SEED = 1000


@dataclass(frozen=True)
class Shot:
    """One picture to draw: a prompt with placeholders for `action` and for a customised `actor`, or words alone."""

    prompt: str
    seed: int
    action: Action | None = None
    actor: Action | None = None


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn: denoising steps and classifier-free guidance."""

    steps: int = RECIPE.drawing_steps
    guidance: float = RECIPE.guidance


def grid_asks(custom: CustomAction, actors: int, places: int) -> list[Ask]:
    """Prompts for every pair of an actor and a place, row by row; only actors and places that no exemplar shows.

    The first half of the columns leaves the place unsaid, and each of these differs in its seeds.
    """
    others = [actor for actor in RECIPE.actors if actor not in custom.actors]
    chosen = [others[i * len(others) // actors] for i in range(actors)]
    shared = shared_by(custom, RECIPE.places)
    where: list[str | None] = [None] * (places // 2)
    where += [place for place in RECIPE.places if place != shared.place][: places - len(where)]
    return [
        Ask(
            f"{with_article(actor)} {PLACEHOLDER}" + (f" {PLACES[place].text}" if place else ""),
            _FIRST_SEED + index,
            Asked(custom.pose, actor, place, custom.actors, shared),
        )
        for index, (actor, place) in enumerate((actor, place) for actor in chosen for place in where)
    ]


def actor_asks(custom: CustomAction, actor: str) -> list[Ask]:
    """The action by a customised actor, once in every place that no exemplar shows.

    Args:
        custom: The action.
        actor: Key of `ACTORS`.
    """
    shared = shared_by(custom, RECIPE.places)
    return [
        Ask(
            f"{ACTOR_PLACEHOLDER} {PLACEHOLDER} {PLACES[place].text}",
            _FIRST_SEED + index,
            Asked(custom.pose, actor, place, custom.actors, shared),
        )
        for index, place in enumerate(place for place in RECIPE.places if place != shared.place)
    ]


def where_of(ask: Ask) -> str:
    """The words of a prompt's place, for headings."""
    return PLACES[ask.asked.place].text if ask.asked.place else "place unsaid"


def phrase_action(phrase: str, space: ActionSpace, tables: Sequence[TokenTable]) -> Action:
    """A phrase as an action, whether or not the space was built from it.

    Args:
        phrase: Any words.
        space: The space.
        tables: Token tables of its backbone.
    """
    point, mask = space.project_phrase(phrase, tables)
    name = re.sub(r"[^a-z0-9]+", "-", phrase.lower()).strip("-")[:32]
    return Action.from_coefficients(name, space, point, mask=mask)


def draw_shots(
    backbone: Backbone,
    shots: Sequence[Shot],
    folder: Path,
    sampler: Sampler,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[bytes]:
    """PNG files of all shots; those that are in `folder` already are not drawn again.

    Args:
        backbone: The model.
        shots: What to draw.
        folder: Where pictures are kept, under names that follow from all that decides them.
        sampler: How.
        advance: Called with (pictures there, pictures in all).
    """
    paths = [folder / f"{_key(backbone, shot, sampler)}.png" for shot in shots]
    todo = {path: shot for path, shot in zip(paths, shots, strict=True) if not path.is_file()}
    total = len(set(paths))
    done = total - len(todo)
    advance(done, total)
    # A prompt without placeholder may not be drawn together with vectors, and an actor's LoRA acts on a whole batch.
    kinds: dict[tuple[bool, Action | None], list[tuple[Path, Shot]]] = {}
    for path, shot in todo.items():
        kinds.setdefault((shot.action is None, shot.actor), []).append((path, shot))
    for missing in kinds.values():
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            for (path, _), image in zip(batch, _draw(backbone, [shot for _, shot in batch], sampler), strict=True):
                atomic_write_bytes(path, png_bytes(image, optimize=True))
            done += len(batch)
            advance(done, total)
    return [path.read_bytes() for path in paths]


def _draw(backbone: Backbone, shots: Sequence[Shot], sampler: Sampler) -> list[Image.Image]:
    """One batch, of one actor; every shot has its own placeholder, so that different actions are drawn together."""
    carrying = next((shot.action for shot in shots if shot.action is not None and shot.action.lora), None)
    if carrying is not None:
        raise ConfigError(f"action {carrying.name!r} carries a LoRA, which would act on every picture of a batch")
    vectors = {f"<act{i}>": shot.action.vectors for i, shot in enumerate(shots) if shot.action is not None}
    actor = shots[0].actor
    if actor is not None:
        vectors[ACTOR_PLACEHOLDER] = actor.vectors
    return generate(
        backbone,
        [shot.prompt.replace(PLACEHOLDER, f"<act{i}>") for i, shot in enumerate(shots)],
        vectors,
        loras=[] if actor is None else [at(ACTOR_PLACEHOLDER, actor.lora)],
        seeds=[shot.seed for shot in shots],
        steps=sampler.steps,
        guidance=sampler.guidance,
        batch_size=len(shots),
    )


def _key(backbone: Backbone, shot: Shot, sampler: Sampler) -> str:
    vectors = "" if shot.action is None else tensor_hash({str(i): v for i, v in enumerate(shot.action.vectors)})
    facts = [backbone.model_id, shot.prompt, shot.seed, vectors, sampler.steps, sampler.guidance]
    if shot.actor is not None:
        facts.append(tensor_hash({**{str(i): v for i, v in enumerate(shot.actor.vectors)}, **shot.actor.lora}))
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()
