"""The report of a run: it is written with all that the run left, holds everything itself, and is left alone later."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from small import exemplars_in, learn
from test_report import Page
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.cli import app
from twinact.configs import LearnConfig, RunConfig, TextualInversionConfig, TwinActConfig
from twinact.data.exemplars import read_exemplars
from twinact.report.charts import curve
from twinact.report.run_report import report_run
from twinact.space import ActionSpace
from twinact.space.build import build_space

TWINACT = LearnConfig(
    name="leap", method=TwinActConfig(similarity_weight=0.0), steps=4, batch_size=2, start="jumping", seed=3
)
EVIL = 'a <b>robot</b> <act> & "more"'


def points(svg: str) -> list[int]:
    return [line.count(",") for line in re.findall(r'points="([^"]*)"', svg)]


@pytest.mark.slow
def test_a_report_tells_all_of_a_run_and_asks_for_nothing(
    backbone: Backbone, space: ActionSpace, tmp_path: Path
) -> None:
    exemplars_in(tmp_path / "pictures")
    (tmp_path / "pictures" / "0.txt").write_text(EVIL)
    how = RunConfig(checkpoint_every=2, preview_every=2)
    run = tmp_path / "run"
    action = learn(tmp_path / "pictures", TWINACT, run, backbone=backbone, space=space, run=how).action
    path = report_run(run, read_exemplars(tmp_path / "pictures"), action)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert path == run / "report.html"
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Exemplars", "Previews", "Loss", "The action in the space", "How this was made",
    ]  # fmt: skip
    assert not re.search(r"url\(|@import|https?:|<script|<b>robot", html) and str(tmp_path) not in html
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 3 + 3 and all(attributes["alt"] for attributes in pictures)
    assert EVIL in page.text
    assert "after step 2" in page.text and "after step 4" in page.text
    for phrase, _, _ in action.explain(space).phrases:
        assert f"<span>{phrase}</span>" in html
    for told in ("leap, learned from 3 pictures", "4 steps on tiny@0", "batch_size", "diffusers"):
        assert told in page.text
    assert points(html)[0] == 4  # the loss of every step

    path.write_text("mine")
    assert report_run(run, read_exemplars(tmp_path / "pictures"), action).read_text() == "mine"


def test_what_a_run_lacks_is_left_out(backbone: Backbone, tmp_path: Path) -> None:
    exemplars_in(tmp_path / "pictures", 1)
    config = replace(TWINACT, method=TextualInversionConfig(), start=None, steps=1)
    action = learn(tmp_path / "pictures", config, tmp_path / "run", backbone=backbone).action
    for name in ("log.jsonl", "report.html"):
        (tmp_path / "run" / name).unlink()
    html = report_run(tmp_path / "run", read_exemplars(tmp_path / "pictures"), action).read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["Exemplars", "How this was made"]
    assert "learned from 1 picture<" in html


@pytest.mark.slow
def test_the_command_draws_previews_and_writes_the_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exemplars_in(tmp_path / "leap")
    build_space(load(model), phrases=("jumping", "dancing", "on the moon")).save(tmp_path / "few.space.safetensors")
    learned = ["learn", "leap", "--model", str(model), "--space", "few.space.safetensors", "--steps", "4"]

    def done(*options: str) -> str:
        result = CliRunner().invoke(app, [*learned, "--checkpoint-every", "1", *options])
        assert result.exit_code == 0, result.output
        return result.stderr

    assert "report: runs/leap/report.html" in done()
    assert [path.name for path in sorted(Path("runs/leap/previews").iterdir())] == [
        f"step_00000{step}.png" for step in (0, 1, 2, 3, 4)
    ]
    html = Path("runs/leap/report.html").read_text(encoding="utf-8")
    assert "<span>dancing</span>" in html and "after step 3" in html
    done("--out", "bare", "--preview-every", "0")
    assert not Path("bare/previews").exists() and Path("bare/report.html").is_file()
    same = [Path(run, "leap.action.safetensors").read_bytes() for run in ("runs/leap", "bare")]
    assert same[0] == same[1]


@pytest.mark.parametrize(("steps", "drawn"), [(1, 1), (7, 7), (240, 240), (241, 121), (1000, 200)])
def test_curves_have_few_points_and_stay_inside(steps: int, drawn: int) -> None:
    svg = curve([1.0 / (i + 1) for i in range(steps)], "loss")
    fine, coarse = points(svg)
    assert fine == drawn and coarse <= 20
    numbers = [float(number) for line in re.findall(r'points="([^"]*)"', svg) for number in re.split(r"[ ,]", line)]
    assert all(64 <= x <= 720 and 8 <= y <= 222 for x, y in zip(numbers[::2], numbers[1::2], strict=True))
