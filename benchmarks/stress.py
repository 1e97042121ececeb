"""Damages, kills and crowds twinact on purpose, and writes down what it does: `make stress`.

All cases follow from a seed and run on tiny models of every family. Whatever is damaged, a command ends with the result
that it would have had, or says in one line why not: no traceback, no hang, no memory beyond what it needs, nothing
changed outside of its folder, no connection. A stopped benchmark goes on where it was; with --only, the other rows of
the results stay as they were.

python benchmarks/stress.py --out benchmarks/results/stress.json [--size 0.1] [--seed 7] [--only models] [--work DIR]
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stress_cases
import stress_events
import stress_foreign
from stress_cases import Verdict
from stress_ground import Ground, build_ground

SUITES = stress_cases.SUITES | stress_events.SUITES | stress_foreign.SUITES

# What is summed up of the cases of a kind, and how the table calls it.
COLUMNS = {
    "cases": "cases", "refused": "refused in a line", "same": "same result", "used": "another text or setting, used",
    "failed": "failed", "seconds": "longest, s", "MiB": "most memory, MiB",
}  # fmt: skip


def main() -> int:
    """The exit code: 1 when a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the results")
    parser.add_argument("--size", type=float, default=1.0, help="share of the cases, 0 to 1")
    parser.add_argument("--seed", type=int, default=7, help="of all cases")
    parser.add_argument("--only", choices=SUITES, action="append", help="a kind of case; may be given again")
    parser.add_argument("--work", type=Path, help="folder to go on from; a temporary one if not given")
    given = parser.parse_args()
    if not 0 < given.size <= 1:
        parser.error(f"--size {given.size} must be above 0 and at most 1")
    with tempfile.TemporaryDirectory(prefix="twinact-stress-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        ground = build_ground(work)
        done = work / f"done-{given.seed}.jsonl"
        rows = json.loads(given.out.read_text(encoding="utf-8"))["suites"] if given.only and given.out.exists() else {}
        for suite in given.only or SUITES:
            count = max(1, round(SUITES[suite].cases * given.size))
            rows[suite] = _summary(_run(ground, suite, count, given.seed, done, work / "case"))
            print(f"{suite}: {rows[suite]}", file=sys.stderr, flush=True)
            results = {"seed": given.seed, "suites": {name: rows[name] for name in SUITES if name in rows}}
            given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table(results["suites"]))
    return int(any(row["failed"] for row in rows.values()))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table of docs/reliability.md."""
    lines = [["", *COLUMNS.values()], ["---", *(["--:"] * len(COLUMNS))]]
    lines += [[suite, *(str(row[key]) for key in COLUMNS)] for suite, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _run(ground: Ground, suite: str, count: int, seed: int, done: Path, folder: Path) -> list[dict[str, Any]]:
    """A line for each case; those that are done already are not run again."""
    before = [json.loads(line) for line in done.read_text().splitlines()] if done.is_file() else []
    lines = {line["case"]: line for line in before if line["suite"] == suite}
    for case in range(count):
        if case in lines:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rng = random.Random(f"{seed}/{suite}/{case}")
        began = time.monotonic()
        verdict: Verdict = SUITES[suite].run(ground, folder, case, rng)
        lines[case] = {
            "suite": suite, "case": case, "state": verdict.state, "told": verdict.told,
            "seconds": round(verdict.need.seconds, 2), "MiB": round(verdict.need.bytes / 2**20),
            "waited": round(time.monotonic() - began, 2), "counts": dict(verdict.counts),
        }  # fmt: skip
        with done.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[case]) + "\n")
        if verdict.state == "failed":
            print(f"{suite} {case} failed: {verdict.told}", file=sys.stderr, flush=True)
    return [lines[case] for case in range(count)]


def _summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    states = Counter(line["state"] for line in lines)
    return {
        "cases": len(lines),
        **{state: states[state] for state in ("refused", "same", "used", "failed")},
        "seconds": max(line["seconds"] for line in lines),
        "MiB": max(line["MiB"] for line in lines),
        **sum((Counter(line["counts"]) for line in lines), Counter()),
        "failures": [f"{line['case']}: {line['told']}" for line in lines if line["state"] == "failed"],
    }


if __name__ == "__main__":
    sys.exit(main())
