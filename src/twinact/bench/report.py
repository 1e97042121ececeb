"""Writes what a benchmark says: ``results.json``, ``table.md``, and ``report.html`` with its pictures in it."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from twinact.bench.contestants import BASELINE, CONTESTANTS, OURS, REFERENCE
from twinact.bench.folder import PICTURES, Bench
from twinact.bench.kinds import TASKS
from twinact.bench.plan import EQUAL, OWN, Run, tables, tuning
from twinact.bench.presets import MAIN
from twinact.bench.scores import FAILED, Result
from twinact.bench.summary import markdown, most_leaked, number, percent, points, summary
from twinact.bench.world import TRUE
from twinact.data.exemplars import read_exemplars
from twinact.report.charts import Spot
from twinact.report.page import render
from twinact.sheets import png_bytes
from twinact.storage import atomic_write_bytes

RESULTS, TABLE, PAGE = "results.json", "table.md", "report.html"
_COLUMNS = 7  # of methods in a grid
_SHOWN = {MAIN: 2, "photographs": 1}
"""Task → how many of the best actions a page shows, and how many of the worst."""


@dataclass(frozen=True)
class Cell:
    """A picture in a grid.

    Attributes:
        png: The file; None where the run failed or is not there.
        told: What is right in it, in words.
        action, actor: Whether they are; None where nobody says.
        leaked: Whether something unsaid of the exemplars is seen.
    """

    png: bytes | None
    told: str = ""
    action: bool | None = None
    actor: bool | None = None
    leaked: bool = False


@dataclass(frozen=True)
class Grid:
    """Pictures of one action with the same noise: a row an actor, a column a method.

    Attributes:
        title: Which action this is, and why it is shown.
        exemplars: What it was learned from.
        columns: Headings.
        rows: Prompt and cells.
    """

    title: str
    exemplars: tuple[bytes, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def write_report(bench: Bench) -> Path:
    """Write the three files from the results that are there.

    Returns:
        The page.

    Raises:
        DataError: The folder cannot be written, or a result in it is damaged.
    """
    content = summary(bench)
    atomic_write_bytes(bench.folder / RESULTS, (json.dumps(content, indent=1) + "\n").encode())
    atomic_write_bytes(bench.folder / TABLE, markdown(content).encode())
    return atomic_write_bytes(bench.folder / PAGE, _page(bench, content).encode())


def _page(bench: Bench, content: dict[str, Any]) -> str:
    main, own = content["tables"][EQUAL][MAIN], content["tables"][OWN][MAIN]
    curves = [
        Spot(content["titles"][name], point["passes"], 100 * point["clean"])
        for name, one in content["tuning"].items()
        for point in sorted(one["curve"], key=lambda point: point["passes"])
        if point["passes"] > 0
    ]
    leaks = [
        Spot(content["titles"][row["contestant"]], 100 * (most_leaked(row) or 0.0), 100 * row["clean"]["mean"],
             (100 * row["clean"]["low"], 100 * row["clean"]["high"]))
        for row in main
        if row["clean"] is not None
    ]  # fmt: skip
    return render(
        "bench.html.j2",
        packages=("twinact.bench",),
        name="benchmark",
        brand="benchmark",
        lead="Does the action come through, and does nothing else?",
        verdict=verdict(content),
        content=content,
        boards=[(EQUAL, main), (OWN, own)],
        main=MAIN,
        equal=EQUAL,
        leaks=leaks,
        curves=curves,
        grids=[grid for task in _SHOWN if task in bench.preset.tasks for grid in grids(bench, task, _SHOWN[task])],
        percent=percent,
        points=points,
        number=number,
        said=said,
        settings={key: value for key, value in content.items() if isinstance(value, str | int | float)},
        sizes={key: said(value) for key, value in content["preset"].items()},
        judged=[name for name, one in CONTESTANTS.items() if one.judged],
    )


def said(value: Any) -> str:
    """A value of JSON in words: "slots 3, rank 16", "2, 4, 8"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {said(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value))
    return "none" if value is None else str(value)


