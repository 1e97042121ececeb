"""Sums up the results of a benchmark as plain data: what reports show and results files hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twinact.bench.contestants import BASELINE, CONTESTANTS, REFERENCE
from twinact.bench.folder import Bench
from twinact.bench.kinds import TASKS
from twinact.bench.plan import EQUAL, Results, Run, tables, tuning
from twinact.bench.presets import MAIN
from twinact.bench.scores import FAILED, Result, interval, mean

SHARES = ("clean", "joint", "action", "actor", "place", "near", "diversity", "degrees")
LEAKS = ("leak_actor", "leak_place", "leak_thing", "leak_light")
VERSION = 1


def summary(bench: Bench) -> dict[str, Any]:
    """Everything that a benchmark's folder says so far, as JSON.

    Returns:
        ``tables``: at equal passes and at each method's own best number, for each task the rows of `_rows`, best first;
        ``metrics``: what the metrics make of true, autoencoded and wrong pictures; ``tuning``: trials, choice and curve
        of each method; ``missing``: how many runs of the report are not there yet.
    """
    preset, results = bench.preset, bench.results()
    tuned = tuning(preset, results)
    whole = tables(preset, tuned.chosen, results)
    wanted = list(dict.fromkeys(run.key for tasks in whole.values() for runs in tasks.values() for run in runs))
    there = [results[key] for key in wanted if key in results]
    return {
        "version": VERSION,
        **bench.settings,
        "code": sorted({one["code"] for one in there}),
        "versions": there[0]["versions"] if there else {},
        "devices": sorted({one["device"] for one in there}),
        "missing": sum(key not in results for key in wanted),
        "failed": [
            {"run": key, "error": results[key]["error"]}
            for key in wanted
            if key in results and results[key]["status"] == FAILED
        ],
        "tables": {
            table: {task: _rows(runs, results) for task, runs in tasks.items()} for table, tasks in whole.items()
        },
        "metrics": {task: _of_metrics(runs, results) for task, runs in whole[EQUAL].items()},
        "tuning": {
            name: {
                "chosen": None if name not in tuned.chosen else {
                    "settings": dict(tuned.chosen[name].settings), "factor": tuned.chosen[name].factor,
                },
                "trials": trials,
                "curve": tuned.curves.get(name, []),
            }
            for name, trials in tuned.trials.items()
        },
        "titles": {name: one.title for name, one in CONTESTANTS.items()},
        "tasks told": {task: TASKS[task].title for task in preset.tasks},
    }  # fmt: skip


def _rows(runs: Sequence[Run], results: Results) -> list[dict[str, Any]]:
    """A row for each contestant with a result, most right and not leaked first.

    ``leak``: what is seen of the exemplars more often than under words with the same noise, where something is unsaid.
    ``difference``: of right-and-not-leaked to TwinAct's on the same actions and seeds, positive where it is ahead.
    """
    grouped: dict[str, dict[tuple[str, int], Result]] = {}
    for run in runs:
        if run.key in results and not CONTESTANTS[run.contestant].judged:
            grouped.setdefault(run.contestant, {})[run.action, run.seed] = results[run.key]
    rows = [_row(name, found, grouped) for name, found in grouped.items()]
    return sorted(rows, key=lambda row: (-(row["clean"] or {"mean": 0})["mean"], -(row["near"] or {"mean": 0})["mean"]))


def _row(
    name: str, found: Mapping[tuple[str, int], Result], grouped: Mapping[str, Mapping[tuple[str, int], Result]]
) -> dict[str, Any]:
    reference, baseline = grouped.get(REFERENCE, {}), grouped.get(BASELINE, {})
    row: dict[str, Any] = {
        "contestant": name,
        "runs": len(found),
        "failed": sum(one["status"] == FAILED for one in found.values()),
        **{share: interval(_cells({k: one.mean(share) for k, one in found.items()})) for share in SHARES},
    }
    row["leak"] = {
        leak.removeprefix("leak_"): interval(_cells({
            key: one.mean(leak) - baseline[key[0], 0].mean(leak)
            for key, one in found.items()
            if (key[0], 0) in baseline
        }))
        for leak in LEAKS
    }  # fmt: skip
    row["difference"] = None if name == REFERENCE else interval(_cells({
        key: other.mean("clean") - _paired(found, key).mean("clean")
        for key, other in reference.items()
        if _paired(found, key) is not None
    }))  # fmt: skip
    done = [one for one in found.values() if one["status"] != FAILED]
    for cost in ("passes", "seconds", "bytes", "peak", "drift"):
        values = [one[cost] for one in done if one.get(cost) is not None]
        row[cost] = round(mean(values), 4) if values else None
    return row


def _paired(found: Mapping[tuple[str, int], Result], key: tuple[str, int]) -> Any:
    """The result on the same action and seed; of what has one seed only, on the same action."""
    return found.get(key, found.get((key[0], 0)))


def _cells(values: Mapping[tuple[str, int], float]) -> dict[str, list[float]]:
    """Action → a value for each seed."""
    cells: dict[str, list[float]] = {}
    for (action, _), value in values.items():
        cells.setdefault(action, []).append(value)
    return cells


def _of_metrics(runs: Sequence[Run], results: Results) -> dict[str, Any]:
    """Name of a way to draw without a model → what the metrics make of it."""
    found: dict[str, dict[tuple[str, int], Result]] = {}
    for run in runs:
        if run.key in results and CONTESTANTS[run.contestant].judged:
            found.setdefault(run.contestant, {})[run.action, run.seed] = results[run.key]
    return {
        name: {share: interval(_cells({k: one.mean(share) for k, one in rows.items()})) for share in SHARES}
        for name, rows in found.items()
    }


def most_leaked(row: Mapping[str, Any]) -> float | None:
    """The largest mean leak of a row, over what is unsaid; None where nothing is."""
    means = [one["mean"] for one in row["leak"].values() if one is not None]
    return max(means) if means else None


def markdown(content: Mapping[str, Any], table: str = EQUAL, task: str = MAIN) -> str:
    """A table of a summary in Markdown."""
    head = ["", "right, not leaked", "right", "angles", "actor, place, thing, light above words (points)",
            "TwinAct ahead by (points)", "passes", "seconds"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in content["tables"][table].get(task, []):
        leaks = [points(one) for one in row["leak"].values()]
        cells = [
            content["titles"][row["contestant"]], percent(row["clean"]), percent(row["joint"]),
            percent(row["near"], brief=True), ", ".join(leaks), points(row["difference"], brief=False),
            number(row["passes"]), number(row["seconds"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def percent(one: Mapping[str, float] | None, *, brief: bool = False) -> str:
    """``63 % [43, 79]``, or without the interval; a dash where there is none."""
    if one is None:
        return "–"
    whole, low, high = (round(100 * one[key]) for key in ("mean", "low", "high"))
    return f"{whole} %" if brief else f"{whole} % [{low}, {high}]"


def points(one: Mapping[str, float] | None, *, brief: bool = True) -> str:
    """``+12`` or ``+12 [3, 20]``, in points of 100; a dash where there is none."""
    if one is None:
        return "–"
    whole, low, high = (
        f"{round(100 * one[key]):+d}".replace("-", "−").replace("+0", "0") for key in ("mean", "low", "high")
    )
    return whole if brief else f"{whole} [{low}, {high}]"


def number(value: float | None) -> str:
    """``1,361``, or a dash."""
    return "–" if value is None or np.isnan(value) else f"{value:,.0f}"
