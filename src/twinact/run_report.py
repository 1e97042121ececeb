"""The report of a run: what was learned from what, and how it went, as one page in the run folder."""

import io
import json
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from twinact import __version__
from twinact.action import Action
from twinact.charts import curve
from twinact.exemplars import load_exemplars
from twinact.files import atomic_write_bytes
from twinact.page import exemplar_figures, explained, image, page, pairs, plot, section
from twinact.previews import FOLDER, PROMPTS
from twinact.runs import RunFolder
from twinact.space import ActionSpace
from twinact.workflow import SPACE_FILE

REPORT_FILE = "report.html"
_EXEMPLAR_PIXELS, _SHEET_PIXELS = 256, 1024
_EXPLAINED = 8  # nearest phrases and largest coefficients


def report_run(run_dir: str | Path, exemplars: str | Path, action: Action) -> Path:
    """Write the report of a finished run, unless it is there.

    Args:
        run_dir: The run's folder.
        exemplars: The pictures it was learned from.
        action: What was learned.

    Returns:
        The page.

    Raises:
        DataError: The exemplars cannot be read any more, or the folder cannot be written.
        CheckpointError: The space in the folder is damaged.
    """
    path = Path(run_dir) / REPORT_FILE
    if not path.is_file():
        atomic_write_bytes(path, _html(Path(run_dir), Path(exemplars), action).encode())
    return path


def _html(run_dir: Path, exemplars: Path, action: Action) -> str:
    data = load_exemplars(exemplars, _EXEMPLAR_PIXELS)
    records = RunFolder(run_dir, action.name).records()
    shown = [
        (image(_png(picture), f"exemplar: {caption}"), caption)
        for picture, caption in zip(data.images, data.captions, strict=True)
    ]
    sections = [section("Exemplars", exemplar_figures(shown))]
    sheets = sorted((run_dir / FOLDER).glob("step_*.png"))
    if sheets:
        sections.append(section("Previews", _previews(sheets)))
    if records:
        sections.append(section("Loss", _loss(records)))
    if action.coefficients is not None:
        space = ActionSpace.load(run_dir / SPACE_FILE)
        words = explained(action.explain(space, _EXPLAINED), len(space.phrases))
        sections.append(section("The action in the space", words))
    sections.append(section("How this was made", _making(action)))
    seconds = sum(record["seconds"] for record in records)
    verdict = f"{action.meta['config']['steps']} steps on {action.model_id}, {seconds:.0f} s of learning."
    lead = f"{action.name}, learned from {len(data)} picture{'s' if len(data) != 1 else ''}"
    return page(action.name, "run", lead, verdict, "".join(sections))


def _previews(sheets: list[Path]) -> str:
    figures = []
    for sheet in sheets:
        step = int(sheet.stem.removeprefix("step_"))
        with Image.open(sheet) as picture:
            picture.thumbnail((_SHEET_PIXELS, _SHEET_PIXELS))
            figures.append(plot(_png(picture), f"preview after step {step}", f"after step {step}"))
    text = f"The same prompts and seeds each time: “{PROMPTS[0]}” and “{PROMPTS[1]}”."
    return f'<p>{escape(text)}</p>\n<div class="columns">{"".join(figures)}</div>\n'


def _loss(records: list[dict[str, Any]]) -> str:
    losses = [record["terms"]["loss"] for record in records]
    text = "What was minimised in each step. Noise and times differ from step to step, so single steps say little."
    return f"<p>{text}</p>\n{curve(losses, 'The loss over the steps, and its mean over each twentieth of them')}\n"


def _making(action: Action) -> str:
    settings = {"model": action.model_id, "precision": action.meta["precision"], **action.meta["config"]}
    told = {name: json.dumps(value) if not isinstance(value, str) else value for name, value in settings.items()}
    versions = {"twinact": __version__, **action.meta["versions"]}
    return (
        f'<div class="columns"><div><h3>Settings</h3>{pairs(told)}</div>'
        f"<div><h3>Versions</h3>{pairs(versions)}</div></div>\n"
    )


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
