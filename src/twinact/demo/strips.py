"""Plans the strips of the demo: one prompt and one noise, and an action that is moved or mixed."""

from collections.abc import Sequence
from dataclasses import dataclass

from twinact.action import Action
from twinact.bench.tasks import Ask
from twinact.demo.shots import Shot
from twinact.intent import Meant
from twinact.report.charts import signed
from twinact.space import ActionSpace
from twinact.space.sliders import SLIDERS

_AMOUNTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_WAY = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class StripPlan:
    """A strip before it is drawn; see `twinact.demo.report_data.Strip`."""

    title: str
    text: str
    labels: tuple[str, ...]
    rows: tuple[tuple[Shot, ...], ...]


def slider_strips(
    action: Action, sliders: Sequence[str], space: ActionSpace, asked: Sequence[Ask], meant: Meant | None
) -> list[StripPlan]:
    """A strip for each slider, with an actor of its own.

    Args:
        action: What is moved.
        sliders: Names of `SLIDERS`.
        space: Its own, with a pose table.
        asked: Prompts to choose from.
        meant: Tells what the model means by words; None: nobody does.
    """
    strips = []
    for name, ask in zip(sliders, apart(asked, len(sliders)), strict=True):
        moved = [action.slid(space, name, amount, ask=meant) for amount in _AMOUNTS]
        low, _, high = SLIDERS[name].help.partition(" / ")
        strips.append(
            StripPlan(
                f"Slider “{name}”",
                f"From “{low}” to “{high}”; all else stays as learned.",
                tuple(signed(amount) if amount else "as learned" for amount in _AMOUNTS),
                (tuple(Shot(ask.prompt, ask.seed, one) for one in moved),),
            )
        )
    return strips


def mixing_strips(
    action: Action,
    other: Action,
    label: str,
    space: ActionSpace,
    asked: Sequence[Ask],
    meant: Meant | None,
) -> list[StripPlan]:
    """Two strips: parts of the body from either of two actions, and the straight way from one to the other.

    Args:
        action, other: What is mixed; neither carries a LoRA.
        label: How to call `other`.
        space: Of both, with a pose table.
        asked: Prompts to choose from.
        meant: Tells what the model means by words; None: nobody does.
    """
    first, second = apart(asked, 2)
    parts = {
        "as learned": action,
        "its legs": action.with_parts(space, [(other, ["legs"])], ask=meant),
        "its arms": action.with_parts(space, [(other, ["arms"])], ask=meant),
        f"“{label}”": other,
    }
    way = [action.toward(space, other, share) for share in _WAY]
    return [
        StripPlan(
            f"Parts of “{label}”",
            "The outer columns are what is mixed; between them, the action takes parts of the body from the phrase.",
            tuple(parts),
            (tuple(Shot(first.prompt, first.seed, one) for one in parts.values()),),
        ),
        StripPlan(
            f"Towards “{label}”",
            "On the straight line from the action to the phrase.",
            tuple(f"{100 * share:.0f} %" for share in _WAY),
            (tuple(Shot(second.prompt, second.seed, one) for one in way),),
        ),
    ]


def apart(asked: Sequence[Ask], count: int) -> list[Ask]:
    """`count` prompts with different actors as far as there are, in places that they name, so that these stay."""
    rows: dict[str, list[Ask]] = {}
    for ask in asked:
        if ask.asked.place is None:
            continue
        rows.setdefault(ask.asked.actor, []).append(ask)
    chosen = [list(rows.values())[i * len(rows) // count] for i in range(count)]
    return [row[i % len(row)] for i, row in enumerate(chosen)]
