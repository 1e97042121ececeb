"""`--dry-run`: what is foretold is what a run then takes, and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import content, done, refused
from families import CORE, backbone_of
from small import exemplars_in
from twinact.backbones.backbone import Backbone
from twinact.jobs import estimate
from twinact.jobs.estimate import Estimate, estimate_drawing, in_words
from twinact.sample import generate


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exemplars_in(tmp_path / "leap")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        "--method textual-inversion",
        "--start jumping --accumulate 2",
        "--space few.space.safetensors",
        "--space few.space.safetensors --steps 0",
    ],
)
def test_passes_of_learning_are_those_that_it_takes(settings: str, model: Path, tmp_path: Path) -> None:
    command = ("learn", "leap", "--model", model, *f"--steps 6 --preview-every 0 --batch-size 2 {settings}".split())
    Path("few.txt").write_text("# Body\njumping\nwith a cat\na dog in the park\n")
    done("space", "build", "--model", model, "--phrases", "few.txt", "--no-poses", "--out", "few")
    before = content(tmp_path)
    told = json.loads(done(*command, "--dry-run", "--json").stdout)
    assert content(tmp_path) == before and not Path("runs").exists()
    cost = json.loads(done(*command, "--json").stdout)["cost"]
    assert (told["forward"], told["backward"]) == (cost["forward"] + cost["search"], cost["backward"])
    assert told["seconds"] > 0 and told["memory_bytes"] > 1e7
    written = sum(path.stat().st_size for path in Path("runs/leap").rglob("*") if path.is_file())
    assert told["disk_bytes"] == pytest.approx(written, rel=0.3)
    assert told["folders"][0]["folder"] == "runs/leap"
    again = json.loads(done(*command, "--dry-run", "--json").stdout)  # nothing is left to do
    assert (again["forward"], again["seconds"]) == (0, 0)


@pytest.mark.slow
def test_previews_count(model: Path) -> None:
    command = (
        "learn",
        "leap",
        "--model",
        model,
        "--start",
        "jumping",
        "--steps",
        "4",
        "--batch-size",
        "1",
        "--dry-run",
    )
    without = json.loads(done(*command, "--preview-every", "0", "--json").stdout)
    with_them = json.loads(done(*command, "--preview-every", "2", "--json").stdout)
    # Steps 0, 2 and 4, and the model without the action: two pictures of 25 steps with guidance each.
    assert with_them["forward"] - without["forward"] == 4 * 2 * 25 * 2


def test_what_learning_refuses_is_told_first(model: Path) -> None:
    assert "'nowhere' is not a folder" in refused("learn", "nowhere", "--dry-run")
    Path("leap/3.png").write_bytes(b"broken")
    assert "3.png" in refused("learn", "leap", "--model", model, "--dry-run")


@pytest.mark.slow
def test_many_actions_and_their_pictures(model: Path) -> None:
    exemplars_in(Path("all/kick"))
    exemplars_in(Path("all/leap"))
    told = done("learn", "all", "--model", model, "--method", "textual-inversion", "--steps", "3", "--preview-every",
                "0", "--dry-run").stdout.splitlines()  # fmt: skip
    assert told[0] == "passes  48 of the denoiser forward, 48 back"
    assert [line.rpartition("/")[2] for line in told if line.startswith("into")] == ["kick", "leap"]


@pytest.mark.slow
def test_drawing(model: Path, tmp_path: Path) -> None:
    done("learn", "leap", "--model", model, "--start", "jumping", "--steps", "1", "--preview-every", "0")
    command = ("generate", "runs/leap/leap.action.safetensors", "--model", model, "--prompt", "a robot <act>")
    before = content(tmp_path)
    told = json.loads(done(*command, "--count", "3", "--steps", "7", "--dry-run", "--json").stdout)
    assert content(tmp_path) == before and not Path("pictures").exists()
    assert (told["forward"], told["backward"]) == (3 * 7 * 2, 0)
    unguided = json.loads(done(*command, "--steps", "7", "--guidance", "1", "--dry-run", "--json").stdout)
    assert unguided["forward"] == 7
    drawn = json.loads(done(*command, "--count", "2", "--steps", "1", "--json").stdout)["pictures"]
    assert [(Path(one["file"]).is_file(), one["seed"]) for one in drawn] == [(True, 0), (True, 1)]


@pytest.mark.slow
def test_drawing_is_tried_as_it_will_be(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[dict[str, Any]] = []
    monkeypatch.setattr(estimate, "generate", lambda *_, **options: tried.append(options))
    done("learn", "leap", "--model", model, "--start", "jumping", "--steps", "1", "--preview-every", "0")
    asked = {"guidance": 3.0, "negative_prompt": "a park", "scheduler": "DDIMScheduler"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    done("generate", "runs/leap/leap.action.safetensors", "--model", model, "--prompt", "<act>", "--dry-run", *options)
    assert tried and all(asked.items() <= one.items() for one in tried)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [None, 0.5])
@pytest.mark.parametrize("name", [*CORE, "flux-schnell"])  # PNDM, of sd1-as-published, begins with a step more
def test_passes_of_drawing_are_those_of_each_family_s_guidance(name: str, guidance: float | None) -> None:
    backbone, seen = backbone_of(name), []
    handle = backbone.denoiser.register_forward_hook(lambda module, args, output: seen.append(len(output[0])))
    generate(backbone, ["a dog"], seeds=[0], steps=2, guidance=guidance)
    handle.remove()
    told = estimate_drawing(backbone, 1, vectors={}, steps=2, batch_size=1, guidance=guidance)
    assert told.forward == sum(seen)


def test_disk_of_drawing_follows_from_the_size(backbone: Backbone) -> None:
    told = [
        estimate_drawing(backbone, 1, vectors={}, steps=1, batch_size=1, size=size).disk_bytes
        for size in (None, (32, 32), (64, 32))
    ]
    assert told == [2 * 32 * 32, 2 * 32 * 32, 2 * 64 * 32]


def test_in_words() -> None:
    told = in_words(Estimate(1200, 800, 3900.4, 3 * 2**30, 2_000_000)).splitlines()
    assert told[0] == "passes  1,200 of the denoiser forward, 800 back"
    assert told[1] == "time    about 1 h 5 min"
    assert told[3] == "disk    about 2.0 MB"
    assert "about 1 min 5 s" in in_words(Estimate(1, 0, 65, 0, 0))
