"""Learn: pictures in, what the phrases say of them at once, then a run that refines it."""

import re
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from twinact.app import settings
from twinact.app.exemplars import Checked, keep, take
from twinact.app.folder import AT_ONCE
from twinact.app.run_state import RunState
from twinact.app.runs import check_settings
from twinact.app.studio import QUICK_STEPS, Sheet
from twinact.app.tabs.common import MODEL, Call, Page, command_box, figures, hints, told
from twinact.bench.examples import examples
from twinact.configs import TwinActConfig, check_name
from twinact.errors import DataError
from twinact.report.charts import curve
from twinact.runs.folder import PREVIEW_PROMPTS

_FIRST = Sheet(prompts=(*PREVIEW_PROMPTS, "a chef <act> on a stage", "a fox <act> on a beach"), steps=QUICK_STEPS)
_PREVIEW_PIXELS = 512
_PHASES = {
    "waiting": "waits for another run",
    "starting": "opens the model and looks for the start",
    "learning": "learns",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
}


def build(page: Page) -> None:
    """The widgets of the tab, and what they call."""
    draft, asked = gr.State(None), gr.State(None)
    shown = gr.State((None, -1, "", ""))
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            files = gr.File(
                label="Three to ten pictures of one action, or keypoint files",
                file_count="multiple",
                file_types=["image", ".json", ".jsonl", ".txt", ".caption"],
                height=170,
            )
            example = gr.Dropdown(list(examples()), value=None, label="Or an example")
            name = gr.Textbox("", label="Name of the action", placeholder="leap", max_length=28)
            learn = gr.Button("Learn", variant="primary")
        with gr.Column(scale=3, min_width=300):
            tiles = gr.HTML(hints("Every picture is checked and its limbs are read as soon as it is here."))
    with gr.Accordion("Captions and all settings", open=False):
        captions = gr.Dataframe(
            headers=["picture", "caption"],
            label="Captions: name the actor and the place, with <act> where the action goes",
            type="array",
            interactive=True,
            static_columns=[0],
            column_count=2,
            wrap=True,
        )
        table = gr.Dataframe(
            settings.rows(shown=("name",)),
            headers=["setting", "value", "what it is"],
            label="Settings, by their names on the command line",
            type="array",
            interactive=True,
            static_columns=[0, 2],
            column_count=3,
            show_search="search",
            max_height=320,
            column_widths=["22%", "14%", "64%"],
            wrap=True,
        )
    first = gr.HTML()
    with gr.Column(visible=bool(page.folder.runs())) as refined:
        with gr.Row(equal_height=False, elem_classes="beside"):
            run = gr.Dropdown(
                page.folder.runs(), value=None, label="Refined by a run", allow_custom_value=True, scale=3
            )
            stop = gr.Button("Stop", scale=1, min_width=90)
            go_on = gr.Button("Go on", scale=1, min_width=90)
        status = gr.HTML()
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                losses = gr.HTML()
            with gr.Column(scale=3, min_width=300):
                previews = gr.HTML()
        command = command_box()
        gr.HTML(hints("A run is a process of its own: it goes on when you close this page."))

    def as_set(folder: Path, values: list[list[str]]) -> Checked:
        """Exemplars as whoever is set reads whomever is set."""
        given = settings.given(values)
        return page.studio.check(folder, given.get("reader", "auto"), given.get("person", 1))

    @told
    def reread(checked: Checked | None, values: list[list[str]]) -> tuple[Any, Any]:
        return (gr.skip(), gr.skip()) if checked is None else _shown(as_set(checked.folder, values))[:2]

    @told
    def taken(uploads: list[str] | None, values: list[list[str]]) -> tuple[Any, ...]:
        if not uploads:
            return None, hints("No pictures are here."), []
        folder = _new_draft(page)
        take([Path(one) for one in uploads], folder)
        return _shown(as_set(folder, values))

    @told
    def shipped(label: str | None, values: list[list[str]]) -> tuple[Any, ...]:
        if not label:
            return (gr.skip(),) * 4
        known = examples()
        if label not in known:
            raise DataError(f"there is no example {label!r}")
        folder = _new_draft(page)
        known[label](folder, page.studio.backbone.image_size)
        wanted = re.sub(r"[^a-z0-9]+", "-", label.partition(": ")[2]).strip("-")
        return (*_shown(as_set(folder, values)), page.folder.free_name(wanted))

    @told
    def begin(checked: Checked | None, texts: list[list[str]], wanted: str, values: list[list[str]]) -> tuple[Any, ...]:
        """Keep the exemplars and ask for the run, without the model: what is asked for outlives the page."""
        if checked is None or checked.problems:
            raise DataError("there is nothing to learn from yet; give pictures that can be used, or choose an example")
        check_name(wanted)
        if page.folder.free_name(wanted) != wanted:
            free = page.folder.free_name(wanted)
            raise DataError(f"the name {wanted!r} is taken here, or too long; {free!r} is free")
        given = settings.given(values)
        check_settings(wanted, given)
        keep(checked.folder, page.folder.exemplars(wanted), {str(file): str(text) for file, text, *_ in texts})
        page.runs.submit(wanted, given)
        return (wanted, given), "", gr.Dropdown(choices=page.folder.runs(), value=wanted), gr.Column(visible=True)

    @told
    def look_first(asked: tuple[str, dict[str, Any]]) -> str:
        name, given = asked
        if given.get("method", TwinActConfig.name) != TwinActConfig.name or not page.studio.quick:
            return ""
        heard: list[str] = []
        action = page.studio.learn_at_once(name, given, heard.append)
        pictures = page.studio.draw(_FIRST, action)
        drawn = figures(list(zip(pictures, _FIRST.prompts, strict=True)), "At once: the nearest phrases", "12rem")
        return drawn + hints(*(f"{one}." for one in heard), f"Draw and Mix have it as {name}{AT_ONCE}.")

    @told
    def look(chosen: str | None, before: tuple[str | None, int, str, str]) -> tuple[Any, ...]:
        if not chosen or chosen not in page.folder.runs():
            return (gr.skip(),) * 5
        state = page.runs.state(chosen)
        chart = curve(state.losses, f"loss over {len(state.losses)} steps") if state.losses else ""
        chart = f"<figure class='loss'><figcaption>Loss</figcaption>{chart}</figure>" if chart else ""
        seen = (chosen, len(state.previews), _status(state), chart)
        if seen == before:
            return (gr.skip(),) * 5
        sheets: Any = gr.skip()
        if seen[:2] != before[:2]:
            sheets = figures(_previews(state), "Previews, always with the same seeds", "15rem")
        return *seen[2:], sheets, page.runs.command_of(chosen), seen

    @told
    def listed(chosen: str | None) -> Any:
        names = page.folder.runs()
        update = gr.Dropdown(choices=names)
        if chosen not in names:
            at_work = (name for name in names if page.runs.state(name).at_work)
            update = gr.Dropdown(choices=names, value=next(at_work, next(iter(names), None)))
        return update, gr.Column(visible=bool(names))

    files.change(taken, [files, table], [draft, tiles, captions], **MODEL)
    example.change(shipped, [example, table], [draft, tiles, captions, name], **MODEL)
    table.input(reread, [draft, table], [draft, tiles], **MODEL)
    # Names are taken by one at a time, and nobody waits for the model to take one.
    taking = learn.click(begin, [draft, captions, name, table], [asked, first, run, refined], concurrency_limit=1)
    taking.success(look_first, asked, first, **MODEL)
    watched = [status, losses, previews, command, shown]
    for happening in (gr.Timer(2.0).tick, run.change):
        happening(look, [run, shown], watched, show_progress="hidden", trigger_mode="always_last")
    stop.click(told(page.runs.stop), run, None).then(look, [run, shown], watched)
    go_on.click(told(page.runs.go_on), run, None).then(look, [run, shown], watched)
    page.on_load.append(Call(listed, [run], [run, refined]))