def verdict(content: Mapping[str, Any]) -> str:
    """The outcome in words that follow from the numbers, whoever is ahead."""
    rows = [row for row in content["tables"][EQUAL][MAIN] if CONTESTANTS[row["contestant"]].learns and row["clean"]]
    titles = content["titles"]
    if not rows:
        return "Nothing has been run yet."
    best = rows[0]
    text = (
        f"At equal passes, {titles[best['contestant']]} has most pictures right with nothing of the exemplars carried "
        f"over: {percent(best['clean'])}, over {best['clean']['actions']} actions."
    )
    ours = next((row for row in rows if row["contestant"] == REFERENCE), None)
    rivals = [row for row in rows if CONTESTANTS[row["contestant"]].tunes and row["contestant"] not in OURS]
    if ours is not None and rivals and rivals[0]["difference"] is not None:
        rival, difference = rivals[0], rivals[0]["difference"]
        chance = "" if difference["low"] > 0 or difference["high"] < 0 else ", which may be chance"
        text += (
            f" TwinAct has {percent(ours['clean'])}; the best rival, {titles[rival['contestant']]}, "
            f"{percent(rival['clean'])}: a difference of {points(difference, brief=False)} points{chance}."
        )
    if content["missing"]:
        text += f" {content['missing']} runs are missing."
    return text


def grids(bench: Bench, task: str, count: int) -> list[Grid]:
    """The actions of a task that TwinAct gets right most and least, as many of each as `count` or half of all.

    Where it takes no part, they are those of the first method that learns.
    """
    results = bench.results()
    runs = tables(bench.preset, tuning(bench.preset, results).chosen, results)[EQUAL][task]
    runs = [run for run in runs if run.seed == 0]
    learning = [name for name in bench.preset.contestants if CONTESTANTS[name].learns]
    shown = REFERENCE if REFERENCE in learning else learning[0] if learning else ""
    ours = [run for run in runs if run.contestant == shown and run.key in results]
    ranked = sorted(ours, key=lambda run: (-results[run.key].mean("clean"), -results[run.key].mean("near")))
    count = max(1, min(count, len(ranked) // 2))
    best, worst = ranked[:count], ranked[max(count, len(ranked) - count) :]
    return [
        _grid(
            bench, f"{run.action}: the {which} of {CONTESTANTS[shown].title} in “{task}”",
            [one for one in runs if one.action == run.action], results,
        )
        for which, some in (("best", best), ("worst", worst)) for run in some
    ]  # fmt: skip


def _grid(bench: Bench, title: str, runs: Sequence[Run], results: Mapping[str, Result]) -> Grid:
    task = TASKS[runs[0].task].make(runs[0].action, bench.preset.pictures)
    found = {run.contestant: run for run in runs if run.key in results}
    rated = sorted(
        (name for name in found if CONTESTANTS[name].learns and name != REFERENCE),
        key=lambda name: (-results[found[name].key].mean("clean"), -results[found[name].key].mean("near")),
    )
    order = [name for name in (TRUE, REFERENCE, BASELINE) if name in found] + rated
    columns = [_column(bench, found[name], results) for name in order[: _COLUMNS + 1]]
    return Grid(
        title,
        _exemplars(task.write_exemplars),
        tuple("asked for" if name == TRUE else CONTESTANTS[name].title for name in order[: _COLUMNS + 1]),
        tuple(
            (request.prompt, tuple(column[number] for column in columns))
            for number, request in enumerate(task.requests)
        ),
    )


def _exemplars(write: Callable[[Path, int], None]) -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 128)
        return tuple(png_bytes(picture) for picture in read_exemplars(Path(folder)).images)


def _column(bench: Bench, run: Run, results: Mapping[str, Result]) -> list[Cell]:
    result, pictures = results[run.key], bench.preset.pictures
    if result["status"] == FAILED:
        return [Cell(None, f"failed: {result['error']}")] * pictures
    with Image.open(bench.path(run) / PICTURES) as sheet:
        side = sheet.height
        parts = [sheet.crop((side * i, 0, side * (i + 1), side)) for i in range(pictures)]
    return [_cell(part, row) for part, row in zip(parts, result["pictures"], strict=True)]


def _cell(picture: Image.Image, row: Mapping[str, float | None]) -> Cell:
    leaked = [name.removeprefix("leak_") for name, value in row.items() if name.startswith("leak_") and value]
    told = "right" if row["joint"] else f"{100 * (row['near'] or 0):.0f} % of the angles right"
    told += f"; {' and '.join(leaked)} of the exemplars seen" if leaked else ""
    actor = row.get("actor")
    return Cell(png_bytes(picture), told, bool(row["action"]), None if actor is None else bool(actor), bool(leaked))
