"""What the demo draws: prompts, seeds and actions planned first, then drawn once and kept by what decides them."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.base import Backbone, TokenTable
from twinact.bench.metrics import Asked
from twinact.bench.tasks import Ask
from twinact.charts import signed
from twinact.errors import ConfigError
from twinact.files import atomic_write_bytes, tensor_hash
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.world.captions import with_article
from twinact.world.places import PLACES
from twinact.world.splits import CustomAction, exemplar_scenes

_BATCH = 8
_FIRST_SEED = 1000
_AMOUNTS = (-3.0, -1.5, 0.0, 1.5, 3.0)
_WAY = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Shot:
    """One picture to draw: a prompt with the placeholder for `action`, or words alone."""

    prompt: str
    seed: int
    action: Action | None = None


@dataclass(frozen=True)
class StripPlan:
    """A strip before it is drawn; see `twinact.report.Strip`."""

    title: str
    text: str
    labels: tuple[str, ...]
    rows: tuple[tuple[Shot, ...], ...]


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn: denoising steps and classifier-free guidance."""

    steps: int = 25
    guidance: float = RECIPE.guidance


def grid_asks(custom: CustomAction, actors: int, places: int) -> list[Ask]:
    """Prompts for every pair of an actor and a place, row by row; only actors that the exemplars do not show.

    Places that the exemplars do not show come first.
    """
    others = [actor for actor in RECIPE.actors if actor not in custom.actors]
    chosen = [others[i * len(others) // actors] for i in range(actors)]
    shown = {scene.place for scene in exemplar_scenes(custom, RECIPE.places)}
    where = sorted(RECIPE.places, key=lambda place: place in shown)[:places]
    return [
        Ask(
            f"{with_article(actor)} {PLACEHOLDER} {PLACES[place].text}",
            _FIRST_SEED + index,
            Asked(custom.pose, actor, place, custom.actors),
        )
        for index, (actor, place) in enumerate((actor, place) for actor in chosen for place in where)
    ]


def strongest_components(action: Action, space: ActionSpace, count: int) -> list[tuple[int, int]]:
    """The (slot, index) that move the token vectors most: coefficient times the size of its component.

    Not the largest coefficients: a small component may have one without any effect that could be seen.
    """
    sizes = (action.point(space) * space.sigma.cpu()).abs()  # (s, r)
    order = sizes.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [(i // space.rank, i % space.rank) for i in order]


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


def adjust_strips(
    action: Action, goal: Action, label: str, space: ActionSpace, asked: Sequence[Ask]
) -> list[StripPlan]:
    """Two strips along components, and one towards a phrase, each with an actor of its own.

    Args:
        action: What is moved.
        goal: Where to.
        label: How to call `goal`.
        space: Of both.
        asked: Prompts to choose from.
    """
    chosen = _apart(asked, 3)
    strips = []
    for ask, (slot, index) in zip(chosen, strongest_components(action, space, 2), strict=False):
        low, high = _ends(space, slot, index)
        value = signed(float(action.point(space)[slot, index]))
        moved = [action.adjusted(space, (slot, index), amount) for amount in _AMOUNTS]
        strips.append(
            StripPlan(
                f"Along component {slot}:{index}",
                f"In standard deviations of the phrases; the action is at {value}. Furthest out are “{low}” (−) and "
                f"“{high}” (+). {_who(ask)}",
                tuple(signed(amount) if amount else "as learned" for amount in _AMOUNTS),
                (tuple(Shot(ask.prompt, ask.seed, m) for m in moved),),
            )
        )
    ask = chosen[-1]
    moved = [action.toward(space, goal, share) for share in _WAY]
    strips.append(
        StripPlan(
            f"Towards “{label}”",
            f"On the straight line from the action to the phrase. {_who(ask)}",
            tuple(f"{100 * share:.0f} %" for share in _WAY),
            (tuple(Shot(ask.prompt, ask.seed, m) for m in moved),),
        )
    )
    return strips


def combine_strip(action: Action, other: Action, label: str, space: ActionSpace, asked: Sequence[Ask]) -> StripPlan:
    """Both sources, their balanced combination and two weighted ones, for two actors.

    Args:
        action, other: What is combined.
        label: How to call `other`.
        space: Of both.
        asked: Prompts to choose from.
    """
    kinds = {
        "as learned": action,
        "both, balanced": action.combined(space, [other]),
        "weights 1, 1": action.combined(space, [other], [1.0, 1.0]),
        "weights 0.5, 1": action.combined(space, [other], [0.5, 1.0]),
        f"“{label}”": other,
    }
    rows = tuple(tuple(Shot(ask.prompt, ask.seed, a) for a in kinds.values()) for ask in _apart(asked, 2))
    return StripPlan(
        f"With “{label}”",
        "The outer columns are what is combined. Balanced keeps the usual strength of an action; weights of 1 add both "
        "in full.",
        tuple(kinds),
        rows,
    )


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
    for words_alone in (True, False):  # a prompt without placeholder may not be drawn together with vectors
        missing = [(path, shot) for path, shot in todo.items() if (shot.action is None) == words_alone]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            for (path, _), image in zip(batch, _draw(backbone, [shot for _, shot in batch], sampler), strict=True):
                atomic_write_bytes(path, png_bytes(image))
            done += len(batch)
            advance(done, total)
    return [path.read_bytes() for path in paths]


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw(backbone: Backbone, shots: Sequence[Shot], sampler: Sampler) -> list[Image.Image]:
    """One batch; every shot has a placeholder of its own, so that different actions are drawn together."""
    carrying = next((shot.action for shot in shots if shot.action is not None and shot.action.lora), None)
    if carrying is not None:
        raise ConfigError(f"action {carrying.name!r} carries a LoRA, which would act on every picture of a batch")
    actions = {f"<act{i}>": shot.action for i, shot in enumerate(shots) if shot.action is not None}
    return generate(
        backbone,
        [shot.prompt.replace(PLACEHOLDER, f"<act{i}>") for i, shot in enumerate(shots)],
        {placeholder: action.vectors for placeholder, action in actions.items()},
        seeds=[shot.seed for shot in shots],
        steps=sampler.steps,
        guidance=sampler.guidance,
        batch_size=len(shots),
    )


def _key(backbone: Backbone, shot: Shot, sampler: Sampler) -> str:
    vectors = "" if shot.action is None else tensor_hash({str(i): v for i, v in enumerate(shot.action.vectors)})
    facts = [backbone.model_id, shot.prompt, shot.seed, vectors, sampler.steps, sampler.guidance]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()


def _apart(asked: Sequence[Ask], count: int) -> list[Ask]:
    """`count` prompts with different actors, in different places as far as there are."""
    rows: dict[str, list[Ask]] = {}
    for ask in asked:
        rows.setdefault(ask.asked.actor, []).append(ask)
    chosen = [list(rows.values())[i * len(rows) // count] for i in range(count)]
    return [row[i % len(row)] for i, row in enumerate(chosen)]


def _ends(space: ActionSpace, slot: int, index: int) -> tuple[str, str]:
    """The phrases with the smallest and the largest coefficient of a component."""
    having = space.phrase_mask[:, slot].nonzero().flatten()
    values = space.phrase_coefficients[having, slot, index]
    return space.phrases[int(having[values.argmin()])], space.phrases[int(having[values.argmax()])]


def _who(ask: Ask) -> str:
    return f"Prompt: {ask.prompt}"
