"""Plots an action space as PNG files: variance and leaks by component, and a map of its phrases."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from twinact.action import Action
from twinact.errors import MissingDependency
from twinact.report.plane import phrase_plane
from twinact.space import ActionSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol's bright scheme
_MAX_LABELS = 60
_RANKS = (4, 8, 16, 32, 64, 128, 256)  # numbers of components that stand beside a curve


def scree_png(space: ActionSpace) -> bytes:
    """The share of variance that the first components of every slot hold.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure = _figure(7.0, 4.5)
    axes = figure.add_subplot()
    for slot, (rank, distinct) in enumerate(zip(space.slot_ranks, space.distinct, strict=True)):
        shares = [0.0, *space.explained_variance(slot)[: max(rank, 1)].tolist()]
        label = f"slot {slot}: {distinct} distinct groups, {rank} components"
        axes.plot(range(len(shares)), shares, color=_COLOURS[slot % len(_COLOURS)], label=label)
    axes.set(xlabel="components", ylabel="share of variance", ylim=(0, 1.02), xlim=(0, None))
    axes.set_title(f"Action space of {len(space.phrases)} phrases on {space.model_id.partition('@')[0]}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _png(figure)


def leaks_png(curves: Mapping[str, tuple[Float[Tensor, "s r"], Float[Tensor, "s r"]]]) -> bytes:
    """Leaks against rank: what the first components let in of other words, over what they keep of the phrases.

    Args:
        curves: Label to both shares in [0, 1], as `twinact.space.ordering.energy_let_in` gives them; their mean over
            the slots is drawn.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure = _figure(5.2, 3.6)
    axes = figure.add_subplot()
    highest = 0.0
    for (label, shares), colour in zip(curves.items(), _COLOURS, strict=False):
        kept, others = (share.mean(dim=0).tolist() for share in shares)
        axes.plot([0.0, *kept], [0.0, *others], color=colour, label=label)
        for rank in (rank for rank in _RANKS if rank <= len(kept)):
            place = (kept[rank - 1], others[rank - 1])
            axes.plot(*place, "k.", markersize=4)
            axes.annotate(str(rank), place, fontsize=7, xytext=(3, -8), textcoords="offset points")
        highest = max(highest, others[-1])
    axes.set(xlabel="phrases' variance kept", ylabel="other words' energy let in", xlim=(0, 1.02))
    axes.set(ylim=(0, min(1.02, 1.15 * highest + 0.02)))
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return _png(figure)


def map_png(
    space: ActionSpace, headings: Mapping[str, str] | None = None, actions: Mapping[str, Action] | None = None
) -> bytes:
    """The phrases in the plane in which they differ most; near phrases have similar token vectors.

    Args:
        space: The space.
        headings: Phrase to the group that gives its colour; phrases that are not named are drawn in grey.
        actions: Label to an action of this space, drawn as a star for each of its clauses.

    Raises:
        ConfigError, CheckpointError: An action has no coefficients, or is of another space.
        MissingDependency: matplotlib is not installed.
    """
    figure = _figure(10.0, 8.0)
    axes = figure.add_subplot()
    plane = phrase_plane(space)
    points = plane.points
    groups = [(headings or {}).get(phrase, "other") for phrase in space.phrases]
    for index, group in enumerate(sorted(set(groups) - {"other"}) + ["other"] * ("other" in groups)):
        chosen = [i for i, name in enumerate(groups) if name == group]
        colour = "#999999" if group == "other" else _COLOURS[index % (len(_COLOURS) - 1)]
        axes.scatter(points[chosen, 0], points[chosen, 1], s=10, alpha=0.6, color=colour, label=group)
    left, right = float(points[:, 0].min()), float(points[:, 0].max())
    for i in plane.spread(_MAX_LABELS):
        side = "right" if points[i, 0] > left + 0.85 * (right - left) else "left"  # labels stay inside the frame
        axes.annotate(_plain(space.phrases[i]), points[i].tolist(), fontsize=6.5, alpha=0.85, ha=side)
    for label, action in (actions or {}).items():
        for x, y in plane.places(action.point(space)).tolist():
            axes.scatter([x], [y], s=140, marker="*", color="black", zorder=3)
            axes.annotate(_plain(label), (x, y), fontsize=10, fontweight="bold", zorder=3)
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"{len(space.phrases)} phrases on {space.model_id.partition('@')[0]}")
    if headings:
        axes.legend(loc="best")
    return _png(figure)


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("plots need matplotlib, which is not installed: pip install matplotlib") from error
    # A figure of its own, without pyplot: no global state, no window, safe in the threads of the page.
    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
