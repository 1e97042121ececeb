"""What the tabs share: the page's parts, errors in words, and dropdowns that follow the folder."""

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from twinact.app.folder import WorkFolder
from twinact.app.runs import Runs
from twinact.app.studio import Studio
from twinact.errors import TwinactError, first_line
from twinact.report.page import data_url
from twinact.sheets import png_bytes

MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of events that use the model: they wait in one queue."""


class Call(NamedTuple):
    """What is called when something is opened, with options for gradio."""

    function: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    options: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Page:
    """What the tabs work with.

    Attributes:
        folder, studio, runs: See their classes.
        drafts: Folder of what is uploaded until it is learned from.
        choosers: Dropdowns of actions, with whether an empty choice is offered; a tab adds its own.
        on_load: What is called when a browser opens the page.
        on_show: What is called when it opens a tab, by the tab's name.
    """

    folder: WorkFolder
    studio: Studio
    runs: Runs
    drafts: Path
    choosers: list[tuple[gr.Dropdown, bool]] = field(default_factory=list)
    on_load: list[Call] = field(default_factory=list)
    on_show: dict[str, Call] = field(default_factory=dict)

    def chooser(self, label: str, *, empty: bool = False, **options: Any) -> gr.Dropdown:
        """A dropdown of the folder's actions, which stays true."""
        names = list(self.folder.actions())
        value = None if empty or not names else names[0]
        # Custom values are allowed so that an action that is newer than the page is no error; names are looked up.
        box = gr.Dropdown(choices=names, value=value, label=label, allow_custom_value=True, **options)
        self.choosers.append((box, empty))
        return box

    def renew(self, after: Callable[..., Any]) -> None:
        """Let the choosers that there are follow the folder when something has happened.

        What is chosen is looked at in the browser when the answer is there: whoever has chosen meanwhile keeps that.

        Args:
            after: Takes what is called then, its inputs and its outputs, as `gradio.on` with triggers does.
        """
        boxes = [box for box, _ in self.choosers]
        names = gr.JSON(visible=False)
        sent = after(told(self._listed), None, [names, *boxes], show_progress="hidden")
        sent.then(None, [names, *boxes], boxes, js=kept_in([empty for _, empty in self.choosers]))

    def _listed(self) -> list[Any]:
        names = list(self.folder.actions())
        return [names, *(gr.Dropdown(choices=names) for _ in self.choosers)]


def kept_in(empty: Sequence[bool]) -> str:
    """JavaScript: (names, ...what is chosen) → what stays chosen while it is there, else the newest, or nothing.

    Args:
        empty: Of every box, whether it may have no choice.
    """
    allowed = json.dumps(list(empty))
    return f"""(names, ...chosen) => chosen.map((one, i) =>
        names.includes(one) ? one : {allowed}[i] ? null : names[0] ?? null)"""


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose errors reach the person: those that people cause in their words, others in one line."""

    @functools.wraps(handler)
    def whole(*values: Any) -> Any:
        with _in_words():
            return handler(*values)

    @functools.wraps(handler)
    def in_parts(*values: Any) -> Iterator[Any]:
        with _in_words():
            yield from handler(*values)

    return in_parts if isgeneratorfunction(handler) else whole


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except TwinactError as error:
        raise gr.Error(escape(str(error)), title="This cannot be done", print_exception=False) from error
    except Exception as error:  # a mistake of ours: whoever runs the page finds it in the log
        logging.getLogger(__name__).exception("the page failed")
        message = escape(f"{type(error).__name__}: {first_line(error)}")
        raise gr.Error(message, title="Something went wrong here", print_exception=False) from error


def figures(pictures: Sequence[tuple[Image.Image, str]], title: str, width: str = "10rem") -> str:
    """Pictures with what is told about each, in HTML; empty without pictures.

    Args:
        pictures: With their captions.
        title: What they show together.
        width: The least that a picture takes.
    """
    cells = [
        f"<figure><img src='{data_url(png_bytes(picture))}' alt='{escape(told)}'>"
        f"<figcaption>{escape(told)}</figcaption></figure>"
        for picture, told in pictures
    ]
    body = f"<div class='figures' style='--least:{width}'>{''.join(cells)}</div>"
    return f"<h3>{escape(title)}</h3>{body}" if cells else ""


def hints(*lines: str) -> str:
    """Lines of talk in HTML."""
    return "".join(f"<p class='hint'>{escape(line[:1].upper() + line[1:])}</p>" for line in lines if line)


def command_box(label: str = "Copy as command") -> gr.Textbox:
    """Where a command is shown, with a button that copies it."""
    return gr.Textbox(label=label, buttons=["copy"], interactive=False, lines=1, max_lines=6, elem_classes="command")
