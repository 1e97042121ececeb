"""The pose that a model of any family means, seen in its first steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from families import CORE, backbone_of
from small import PHRASES, small_space, vitpose
from tiny import tiny_sd
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.bench.poses import photographed_poses, write_pose_exemplars
from twinact.cli import app
from twinact.configs import LearnConfig, TwinActConfig
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.intent import EarlyPose, intended_pose
from twinact.intent.eyes import Eyes, PictureEyes, open_eyes
from twinact.intent.intended_pose import DRAWING, early_times, step_on
from twinact.intent.measure import COUNTS, MeasuredIntent, measure_intent
from twinact.intent.pose_table import pose_table
from twinact.jobs.job import Job
from twinact.jobs.run import run_job
from twinact.lora import fresh
from twinact.readers.body import SEGMENTS
from twinact.readers.vitpose import ViTPoseReader
from twinact.space import ActionSpace
from twinact.space.pose_table import OWN
from twinact.training.refine import refined
from twinact.training.start import posed_search_passes


def eyes() -> PictureEyes:
    return PictureEyes(ViTPoseReader(vitpose()))


class Corners:
    """Sees one segment: from the middle towards where the estimate is brightest."""

    segments = ((0, 1),)

    def directions(self, backbone: Backbone, latents: Tensor) -> Tensor:
        gray = latents.mean(dim=1)
        sides = gray.mean(dim=1), gray.mean(dim=2)  # over rows, over columns
        parts = [side.diff(dim=1).sum(dim=1) for side in sides]
        return F.normalize(torch.stack(parts, dim=1)[:, None], dim=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE)
def test_any_family_learns_from_the_pose_that_it_means_in_its_first_steps(name: str, tmp_path: Path) -> None:
    backbone = backbone_of(name)
    vitpose().save_pretrained(tmp_path / "pose")
    space = small_space(backbone)
    reader = str(tmp_path / "pose")
    table = pose_table(backbone, EarlyPose(eyes(), 2), space.phrases, drawings=1, reader=reader)
    replace(space, poses=table).save(tmp_path / "few.space.safetensors")
    loaded = ActionSpace.load(tmp_path / "few.space.safetensors").poses
    assert loaded is not None and (loaded.steps, loaded.reader) == (2, reader)
    write_pose_exemplars(next(iter(photographed_poses())), tmp_path / "exemplars", 32)
    method = TwinActConfig(prompts_per_step=2, clauses=1)
    told: list[str] = []
    steps = 9 if name == "sd" else 2  # of which two are too few for trials
    config = LearnConfig(name="leap", method=method, steps=steps, batch_size=2)
    job = Job(
        exemplars=tmp_path / "exemplars",
        config=config,
        run_dir=tmp_path / "run",
        space=tmp_path / "few.space.safetensors",
    )
    learned = run_job(job, backbone=backbone, tell=told.append)
    assert any("from the exemplars' pose" in line for line in told)
    # Two prompts, two looks at each, of which one learns.
    assert learned.cost.forward == 4 * steps and learned.cost.backward == 2 * steps
    # Every phrase is looked at in two prompts; none shares another, so the six nearest are tried.
    looks, trials = 2 * 2 * len(space.phrases), 6 * 8 * 2 * (2 + 2) if name == "sd" else 0
    assert learned.cost.search == looks + trials <= posed_search_passes(replace(space, poses=table), config)
    start = small_space(backbone).project_phrase(next(t for t in told if t.startswith("start"))[7:].partition(", ")[0])
    assert learned.action.coefficients is not None and not torch.equal(learned.action.coefficients[0], start[0])


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_an_action_is_refined_for_the_pose_that_it_should_show(name: str, tmp_path: Path) -> None:
    backbone = backbone_of(name)
    vitpose().save_pretrained(tmp_path / "pose")
    space = small_space(backbone)
    table = pose_table(backbone, EarlyPose(eyes(), 2), space.phrases, drawings=1, reader=str(tmp_path / "pose"))
    space = replace(space, poses=table)
    directions = F.normalize(table.directions[0], dim=1).tolist()
    meta = {"pose": {"directions": directions, "weights": [1.0] * len(directions)}, "history": [{"from": "x"}]}
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[1], meta=meta)
    before, told = replace(backbone.passes), []
    found = refined(backbone, space, action, steps=3, progress=lambda *done: told.append(done))
    assert backbone.passes.forward - before.forward == 12 and backbone.passes.backward - before.backward == 6
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert found.coefficients is not None and action.coefficients is not None
    assert 0 < float((found.coefficients - action.coefficients).abs().max()) < 0.2
    assert found.meta["pose"] == meta["pose"]
    *before_it, last = found.meta["history"]
    assert before_it == [{"from": "x"}] and last == {"from": "leap", "refined": 3, "off": last["off"]}
    assert 0 < last["off"] <= 180
    assert all(not torch.equal(*pair) for pair in zip(found.vectors, action.vectors, strict=True))
    lora = {key: torch.ones_like(weight) for key, weight in fresh(backbone, 1, 0).items()}
    spoken = {"<actor>": [vector[:1] for vector in action.vectors]}
    acted = refined(backbone, space, action, name="acted", who="<actor>", vectors=spoken, loras=[lora], steps=3)
    assert acted.name == "acted" and not acted.lora and acted.meta["history"][-1]["for"] == "one actor"
    for changed in ({"loras": []}, {"who": "a man"}, {"vectors": {"<actor>": [2 * one for one in spoken["<actor>"]]}}):
        other = refined(
            backbone, space, action, **{"who": "<actor>", "vectors": spoken, "loras": [lora], "steps": 3, **changed}
        )
        assert other.coefficients is not None and not torch.equal(other.coefficients, acted.coefficients), changed
    for nobody in ("a man <act>", " "):
        with pytest.raises(ConfigError, match="must say somebody"):
            refined(backbone, space, action, who=nobody)
    with pytest.raises(CheckpointError, match="was made for model"):
        refined(backbone, space, replace(action, model_id=f"{action.model_id[:-1]}x"))
    with pytest.raises(ConfigError, match="shows no pose"):
        refined(backbone, space, replace(action, meta={}))
    with pytest.raises(ConfigError, match="not known to show its pose early"):
        refined(backbone, replace(space, poses=None), action)


def test_steps_are_those_of_ddim() -> None:
    backbone = backbone_of("sd")
    scheduler = DDIMScheduler.from_config(backbone.pipeline().scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(DRAWING)
    x, prediction = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    times = early_times(backbone, 3, 2)
    assert [int(t[0]) for t in times] == [int(t) for t in scheduler.timesteps[:3]]
    found = step_on(backbone, x, times[0], times[1], prediction)
    # The scheduler clips and thresholds nothing here; its next time is a step of whole numbers away.
    wanted = scheduler.step(prediction, scheduler.timesteps[0], x, eta=0.0).prev_sample
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_steps_of_flow_models_are_those_of_euler(name: str) -> None:
    backbone = backbone_of(name)
    first, second = early_times(backbone, 2, 2)
    whole = float(backbone.noising.noisiest(1))
    x, velocity = (torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    moved = (float(second[0]) - float(first[0])) / whole
    assert moved < 0
    torch.testing.assert_close(step_on(backbone, x, first, second, velocity), x + moved * velocity)
    times = backbone.noising.times(DRAWING)
    assert bool((times.diff() < 0).all()) and float(times[-1]) > 0


@pytest.mark.slow
def test_the_early_pose_is_measured_against_the_finished_drawing() -> None:
    backbone = backbone_of("sd")
    assert isinstance(Corners(), Eyes) and isinstance(eyes(), Eyes)
    before = backbone.passes.forward
    measured = measure_intent(backbone, Corners(), PHRASES, 8)
    assert backbone.passes.forward == before + 8 * DRAWING and set(measured.correlations) == set(COUNTS)
    assert all(-1 <= value <= 1.000001 for value in measured.correlations.values())
    assert measured.correlations[8] != measured.correlations[1]
    assert MeasuredIntent({1: 0.5, 2: 0.91, 4: 0.85, 8: 0.99}).steps == 2
    assert MeasuredIntent({1: 0.5, 2: 0.6}).steps is None
    with pytest.raises(ConfigError, match="too few"):
        measure_intent(backbone, Corners(), PHRASES, 2)


def test_who_looks_is_said_by_the_space_or_the_folder(tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    assert open_eyes(OWN, backbone) is None and intended_pose(backbone) is None
    vitpose().save_pretrained(tmp_path / "pose")
    table = pose_table(backbone, EarlyPose(eyes(), 4), PHRASES, drawings=1, reader=str(tmp_path / "pose"))
    found = intended_pose(backbone, table)
    assert found is not None and found.steps == 4 and found.segments == SEGMENTS
    with pytest.raises(DataError, match="cannot be opened"):
        intended_pose(backbone, replace(table, reader=str(tmp_path)))


@pytest.mark.slow
def test_building_a_space_measures_a_model_and_says_when_its_pose_is_late(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path / "model")
    vitpose().save_pretrained(tmp_path / "pose")
    (tmp_path / "phrases.txt").write_text("# Body\n" + "\n".join(PHRASES))
    arguments = ["space", "build", "--model", tmp_path / "model", "--phrases", tmp_path / "phrases.txt", "--slots", "2",
                 "--reader", "vitpose", "--weights", tmp_path / "pose", "--drawings", "1",
                 "--out", tmp_path / "few"]  # fmt: skip
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.stderr
    assert "correlation of the early pose" in result.stderr
    poses = ActionSpace.load(tmp_path / "few.space.safetensors").poses
    # Noise that a random network makes of noise: what it shows when, the measurement alone can say.
    assert (poses is None) == ("gets no pose table" in result.stderr)
    assert poses is None or poses.steps in COUNTS
