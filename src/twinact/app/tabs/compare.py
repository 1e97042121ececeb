"""Compare: the reports that demos, benchmarks and runs have left in the folder."""

from html import escape
from typing import Any

import gradio as gr

from twinact.app.tabs.common import Call, Page, told

_NONE = (
    "<p class='hint'>There is no report in this folder yet. <code>twinact demo</code> writes one in a few minutes, and "
    "every run that is done has its own.</p>"
)


def build(page: Page) -> None:
    """The widgets of the tab, and what they call."""
    report = gr.Dropdown([], value=None, label="Report", allow_custom_value=True)
    frame = gr.HTML(_NONE)

    @told
    def listed(chosen: str | None) -> tuple[Any, str]:
        names = list(page.folder.reports())
        # What compares methods comes before what tells of one run.
        names.sort(key=lambda name: name.startswith("runs/"))
        chosen = chosen if chosen in names else next(iter(names), None)
        return gr.Dropdown(choices=names, value=chosen), shown(chosen)

    def shown(chosen: str | None) -> str:
        reports = list(page.folder.reports())
        if chosen not in reports:
            return _NONE
        source = f"/report/{reports.index(chosen)}"
        return f"<iframe class='report' sandbox src='{source}' title='report {escape(chosen)}'></iframe>"

    report.change(shown, report, frame, show_progress="hidden")
    page.on_show["Compare"] = Call(listed, [report], [report, frame])