def _new_draft(page: Page) -> Path:
    return Path(tempfile.mkdtemp(dir=page.drafts)) / "exemplars"


def _shown(checked: Checked) -> tuple[Any, ...]:
    if checked.problems:
        items = "".join(f"<li>{escape(one)}</li>" for one in checked.problems)
        return checked, f"<p class='bad'>Some files cannot be used:</p><ul class='bad'>{items}</ul>", []
    read = figures(checked.tiles, "What is read in them", "7rem") + hints(*(f"{note}." for note in checked.notes))
    return checked, read, [list(pair) for pair in checked.captions]


def _previews(state: RunState) -> list[tuple[Image.Image, str]]:
    """The preview sheets, smaller; the lower half of the first one, which has words alone, comes first."""
    shown = []
    for step, path in state.previews:
        picture = _picture(path)
        if picture is None:
            continue
        picture.thumbnail((_PREVIEW_PIXELS, _PREVIEW_PIXELS))
        if step == 0:
            half = picture.height // 2
            shown.append((picture.crop((0, half, picture.width, picture.height)), "words alone"))
            picture = picture.crop((0, 0, picture.width, half))
        shown.append((picture, f"step {step}"))
    return shown


def _status(state: RunState) -> str:
    """Phase, progress and time left in HTML; what the process said last where it failed."""
    share = state.step / state.steps if state.steps else 0.0
    words = [_PHASES[state.phase]]
    if state.steps:
        words.append(f"step {state.step} of {state.steps}")
    if state.seconds_left is not None:
        words.append(f"{_duration(state.seconds_left)} left")
    elif state.seconds:
        words.append(f"{_duration(state.seconds)} of learning")
    bar = (
        f"<div class='bar' role='progressbar' aria-label='steps' aria-valuemin='0' aria-valuemax='100' "
        f"aria-valuenow='{100 * share:.0f}'><i style='width:{share:.1%}'></i></div>"
    )
    parts = [f"<p class='phase {state.phase}'><b>{escape(state.name)}</b> {escape(', '.join(words))}</p>", bar]
    if state.problem:
        parts.append(f"<p class='bad'>{escape(state.problem)}</p>")
    if state.said:
        lines = escape("\n".join(state.said))
        opened = " open" if state.phase == "failed" else ""
        parts.append(f"<details{opened}><summary>{escape(state.said[-1][:120])}</summary><pre>{lines}</pre></details>")
    return "".join(parts)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min" if whole < 6000 else f"{whole / 3600:.1f} h"


def _picture(path: Path) -> Image.Image | None:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):  # damaged, or not whole yet
        return None
