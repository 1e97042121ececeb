"""Small charts as inline SVG: they scale, follow the page's colours, and a screen reader can read them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from twinact.statistics import Share

_WIDTH = 720
_ROW = 20
_LEFT, _RIGHT = 214, 150  # room for the labels on either side of the plot


@dataclass(frozen=True)
class Spot:
    """A point of a plane with what is known of it.

    Attributes:
        name: What it is called; spots of one name are joined by a line where a chart joins any.
        x, y: Where it lies.
        spread: Lower and upper bound of y; None draws none.
    """

    name: str
    x: float
    y: float
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Group:
    """Shares of several methods under one heading.

    Attributes:
        title: What is measured.
        shares: (method, share), in the order of the methods everywhere on the page.
    """

    title: str
    shares: Sequence[tuple[str, Share]]


def forest(groups: Sequence[Group], label: str) -> Markup:
    """Dots with whiskers from 0 to 100 %, a line a share; line i of a group has the class ``method-i``.

    Args:
        groups: At least one.
        label: What the chart shows, for those who cannot see it.
    """
    plot = _WIDTH - _LEFT - _RIGHT
    height = sum(_ROW * (len(group.shares) + 1.6) for group in groups) + 30
    parts, y = [], 0.0
    for percent in (0, 25, 50, 75, 100):
        x = _LEFT + plot * percent / 100
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{height - 24:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8:.1f}" text-anchor="middle">{percent} %</text>')
    for group in groups:
        y += 1.2 * _ROW
        parts.append(f'<text class="group" x="0" y="{y:.1f}">{escape(group.title)}</text>')
        for index, (name, share) in enumerate(group.shares):
            y += _ROW
            low, high = (_LEFT + plot * bound for bound in share.interval)
            middle = f"{y - 4:.1f}"
            parts.append(
                f'<g class="method-{index}"><text class="label" x="{_LEFT - 14}" y="{y:.1f}" text-anchor="end">'
                f'{escape(name)}</text><line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" '
                f'y2="{middle}"/>'
            )
            if share.count:
                parts.append(f'<circle cx="{_LEFT + plot * share.value:.1f}" cy="{middle}" r="5"/>')
            parts.append(f'<text class="value" x="{_WIDTH - _RIGHT + 16}" y="{y:.1f}">{percent_text(share)}</text></g>')
        y += 0.4 * _ROW
    return _svg(_WIDTH, height, label, parts, "forest")


def plane(
    spots: Sequence[Spot], label: str, x_title: str, y_title: str, *, joined: bool = False, logarithmic: bool = False
) -> Markup:
    """Numbered spots in a plane; the number is that of the name, in order of first appearance, and tells it in a table.

    Spots of one place stand side by side, unless they are joined.

    Args:
        spots: At least one; x above 0 where it is `logarithmic`.
        label: What the chart shows, for those who cannot see it.
        x_title, y_title: What the axes show, in units.
        joined: Whether spots of one name are joined, in their order.
        logarithmic: Whether equal ways along x are equal factors.
    """
    height, left, below, right = 420, 60, 48, 24

    def across(value: float) -> float:
        return math.log(value) if logarithmic else value

    xs = [across(spot.x) for spot in spots]
    ys = [bound for spot in spots for bound in (spot.spread or (spot.y, spot.y))]
    low, high = min(xs), max(xs)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    edge = 0.06 * (high - low)
    bottom, top = min(0.0, *ys), max(*ys, 1e-9) * 1.06
    names = list(dict.fromkeys(spot.name for spot in spots))

    def place(x: float, y: float) -> tuple[float, float]:
        share = (across(x) - low + edge) / (high - low + 2 * edge)
        return left + (_WIDTH - left - right) * share, 10 + (height - below - 10) * (top - y) / (top - bottom)

    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    for value in _ticks(bottom, top):
        _, y = place(spots[0].x, value)
        parts.append(f'<line class="rule" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _powers(math.exp(low), math.exp(high)) if logarithmic else _ticks(low, high):
        x, _ = place(value, 0)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 30}" text-anchor="middle">{value:,.4g}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - right}" y="{height - 8}" text-anchor="end">{escape(x_title)}</text>')
    parts.append(f'<text class="tick" x="{left}" y="{height - 8}">{escape(y_title)} upwards</text>')
    for number, name in enumerate(names):
        own = [spot for spot in spots if spot.name == name]
        parts.append(f'<g class="method-{number % 4}"><title>{escape(name)}</title>')
        if joined:
            line = " ".join("{:.1f},{:.1f}".format(*place(spot.x, spot.y)) for spot in own)
            parts.append(f'<polyline points="{line}"/>')
        for spot in own:
            x, y = place(spot.x, spot.y)
            while not joined and any(math.dist((x, y), other) < 12 for other in taken):
                x += 20
            taken.append((x, y))
            if spot.spread is not None:
                ends = [place(spot.x, bound)[1] for bound in spot.spread]
                parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
                f'<text class="number" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{number + 1}</text>'
            )
        parts.append("</g>")
    return _svg(_WIDTH, height, label, parts, "plane")


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers in a range."""
    step = 10 ** math.floor(math.log10((high - low) or 1.0))
    step = next(step * part for part in (1, 0.5, 0.2) if (high - low) / (step * part) >= 4 or part == 0.2)
    first = math.ceil(low / step)
    return [round(step * number, 10) for number in range(first, math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times a power of ten in a range of positive ones."""
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [
        value
        for ten in tens
        for part in (1, 2, 5)
        if low * (1 - 1e-9) <= (value := part * 10.0**ten) <= high * (1 + 1e-9)
    ]


def coefficients(components: Sequence[tuple[int, int, float]], label: str) -> Markup:
    """Bars to both sides of zero, the largest first.

    Args:
        components: (slot, index, value in standard deviations of the phrases), at least one.
        label: What the chart shows, for those who cannot see it.
    """
    width, row, left = 460, 26, 74
    largest = max(max(abs(value) for _, _, value in components), 1e-9)
    middle = left + (width - left) / 2
    reach = (width - left) / 2 - 46  # leaves room for the numbers
    height = row * len(components) + 8
    parts = [f'<line class="axis" x1="{middle:.1f}" x2="{middle:.1f}" y1="0" y2="{height}"/>']
    for line, (slot, index, value) in enumerate(components):
        y, length = row * line + 5, reach * abs(value) / largest
        sign, anchor, gap = ("plus", "start", 6) if value >= 0 else ("minus", "end", -6)
        start = middle if value >= 0 else middle - length
        end = middle + length if value >= 0 else middle - length
        parts.append(
            f'<text class="label" x="0" y="{y + 14}">{slot}:{index}</text>'
            f'<rect class="{sign}" x="{start:.1f}" y="{y}" width="{length:.1f}" height="{row - 8}" rx="2"/>'
            f'<text class="value" x="{end + gap:.1f}" y="{y + 14}" text-anchor="{anchor}">{signed(value)}</text>'
        )
    return _svg(width, height, label, parts, "coefficients")


def curve(values: Sequence[float], label: str) -> Markup:
    """A number over the steps of a run: its course, and the course of means over a twentieth of the run each.

    Args:
        values: One a step, at least one, all finite.
        label: What the chart shows, for those who cannot see it.
    """
    height, left, below = 240, 64, 26
    fine, coarse = _thinned(values, 240), _thinned(values, 20)
    low, high = min(value for _, value in fine), max(value for _, value in fine)
    spread, steps = (high - low) or 1.0, max(len(values) - 1, 1)

    def line(points: Sequence[tuple[float, float]], name: str) -> str:
        places = (
            f"{left + (_WIDTH - left) * x / steps:.1f},{8 + (height - below - 16) * (high - y) / spread:.1f}"
            for x, y in points
        )
        return f'<polyline class="{name}" points="{" ".join(places)}"/>'

    parts = [line(fine, "course"), line(coarse, "mean")]
    for value, y in ((high, 16), (low, height - below - 6)):
        parts.append(f'<text class="tick" x="0" y="{y}">{value:.3g}</text>')
    parts.append(f'<text class="tick" x="{left}" y="{height - 6}">step 1</text>')
    parts.append(f'<text class="tick" x="{_WIDTH}" y="{height - 6}" text-anchor="end">{len(values)}</text>')
    return _svg(_WIDTH, height, label, parts, "curve")


def _thinned(values: Sequence[float], count: int) -> list[tuple[float, float]]:
    """At most so many points (mean index, mean value), each over equally many values in a row."""
    size = -(-len(values) // count)
    chunks = [range(start, min(start + size, len(values))) for start in range(0, len(values), size)]
    return [(sum(chunk) / len(chunk), sum(values[i] for i in chunk) / len(chunk)) for chunk in chunks]


def percent_text(share: Share) -> str:
    """``"63 % [43, 79]"``, or a dash where nothing was counted."""
    return str(share) if share.count else "–"


def signed(value: float) -> str:
    """``"+1.5"`` or ``"−3.0"``, with a minus sign and not a hyphen."""
    return f"{value:+.1f}".replace("-", "−")


def _svg(width: float, height: float, label: str, parts: Sequence[str], name: str) -> Markup:
    return Markup(
        f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
