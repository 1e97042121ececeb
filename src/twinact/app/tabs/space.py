"""Space: the phrases on a map, with what is looked for, a learned action or a photograph among them."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from twinact.app.tabs.common import MODEL, Call, Page, hints, told
from twinact.data.pictures import UnusableError, read_picture
from twinact.errors import DataError
from twinact.phrases import load_phrases
from twinact.report.page import data_url
from twinact.report.phrase_map import map_svg, stick_svg
from twinact.report.plane import phrase_plane
from twinact.report.plots import leaks_png, scree_png
from twinact.space.limbs import SEGMENTS

_MOST_CARDS = 12
_TOLD_RANK = 16  # components of which a sentence says what they hold
# Wheel and drag, on the map alone: a map of hundreds of phrases is read in parts.
_ZOOM = """
let drag = null;
const box = () => { const s = element.querySelector('svg.phrase-map'); return [s, s && s.viewBox.baseVal]; };
element.addEventListener('wheel', e => {
  const [s, v] = box(); if (!s || !e.target.closest('svg.phrase-map')) return;
  e.preventDefault();
  const r = s.getBoundingClientRect(), k = e.deltaY < 0 ? 0.85 : 1 / 0.85;
  const w = Math.min(960, Math.max(60, v.width * k)), h = w * 640 / 960;
  const fx = (e.clientX - r.left) / r.width, fy = (e.clientY - r.top) / r.height;
  v.x += fx * (v.width - w); v.y += fy * (v.height - h); v.width = w; v.height = h;
}, { passive: false });
element.addEventListener('pointerdown', e => {
  if (e.target.closest('svg.phrase-map')) drag = [e.clientX, e.clientY];
});
window.addEventListener('pointerup', () => { drag = null; });
element.addEventListener('pointermove', e => {
  const [s, v] = box(); if (!drag || !s) return;
  const k = v.width / s.getBoundingClientRect().width;
  v.x -= (e.clientX - drag[0]) * k; v.y -= (e.clientY - drag[1]) * k; drag = [e.clientX, e.clientY];
});
"""


def build(page: Page) -> None:
    """The widgets of the tab, and what they call."""
    with gr.Row(equal_height=False, elem_classes="beside"):
        search = gr.Textbox("", label="Search phrases", placeholder="kick", scale=2, min_width=160)
        label = page.chooser("Show an action", empty=True, scale=2, min_width=160)
        photograph = gr.UploadButton("Look up a picture", file_types=["image"], scale=1, min_width=150)
    chart = gr.HTML(js_on_load=_ZOOM, elem_classes="map")
    near = gr.HTML()
    with gr.Accordion("Variance and leaks by component", open=False) as by_component:
        components = gr.HTML()

    @told
    def shown(text: str, chosen: str | None) -> tuple[Any, Any]:
        space = page.studio.space
        wanted = text.strip().lower()
        found = [phrase for phrase in space.phrases if wanted in phrase.lower()] if wanted else []
        if not chosen:
            title = f"{len(found)} of {len(space.phrases)} phrases" if wanted else ""
            return _map(page, found, None), _cards(page, title, [(phrase, "") for phrase in found])
        action = page.studio.load(chosen)
        told_of = action.explain(space, 8)
        close = [(phrase, f"{share:.0%}") for phrase, _, share in told_of.phrases]
        title = f"Phrases nearest to {action.name}"
        if told_of.beyond is not None:
            title += f", which lies {told_of.beyond:.1f} times as far out as the furthest of them"
        return _map(page, found or [phrase for phrase, _ in close], chosen), _cards(page, title, close)

    @told
    def looked_up(file: str) -> tuple[Any, Any]:
        try:
            picture, _ = read_picture(Path(file))
        except UnusableError as problem:
            raise DataError(f"the picture {problem}") from problem
        like = [(phrase, f"{distance:.2f} away") for phrase, distance in page.studio.phrases_like(picture, Path(file))]
        return _map(page, [phrase for phrase, _ in like], None), _cards(page, "Phrases that look most like it", like)

    @told
    def held() -> str:
        scree = _plot("share of variance by component", scree_png(page.studio.space))
        return f"<div class='plots'>{scree}{_leaks(page)}</div>"

    for happening in (search.change, label.change):
        happening(shown, [search, label], [chart, near], show_progress="hidden", trigger_mode="always_last")
    photograph.upload(looked_up, photograph, [chart, near], **MODEL)
    page.on_load.append(Call(shown, [search, label], [chart, near]))
    by_component.expand(held, None, components)


def _plot(what: str, png: bytes) -> str:
    return f"<img alt='{escape(what)}' src='{data_url(png)}'>"


def _leaks(page: Page) -> str:
    """Leaks against rank and how to read them, or why that is not known of this model."""
    try:
        curves = page.studio.let_in()
    except DataError:
        return hints("What the space lets in of other words is not known: this model spells all of them in pieces.")
    rank = min(_TOLD_RANK, page.studio.space.rank)
    kept, others = (float(share[:, rank - 1].mean()) for share in curves)
    told_of = (
        "How to read the curve: its points are the first 1, 2, 3 and more components. Further right, they keep more of "
        "what tells phrases apart. Higher up, they let in more of words that are no actions, such as actors, places "
        f"and things, which learning by denoising may then pick up. The first {rank} keep {kept:.0%} of the phrases' "
        f"variance and let in {others:.0%} of the other words' energy; with the setting rank {rank}, an action is "
        "learned in these alone."
    )
    return f"<div>{_plot('leaks against rank', leaks_png({page.studio.model: curves}))}{hints(told_of)}</div>"


def _map(page: Page, found: list[str], chosen: str | None) -> str:
    space = page.studio.space
    plane = phrase_plane(space)
    headings = {phrase.text: phrase.heading for phrase in load_phrases()}
    marks = []
    if chosen:
        places = plane.places(page.studio.load(chosen).point(space)).tolist()
        name = chosen.rpartition("/")[2]
        marks = [(f"{name} {i}" if len(places) > 1 else name, (x, y)) for i, (x, y) in enumerate(places, 1)]
    groups, present = sorted(set(headings.values())), {headings.get(phrase) for phrase in space.phrases}
    key = "".join(
        f"<span><i class='heading-{i}'></i>{escape(group)}</span>" for i, group in enumerate(groups) if group in present
    )
    drawing = map_svg(plane, space.phrases, headings, found=found, marks=marks)
    return f"<p class='key'>{key}<span class='how'>wheel zooms, drag moves</span></p>{drawing}"


def _cards(page: Page, title: str, phrases: list[tuple[str, str]]) -> str:
    """Phrases as the model draws them, in stick figures."""
    space = page.studio.space
    cards = []
    for phrase, note in phrases[:_MOST_CARDS]:
        figure = Markup()
        if space.poses is not None and phrase in space.phrases:
            limbs = space.poses.directions[space.phrases.index(phrase)][:SEGMENTS]
            figure = stick_svg(limbs, f"what is drawn for {phrase}") if len(limbs) == SEGMENTS else figure
        cards.append(
            f"<figure>{figure}<figcaption>{escape(phrase)} <small>{escape(note)}</small></figcaption></figure>"
        )
    return f"<h3>{escape(title)}</h3><div class='cards'>{''.join(cards)}</div>" if title else ""
