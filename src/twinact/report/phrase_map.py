"""Draws the map of a space as inline SVG, and phrases as stick figures: both follow the page's colours."""

from collections.abc import Mapping, Sequence
from html import escape

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from twinact.report.plane import PhrasePlane

_WIDTH, _HEIGHT, _MARGIN = 960.0, 640.0, 34.0
_LABELS = 36
_WIDE, _HIGH = 150.0, 13.0  # a label takes about so much room; what is under another one is told when it is pointed at
# Lengths of the segments, in the order of `twinact.readers.body.SEGMENTS`, for a body of about 4.4 in height.
_LENGTHS = (1.3, 0.55, 0.45, 0.75, 0.72, 0.68, 0.72, 0.68, 0.95, 0.95, 0.28, 0.95, 0.95, 0.28)
_LEFT, _RIGHT = "#ff9f1c", "#2e86ff"  # as limbs are drawn over photographs


def map_svg(
    plane: PhrasePlane,
    phrases: Sequence[str],
    headings: Mapping[str, str],
    *,
    found: Sequence[str] = (),
    marks: Sequence[tuple[str, tuple[float, float]]] = (),
) -> Markup:
    """The phrases as dots, with what is looked for and learned actions among them.

    Args:
        plane: Where the phrases lie.
        phrases: Their texts, in the plane's order.
        headings: Phrase → the part of the body that gives its colour: class ``heading-i`` in alphabetical order.
        found: Phrases that are drawn large, with their text.
        marks: Labels with places in the plane, drawn as stars.
    """
    every = torch.cat([plane.points, torch.tensor([place for _, place in marks]).double().reshape(-1, 2)])
    low, high = every.amin(dim=0), every.amax(dim=0)
    scale = torch.tensor([_WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN]).double() / (high - low).clamp(min=1e-9)

    def placed(point: Tensor) -> tuple[float, float]:
        x, y = ((point - low) * scale + _MARGIN).tolist()
        return x, _HEIGHT - y

    groups = sorted(set(headings.values()))
    wanted, named = set(found), set(plane.spread(_LABELS)) if not found else set()
    stars, dots, texts = [], [], []
    taken: list[tuple[float, float]] = []
    for label, place in marks:
        x, y = placed(torch.tensor(place).double())
        stars.append(f'<path class="star" transform="translate({x:.1f} {y:.1f})" d="{_star(13)}"/>')
        texts.append(_text(label, x, y - 18, "mark"))
        taken.append((x, y - 18))
    for i, (phrase, point) in enumerate(zip(phrases, plane.points, strict=True)):
        x, y = placed(point)
        name = f"heading-{groups.index(headings[phrase])}" if phrase in headings else "heading-none"
        big = phrase in wanted
        faded = " faded" if found and not big else ""
        dots.append(
            f'<circle class="{name}{faded}" cx="{x:.1f}" cy="{y:.1f}" r="{7 if big else 4}"><title>{escape(phrase)}'
            "</title></circle>"
        )
        clear = all(abs(x - other) > _WIDE or abs(y - height) > _HIGH for other, height in taken)
        if (big and clear) or i in named:
            texts.append(_text(phrase, x, y, "found" if big else "label"))
            taken.append((x, y))
    label = f"map of {len(phrases)} phrases" + (f", {', '.join(found[:10])} marked" if found else "")
    return Markup(
        f'<svg class="phrase-map" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(label)}">'
        + "".join((*dots, *stars, *texts))
        + "</svg>"
    )


def stick_svg(directions: Float[Tensor, "g 2"], label: str) -> Markup:
    """A pose as a stick figure: left limbs orange, right ones blue.

    Args:
        directions: Of the body's segments, x to the right and y down, of any length.
        label: What it shows, for those who cannot see it.
    """
    length = torch.tensor(_LENGTHS)[:, None]
    way = torch.nn.functional.normalize(directions.float(), dim=1) * length
    pelvis = torch.zeros(2)
    neck = pelvis + way[0]
    head = neck + way[1]
    hips, shoulders = (pelvis - way[2] / 2, pelvis + way[2] / 2), (neck - way[3] / 2, neck + way[3] / 2)
    lines = [((pelvis, neck), ""), (hips, ""), (shoulders, "")]
    for start, numbers, colour in (
        (shoulders[1], (4, 5), _LEFT),
        (shoulders[0], (6, 7), _RIGHT),
        (hips[1], (8, 9, 10), _LEFT),
        (hips[0], (11, 12, 13), _RIGHT),
    ):
        points = [start]
        for number in numbers:
            points.append(points[-1] + way[number])
        lines.append((tuple(points), colour))
    parts = []
    for line, colour in lines:
        points_text = " ".join(f"{x:.2f},{y:.2f}" for x, y in (point.tolist() for point in line))
        stroke = f' style="stroke:{colour}"' if colour else ""
        parts.append(f'<polyline points="{points_text}"{stroke}/>')
    x, y = head.tolist()
    parts.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="0.34"/>')
    return Markup(
        f'<svg class="stick" viewBox="-2.4 -2.9 4.8 5.4" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(text: str, x: float, y: float, name: str) -> str:
    anchor, shift = ("end", -9) if x > 0.8 * _WIDTH else ("start", 9)
    return f'<text class="{name}" x="{x + shift:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _star(radius: float) -> str:
    """The path of a star with five points around the origin."""
    corners = []
    for i in range(10):
        reach, angle = radius * (1.0 if i % 2 == 0 else 0.42), torch.tensor(i * torch.pi / 5)
        corners.append(f"{reach * float(angle.sin()):.1f} {-reach * float(angle.cos()):.1f}")
    return "M" + "L".join(corners) + "Z"
