"""Loads the page as a class of people would: browsers ask for runs and pictures, and its server is killed on the way.

Every browser asks for jobs on the Learn tab, each a run with a name, exemplars and settings of its own, draws with what
was learned at once, watches its runs until they are done, and draws with them. When half of the jobs are asked for, the
server is stopped and started again; the browsers reload and do again what was not answered. In the end the folder is
held against what was asked for, and every picture against what its browser should have got.

python benchmarks/page_load.py --out benchmarks/results/page_load.json [--browsers 20] [--jobs 50] [--steps 2]
    [--signal KILL] [--patience 600] [--work DIR]

It needs a Chromium and playwright. The exit code is 1 when something was lost, done twice or crossed.
"""

import argparse
import asyncio
import json
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright, expect

from page_load_checks import pictures_told, problems
from page_load_visitors import Job, Server, Visitor, jobs_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS_BETWEEN_LOOKS = 1.0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the results")
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=50, help="of all browsers together")
    parser.add_argument("--steps", type=int, default=2, help="of every run")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL", help="that stops the server")
    parser.add_argument("--patience", type=float, default=600, help="longest wait for one thing to happen, in seconds")
    parser.add_argument("--work", type=Path, help="the page's folder; a temporary one if not given")
    given = parser.parse_args()
    if CHROMIUM is None:
        parser.error("there is no chromium: apt-get install chromium")
    if not 0 < given.browsers <= given.jobs:
        parser.error(f"--browsers {given.browsers} must be at least 1 and at most --jobs {given.jobs}")
    with tempfile.TemporaryDirectory(prefix="twinact-load-") as temporary:
        results = asyncio.run(_load(given, (given.work or Path(temporary) / "page").resolve(), Path(temporary)))
    given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    return int(bool(results["problems"]))


async def _load(given: argparse.Namespace, root: Path, temporary: Path) -> dict[str, Any]:
    """Everything, and what came of it."""
    expect.set_options(timeout=1000 * given.patience)
    jobs = jobs_for(given.jobs, given.browsers, given.steps)
    server, memory = Server(root, temporary / "server.log"), Memory()
    began = time.monotonic()
    await server.start()
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=_behind(temporary), args=["--no-sandbox"])
        visitors = [
            Visitor(browser, server, [job for job in jobs if job.browser == i], 1000 * given.patience)
            for i in range(given.browsers)
        ]
        watching = asyncio.create_task(memory.watch(server, visitors, jobs))
        stopping = asyncio.create_task(_restart(server, jobs, getattr(signal, f"SIG{given.signal}")))
        visits = [asyncio.create_task(visitor.visit()) for visitor in visitors]
        try:
            await asyncio.gather(stopping, *visits)
        finally:
            for task in (watching, stopping, *visits):
                task.cancel()
            # Only the first error counts; the pages of the others are closed under them.
            await asyncio.gather(watching, stopping, *visits, return_exceptions=True)
            await browser.close()
            await server.stop(signal.SIGTERM)
    seconds = time.monotonic() - began
    drawn = [picture for visitor in visitors for picture in visitor.drawn]
    told = pictures_told(root, drawn)
    return {
        "machine": f"{platform.machine()}, {len(_cores())} cores",
        "browsers": given.browsers,
        "jobs": given.jobs,
        "steps": given.steps,
        "stopped by": f"SIG{given.signal}",
        "asked for before the stop": sum(job.life == 1 for job in jobs),
        "asked for again after it": sum(job.asked > 1 for job in jobs),
        "done": sum(job.done for job in jobs),
        "problems": [*problems(root, jobs, temporary / "fresh"), *told.pop("problems")],
        "pictures": told,
        "minutes": round(seconds / 60, 1),
        "answers, s": {
            what: _spread([second for visitor in visitors for second in visitor.seconds[what]])
            for what in ("open", "ask", "draw")
        },
        "server memory, MiB": memory.summary(),
    }


def _behind(folder: Path) -> Path:
    """A Chromium that gives way to the server: people's browsers run on machines of their own.

    Its processes choose their own niceness, but not their class of scheduling.
    """
    script, way = folder / "chromium", "chrt --idle 0" if shutil.which("chrt") else "nice -n 19"
    script.write_text(f'#!/bin/sh\nexec {way} "{CHROMIUM}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return script


async def _restart(server: Server, jobs: list[Job], how: signal.Signals) -> None:
    """Stop the server when half of the jobs are asked for, and start it again at once."""
    while sum(job.life > 0 for job in jobs) < len(jobs) / 2:
        await asyncio.sleep(0.1)
    await server.stop(how)
    await server.start()


class Memory:
    """What the server has held of the machine's memory, second by second."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    async def watch(self, server: Server, visitors: list[Visitor], jobs: list[Job]) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            if (resident := server.resident()) is not None:
                drawn = sum(len(visitor.drawn) for visitor in visitors)
                self._rows.append({"life": server.lives, "MiB": resident / 2**20, "sheets": drawn})
                if len(self._rows) % 30 == 0:
                    asked, done = sum(job.life > 0 for job in jobs), sum(job.done for job in jobs)
                    print(f"{asked} jobs asked for, {done} done, {drawn} sheets", file=sys.stderr, flush=True)

    def summary(self) -> list[dict[str, Any]]:
        """For every process of the server: memory after its first, second, ... quarter of sheets, and the most."""
        told = []
        for life in sorted({row["life"] for row in self._rows}):
            rows = [row for row in self._rows if row["life"] == life]
            first, last = rows[0]["sheets"], rows[-1]["sheets"]
            quarters = {}
            for quarter in range(1, 5):
                sheets = first + (last - first) * quarter // 4
                reached = next(row for row in rows if row["sheets"] >= sheets)
                quarters[f"after {sheets - first} sheets"] = round(reached["MiB"])
            told.append({"seconds": len(rows), **quarters, "at the end": round(rows[-1]["MiB"]),
                         "most": round(max(row["MiB"] for row in rows))})  # fmt: skip
        return told


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 1), "longest": round(max(seconds), 1), "count": len(seconds)}


def _cores() -> set[int]:
    import os

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


if __name__ == "__main__":
    sys.exit(main())
