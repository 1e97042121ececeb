"""The full-size benchmark: its architectures are the published ones, and it measures what it says, on toys."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import full_size  # noqa: E402

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    "sdxl": {
        "unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863,
    },
    "flux": {
        "transformer": 11_901_408_320, "text_encoder": 123_060_480, "text_encoder_2": 4_762_310_656,
        "vae": 83_819_683,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", full_size.MODELS)
def test_architectures_have_the_published_sizes(name: str) -> None:
    facts = full_size.counted(name, toy=False)
    assert facts["parameters"] == PUBLISHED[name]
    assert facts["pixels"] == (512 if name == "sd15" else 1024)


@pytest.mark.parametrize("name", full_size.MODELS)
def test_counts_on_toys(name: str) -> None:
    facts = full_size.counted(name, toy=True)
    assert facts["parameters"].keys() == PUBLISHED[name].keys()
    assert facts["10^12 operations a step"] > 0


@pytest.mark.parametrize("variant", [name for name in full_size.VARIANTS if "compile" not in name])
@pytest.mark.parametrize("name", full_size.MODELS)
def test_measures_toys(name: str, variant: str) -> None:
    row = full_size.measured(name, variant, True, "cpu")
    assert row["seconds a step"] > 0 and row["peak of the process, GiB"] > 0


@pytest.mark.slow
def test_the_script_writes_every_variant(tmp_path: Path) -> None:
    results = tmp_path / "toy.json"
    command = [sys.executable, FOLDER / "full_size.py", results, "--toy", "--only", "sdxl"]
    subprocess.run(command, check=True, timeout=290)
    facts = json.loads(results.read_text())
    rows = facts["models"]["sdxl"]["measured"]
    assert facts["scale"] == "toy" and list(rows) == list(full_size.VARIANTS)
    assert all("failed" not in row for name, row in rows.items() if "compile" not in name)


def test_committed_results_say_what_was_not_run() -> None:
    facts = json.loads((FOLDER / "results" / "full_size.json").read_text())
    assert facts["scale"] == "full" and facts["device"] and facts["date"]
    assert {name: model["parameters"] for name, model in facts["models"].items()} == PUBLISHED
    for model in facts["models"].values():
        measured = model["measured"]
        assert "not run: " in measured if isinstance(measured, str) else set(measured) == set(full_size.VARIANTS)
