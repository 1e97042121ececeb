"""The comparison on a tiny model: what its folder holds, and what it refuses to mix."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tiny import tiny_sd
from twinact.backbones.base import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.bench.compare import compare
from twinact.bench.judges import Judges
from twinact.cli import app
from twinact.configs import LearnConfig
from twinact.errors import ConfigError, DataError
from twinact.world.splits import DEV_ACTIONS

ONE, OTHER = (DEV_ACTIONS[name] for name in ("dev-archer", "dev-hurdle"))
SMALL: dict[str, Any] = {
    "actions": [ONE], "methods": ["textual-inversion", "one phrase"], "actors": 2, "steps": 1, "guidance": 1.0,
    "config": LearnConfig(name="bench", steps=2, batch_size=1), "report": lambda _line: None,
}  # fmt: skip


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield Judges().eval()


def written(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "results.json"}


def test_pictures_of_other_settings_are_not_taken_for_new_ones(
    backbone: Backbone, judges: Judges, tmp_path: Path
) -> None:
    out = tmp_path / "bench"
    first = compare(backbone, None, judges, out, **SMALL)
    before = written(out)
    assert compare(backbone, None, judges, out, **SMALL)["overall"] == first["overall"]
    assert written(out) == before
    config = LearnConfig(name="bench", steps=3, batch_size=1)
    for other, told in (({"steps": 2}, "sampler.steps was 1 and is 2"), ({"guidance": 2.0}, "sampler.guidance"),
                        ({"actors": 1}, "actors per action"), ({"config": config}, "config.steps was 2")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            compare(backbone, None, judges, out, **SMALL | other)
    pipeline = tiny_sd()
    with torch.no_grad():
        next(pipeline.vae.parameters()).add_(1)
    with pytest.raises(ConfigError, match="weights was"):
        compare(StableDiffusion(pipeline, backbone.model_id), None, judges, out, **SMALL)
    assert written(out) == before


def test_subsets_of_the_actions_fill_one_folder_and_the_last_call_judges_all(
    backbone: Backbone, judges: Judges, tmp_path: Path
) -> None:
    words = SMALL | {"methods": ["one phrase"]}
    compare(backbone, None, judges, tmp_path, **words)
    compare(backbone, None, judges, tmp_path, **words | {"actions": [OTHER]})
    before = written(tmp_path)
    calls: list[tuple[int, int]] = []
    both = words | {"actions": [ONE, OTHER], "progress": lambda done, whole: calls.append((done, whole))}
    assert compare(backbone, None, judges, tmp_path, **both)["overall"]["one phrase"]["pictures"] == 4
    assert written(tmp_path) == before and not calls
    assert {row["action"] for row in json.loads((tmp_path / "results.json").read_text())["by action"]} == {
        "dev-archer", "dev-hurdle",
    }  # fmt: skip
    compare(backbone, None, judges, tmp_path, **both | {"methods": ["textual-inversion", "one phrase"]})
    assert calls == [(1, 8), (2, 8), (4, 8), (5, 8), (6, 8), (8, 8)]


def test_other_folders_are_refused_and_left(backbone: Backbone, judges: Judges, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(DataError, match="holds no bench"):
        compare(backbone, None, judges, tmp_path, **SMALL)
    result = CliRunner().invoke(app, ["bench", "custom", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "holds no bench" in result.stderr
    assert "opening model" not in result.stderr  # that takes seconds
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
