"""Draws the report of a run, one page in the run folder: the exemplars, previews, loss, action and settings."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from twinact import __version__
from twinact.action import Action
from twinact.data.exemplars import Photographs
from twinact.report.page import data_url, render
from twinact.runs.folder import PREVIEW_FOLDER, PREVIEW_PROMPTS, RunFolder
from twinact.sheets import png_bytes
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.storage import atomic_write_bytes

REPORT_FILE = "report.html"
_EXEMPLAR_PIXELS, _SHEET_PIXELS = 256, 1024
_EXPLAINED = 8  # nearest phrases and largest coefficients


def report_run(run_dir: str | Path, photographs: Photographs, action: Action) -> Path:
    """Write the report of a finished run, unless it is there.

    Args:
        run_dir: The run's folder.
        photographs: The pictures that it was learned from.
        action: What was learned.

    Returns:
        The page.

    Raises:
        DataError: The folder cannot be written.
        CheckpointError: The space in the folder is damaged.
    """
    path = Path(run_dir) / REPORT_FILE
    if not path.is_file():
        atomic_write_bytes(path, _html(Path(run_dir), photographs, action).encode())
    return path


def _html(run_dir: Path, photographs: Photographs, action: Action) -> str:
    data = photographs.fitted(_EXEMPLAR_PIXELS)
    folder = RunFolder(run_dir, action.name)
    records = folder.log.records()
    values: dict[str, Any] = {"explanation": None, "phrase_count": 0}
    if action.coefficients is not None:
        space = ActionSpace.load(run_dir / SPACE_FILE)
        values = {"explanation": action.explain(space, _EXPLAINED), "phrase_count": len(space.phrases)}
    settings = {"model": action.model_id, "precision": action.meta["precision"], **action.meta["config"]}
    seconds = sum(record["seconds"] for record in records)
    return render(
        "run.html.j2",
        name=action.name,
        brand="run",
        lead=f"{action.name}, learned from {len(data)} picture{'s' if len(data) != 1 else ''}",
        verdict=f"{action.meta['config']['steps']} steps on {action.model_id}, {seconds:.0f} s of learning.",
        exemplars=[
            (figure(png_bytes(picture), f"exemplar: {caption}"), caption)
            for picture, caption in zip(data.images, data.captions, strict=True)
        ],
        previews=list(_previews(run_dir / PREVIEW_FOLDER)),
        prompts=PREVIEW_PROMPTS,
        losses=[record["terms"]["loss"] for record in records],
        settings={k: value if isinstance(value, str) else json.dumps(value) for k, value in settings.items()},
        cost=asdict(folder.cost()),
        versions={"twinact": __version__, **action.meta["versions"]},
        **values,
    )


def figure(png: bytes, alt: str) -> Markup:
    """A square picture in HTML."""
    return Markup('<img src="{}" alt="{}">').format(data_url(png), alt)


def _previews(folder: Path) -> Iterator[tuple[int, bytes]]:
    """The steps of the sheets in a folder, and the sheets small enough for a page."""
    for path in sorted(folder.glob("step_*.png")):
        try:
            with Image.open(path) as picture:
                picture.thumbnail((_SHEET_PIXELS, _SHEET_PIXELS))
                yield int(path.stem.removeprefix("step_")), png_bytes(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # damaged, or put there by somebody
            continue
