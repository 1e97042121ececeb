"""The page under a small load: two browsers, four jobs, one restart; `benchmarks/page_load.py` does more of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the extra app is not installed", exc_type=ImportError)
pytest.importorskip("playwright.async_api", reason="playwright is not installed", exc_type=ImportError)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
def test_no_job_is_lost_or_crossed_when_the_server_is_stopped_on_the_way(tmp_path: Path) -> None:
    command = [sys.executable, "page_load.py", "--out", str(tmp_path / "out.json"), "--signal", "TERM"]
    done = subprocess.run(
        [*command, "--browsers", "2", "--jobs", "4"],
        cwd=BENCHMARKS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert told["problems"] == [] and told["done"] == told["jobs"] == 4
    assert 0 < told["asked for before the stop"] < 4 and len(told["server memory, MiB"]) == 2
    assert told["pictures"]["count"] >= 2 * told["jobs"]
