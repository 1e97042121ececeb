"""Puts the tabs on one page."""

from collections.abc import Callable
from functools import partial
from html import escape
from importlib import resources

import gradio as gr

from twinact.app.tabs import compare, draw, learn, mix, space
from twinact.app.tabs.common import Page

TABS: dict[str, Callable[[Page], None]] = {
    "Learn": learn.build,
    "Draw": draw.build,
    "Mix": mix.build,
    "Space": space.build,
    "Compare": compare.build,
}
_FOOT = (
    "Teach it actions of people only with their consent, and do not defame or sexualise anybody with it. An action "
    "file holds limb directions, captions and hashes of the pictures that it was learned from, never the pictures."
)
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")


def build(page: Page) -> gr.Blocks:
    """The page, to be served by `twinact.app.server`."""
    with gr.Blocks(title="twinact", analytics_enabled=False, delete_cache=(3600, 86_400)) as blocks:
        gr.HTML(f"<header><b>twinact</b> <span>{escape(page.studio.model)}</span></header>")
        tabs: dict[str, gr.Tab] = {}
        with gr.Tabs():
            for name, widgets in TABS.items():
                with gr.Tab(name) as tabs[name]:
                    widgets(page)
        gr.HTML(f"<footer>{_FOOT}</footer>")
        page.renew(partial(gr.on, [blocks.load, *(tab.select for tab in tabs.values())]))  # all choosers are known now
        openings = [(blocks.load, call) for call in page.on_load]
        openings += [(tabs[name].select, call) for name, call in page.on_show.items()]
        for opened, call in openings:
            opened(call.function, call.inputs, call.outputs, show_progress="hidden", **call.options)
    return blocks.queue(api_open=False, max_size=100, default_concurrency_limit=4)


def theme() -> gr.themes.Base:
    """Plain, with the fonts of the system, so that none is fetched."""
    plain = gr.themes.Default(
        primary_hue="indigo", neutral_hue="zinc", font=list(_FONTS), font_mono=["ui-monospace", "Menlo", "monospace"]
    )
    # Dark enough to be read by everybody: 4.5 to 1.
    return plain.set(body_text_color_subdued="#5c5c66", body_text_color_subdued_dark="#a9a9b4")


def style() -> str:
    """What the page adds to gradio's style."""
    return (resources.files("twinact.app") / "page.css").read_text(encoding="utf-8")
