"""The full-size benchmark: its architectures are the published ones, and it measures what it says, on toys."""

import json
import subprocess
import sys
from itertools import cycle, product
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
    # Of klein's text encoder, 28 of 36 layers are read.
    "klein": {"transformer": 3_875_544_576, "text_encoder": 3_215_021_568, "vae": 84_046_115},
    "z-image": {"transformer": 6_154_908_736, "text_encoder": 4_022_468_096, "vae": 83_819_683},
    "chroma": {"transformer": 8_899_983_424, "text_encoder": 4_762_310_656, "vae": 83_819_683},
}  # fmt: skip


MEASURED = [name for name in full_size.VARIANTS if "compile" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", full_size.MODELS)
def test_architectures_have_the_published_sizes(name: str) -> None:
    facts = full_size.counted(name, toy=False, operations=False)
    assert facts["parameters"] == PUBLISHED[name]
    assert facts["pixels"] == (512 if name == "sd15" else 1024)


@pytest.mark.slow
@pytest.mark.parametrize("name", full_size.MODELS)
def test_counts_on_toys(name: str) -> None:
    facts = full_size.counted(name, toy=True)
    assert facts["parameters"].keys() == PUBLISHED[name].keys()
    if name in full_size.LOOK_AT_NUMBERS:
        return
    assert facts["10^12 operations a step"] > 0
    without, recomputed = (facts[f"kept for backward{how}, GiB"] for how in ("", " with activation checkpointing"))
    assert without > recomputed > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"),
    # Each model and each variant; that every family rounds, offloads and recomputes has tests of its own.
    [*product(full_size.MODELS, MEASURED[:1]), *zip(cycle(full_size.MODELS), MEASURED[1:], strict=False)],
)
def test_measures_toys(name: str, variant: str) -> None:
    row = full_size.measured(name, variant, True, "cpu")
    assert row["seconds a step"] > 0 and row["peak of the process, GiB"] > 0
    how = full_size.VARIANTS[variant]
    counted = how.draws or ((name in full_size.LOOK_AT_NUMBERS or how.side) and not how.savings.recompute)
    assert ("10^12 operations a step" in row) == bool(counted)


@pytest.mark.slow
def test_what_is_worth_most_is_measured_first_and_the_rest_says_that_time_was_over(tmp_path: Path) -> None:
    results = tmp_path / "toy.json"
    command = [sys.executable, FOLDER / "full_size.py", results, "--toy", "--only", "sd15", "--total", "0"]
    first = [arg for name, how in full_size.VARIANTS.items() if how.worth in (0, 3) for arg in ("--variant", name)]
    subprocess.run([*command, *first], check=True, timeout=600)
    rows = json.loads(results.read_text())["models"]["sd15"]["measured"]
    told = {name: row.get("not run") for name, row in rows.items()}
    assert {why for name, why in told.items() if full_size.VARIANTS[name].worth in (0, 3)} == {"the time was over"}
    assert {why for name, why in told.items() if full_size.VARIANTS[name].worth in (1, 2)} == {"it was not asked for"}
    assert full_size.VARIANTS["and offloading (memory low)"].worth == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_writes_every_variant_and_keeps_other_models(tmp_path: Path) -> None:
    results = tmp_path / "toy.json"
    results.write_text('{"models": {"sd15": "as it was"}}')
    command = [sys.executable, FOLDER / "full_size.py", results, "--toy", "--only", "sdxl", "--limit", "40"]
    asked = [arg for name in MEASURED[::4] for arg in ("--variant", name)]
    subprocess.run([*command, *asked], check=True, timeout=850)
    models = json.loads(results.read_text())["models"]
    rows = models["sdxl"]["measured"]
    assert models["sd15"] == "as it was" and models["sdxl"]["scale"] == "toy"
    assert list(rows) == list(full_size.VARIANTS)
    assert [name for name, row in rows.items() if row.get("not run") != "it was not asked for"] == MEASURED[::4]
    assert all(rows[name]["seconds a step"] > 0 for name in MEASURED[::4])


def test_committed_results_say_what_was_not_run() -> None:
    facts = json.loads((FOLDER / "results" / "full_size.json").read_text())
    assert facts["aim"] == full_size.AIM
    assert {name: model["counted"]["parameters"] for name, model in facts["models"].items()} == PUBLISHED
    for model in facts["models"].values():
        assert model["scale"] == "full" and model["device"] and model["date"]
        assert list(model["measured"]) == list(full_size.VARIANTS)
        for row in model["measured"].values():
            assert ("not run" in row) != ("seconds a step" in row or "failed" in row)
