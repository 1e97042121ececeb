"""A twentieth of `make stress`: damaged files, kills, full disks, two writers, bad pictures and canaries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Two of about the same length, to run side by side: each makes its own models and files first.
GROUPS = (
    ("run folders", "actions", "spaces", "captions", "canaries", "options"),
    ("models", "bit flips", "kills", "fresh processes", "full disks", "writers", "pictures"),
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked")
@pytest.mark.parametrize("suites", GROUPS, ids=lambda suites: suites[0])
def test_whatever_is_done_to_it_it_ends_well(suites: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "stress.py", "--out", str(tmp_path / "out.json"), "--size", "0.05"]
    done = subprocess.run(
        [*command, *(f"--only={suite}" for suite in suites)],
        cwd=ROOT / "benchmarks",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "out.json").read_text())["suites"]
    assert set(rows) == set(suites) and all(row["cases"] > 0 and row["failed"] == 0 for row in rows.values())


def test_every_kind_of_case_belongs_to_a_group() -> None:
    files = [ROOT / "benchmarks" / name for name in ("stress_cases.py", "stress_events.py", "stress_foreign.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert all(f'"{suite}": Suite(' in source for group in GROUPS for suite in group)
    assert source.count(": Suite(") == sum(map(len, GROUPS))
