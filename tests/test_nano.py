"""The embedded model: recipe to weights at toy size, and the shipped folder."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import nn

from twinact.backbones import load, quiet
from twinact.backbones.base import Backbone
from twinact.bench.calibrate import calibrate
from twinact.bench.judges import Judges, Verdict
from twinact.cli.world import _told
from twinact.encoders import load_action_encoder
from twinact.errors import ConfigError, DataError
from twinact.nano import judges_dir, model_dir
from twinact.nano.data import (
    described,
    drawn_part,
    features_pose,
    freely_posed,
    picture_batches,
    pose_features,
    trained_part,
)
from twinact.nano.evaluate import (
    contact_sheet,
    evaluate_between,
    evaluate_nano,
    evaluate_vae,
    measured_pairs,
    prompts,
)
from twinact.nano.fit import fit_module, schedule, visited_twice
from twinact.nano.recipe import RECIPE, Fit, Recipe
from twinact.nano.refine import pose_distance
from twinact.nano.tokenizer import build_tokenizer
from twinact.nano.train import PARTS, train_nano
from twinact.nano.unet import _visit, build_scheduler, build_unet
from twinact.phrases import load_phrases
from twinact.space import ActionSpace
from twinact.workflow import SPACE_FILE, open_model
from twinact.world.draw import draw
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.pose import distance
from twinact.world.sampling import sample_free_pose
from twinact.world.splits import is_held_out_pose


@pytest.fixture(scope="module")
def toy(toy_nano: Path) -> Backbone:
    return load(toy_nano)


def test_every_word_of_the_phrases_is_one_token() -> None:
    tokenizer = build_tokenizer(32)
    words = {word for phrase in load_phrases() for word in phrase.text.split()}
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    assert tokenizer.decode(tokenizer("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"


def test_tokenizer_is_the_same_in_every_process() -> None:
    # The text tower is trained in one process and used in another; ids that differ would silently swap words.
    code = "from twinact.nano.tokenizer import build_tokenizer as b; print(sorted(b(32).get_vocab().items()))"
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert outputs == {str(sorted(build_tokenizer(32).get_vocab().items())) + "\n"}


def test_longest_captions_fit_the_context() -> None:
    tokenizer, part = build_tokenizer(RECIPE.max_tokens), trained_part(RECIPE)
    lengths = [len(tokenizer(described(RECIPE, part, i).caption).input_ids) for i in range(2000)]
    assert max(lengths) <= RECIPE.max_tokens


def test_pose_features_round_trip() -> None:
    for seed in range(20):
        pose = sample_free_pose(np.random.default_rng(seed))
        back = features_pose(pose_features(pose))
        assert np.allclose(back.as_array(), pose.as_array(), atol=1e-3)


def test_picture_number_i_does_not_depend_on_batches_or_workers() -> None:
    part = trained_part(RECIPE)
    whole = next(picture_batches(RECIPE, part, 6, 6, stream=1, workers=0))
    later = next(picture_batches(RECIPE, part, 3, 6, stream=1, start=3, workers=1))
    assert torch.equal(whole.images[3:], later.images)
    assert whole.images.min() >= -1 and whole.images.max() <= 1
    assert 0 < whole.masks.mean() < 0.6


def test_every_second_pose_is_drawn_freely_and_none_is_a_custom_action() -> None:
    part = trained_part(RECIPE)
    for index in range(40):
        said, item = described(RECIPE, part, index, 5), freely_posed(RECIPE, part, index, 5)
        assert (item.scene.pose == said.scene.pose) is (index % 2 == 0)
        assert item.scene.actor == said.scene.actor and not is_held_out_pose(item.scene.pose)


def test_unet_draws_only_phrases_that_a_picture_of_this_size_shows() -> None:
    phrases = drawn_part(RECIPE).phrases
    assert {"hands on hips", "kicking left", "squatting"} <= set(phrases)
    for hidden in ("eyes closed", "looking left", "clenching both fists", "doing a handstand"):
        assert hidden in trained_part(RECIPE).phrases and hidden not in phrases
    assert 400 < len(phrases) < 500


def test_every_picture_is_visited_once_an_epoch() -> None:
    recipe = replace(RECIPE, distinct_pictures=100, unet=Fit(1000, 16, 1e-3))
    seen = np.concatenate([_visit(recipe, step, 16) for step in range(25)])
    assert (np.bincount(seen, minlength=100) == 4).all()


def test_the_shipped_folder_is_whole() -> None:
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(model_dir())
    assert pipeline.tokenizer.get_vocab() == build_tokenizer(RECIPE.max_tokens).get_vocab()
    planned = {name: weight.shape for name, weight in build_unet(RECIPE).state_dict().items()}
    assert {name: weight.shape for name, weight in pipeline.unet.state_dict().items()} == planned
    backbone, space = open_model(), ActionSpace.load(model_dir() / SPACE_FILE)
    assert space.phrases == drawn_part(RECIPE).phrases
    assert (space.model_id, space.tokenizer_hash) == (backbone.model_id, backbone.tokenizer_hash)
    assert load_action_encoder(model_dir()) is not None and Judges.load(judges_dir()).places == tuple(PLACES)


def test_attention_heads_of_the_unet_are_multiples_of_eight_wide() -> None:
    widths = {m.to_q.out_features // m.heads for m in build_unet(RECIPE).modules() if isinstance(m, Attention)}
    assert widths and all(width % 8 == 0 for width in widths)


def test_scheduler_reaches_zero_signal() -> None:
    assert float(build_scheduler().alphas_cumprod[-1]) < 1e-7  # the solver takes logarithms, so not quite zero


def _numbers(step: int) -> Iterator[torch.Tensor]:
    for number in count(step):
        yield torch.randn(8, 3, generator=torch.Generator().manual_seed(number))


def _fit(
    module: nn.Module, folder: Path, fit: Fit, batches: Callable[[int], Iterator[torch.Tensor]] = _numbers
) -> None:
    def loss(_step: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    fit_module(module, batches, loss, fit, folder, lambda _line: None)


def test_fit_learns_and_a_resumed_fit_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch) -> None:
    fit = Fit(320, 8, 1e-1, ema_decay=0.5, warmup_steps=2)

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    straight = fresh()
    _fit(straight, tmp_path / "a", fit)
    last = json.loads((tmp_path / "a" / "log.jsonl").read_text().splitlines()[-1])
    assert last["loss"] < 0.1 and 0 <= last["waiting"] <= 1

    monkeypatch.setattr("twinact.nano.fit.CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
    started: list[int] = []

    def ending(step: int) -> Iterator[torch.Tensor]:
        started.append(step)
        yield from islice(_numbers(step), 16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(fresh(), tmp_path / "b", fit, ending)
    with pytest.raises(KeyboardInterrupt):
        _fit(fresh(), tmp_path / "b", fit, ending)
    assert started == [0, 16]
    resumed = fresh()
    _fit(resumed, tmp_path / "b", fit)
    assert torch.equal(resumed.weight, straight.weight)


def test_every_drawn_batch_serves_two_steps_wherever_a_run_goes_on() -> None:
    whole = list(islice(visited_twice(count, 0), 7))
    assert whole == [0, 0, 1, 1, 2, 2, 3]
    for step in range(5):
        assert list(islice(visited_twice(count, step), 7 - step)) == whole[step:]


def test_schedule_warms_up_and_ends_at_zero() -> None:
    fit = Fit(1000, 1, 1.0, warmup_steps=10)
    assert (
        schedule(0, fit) == pytest.approx(0.1)
        and schedule(500, fit) == pytest.approx(0.5)
        and schedule(999, fit) < 0.01
    )


def test_ways_between_phrases_are_asked_of_the_same_joints(toy_nano: Path) -> None:
    space = ActionSpace.load(toy_nano / SPACE_FILE)
    pairs = measured_pairs(space, 12, 0)
    assert len(set(pairs)) == 12 and pairs == measured_pairs(space, 12, 0) != measured_pairs(space, 12, 1)
    for a, b in pairs:
        there, here = meanings()[a][0].targets, meanings()[b][0].targets
        assert there.keys() == here.keys()
        assert any(distance(n, there[n].value, here[n].value) > 2 * here[n].tolerance for n in here)
    with pytest.raises(ConfigError, match=r"between is 1000000 and the space has \d+ pairs .*; give at most \d+"):
        measured_pairs(space, 1_000_000, 0)


def test_ways_between_phrases_are_drawn_from_one_to_the_other(toy: Backbone, toy_nano: Path) -> None:
    space = ActionSpace.load(toy_nano / SPACE_FILE)
    facts = evaluate_between(toy, space, Judges().eval(), measured_pairs(space, 1, 0), 0, steps=1)
    assert facts["monotone"]["count"] == 1 and len(facts["ways"][0]["advance"]) == 5


def test_evaluation_adds_up(toy: Backbone) -> None:
    judges = Judges().eval()
    drawn, pictures = evaluate_nano(toy, judges, 8, 0, steps=2)
    asked = prompts(8, 0)
    counted = drawn["action of one phrase"]["count"] + drawn["both of two phrases"]["count"]
    assert counted == drawn["actor"]["count"] == drawn["all three"]["count"] == 8
    named = sum(len(prompt.phrases) for prompt in asked)
    for table in ("phrases by heading", "phrases by actor"):
        assert sum(row["count"] for row in drawn[table].values()) == named
    assert sum(int(row.split("/")[1]) for row in drawn["phrases"].values()) == named
    assert all(prompt.action_right(Verdict(prompt.scene.pose, "fox", "park")) for prompt in asked)
    size = toy.image_size
    for prompt, pair in zip(asked, pictures, strict=True):
        assert pair.size == (2 * size, size)
        assert np.array_equal(np.asarray(pair)[:, :size], draw(prompt.scene, size))
    assert contact_sheet(pictures, columns=4, zoom=1).size == (4 * 2 * size, 2 * size)

    calls: list[tuple[int, int]] = []
    vae = evaluate_vae(toy, 34, 0, lambda *call: calls.append(call))
    assert vae["psnr, lowest dB"] <= vae["low"] <= vae["psnr, mean dB"] <= vae["high"] and vae["count"] == 34
    assert calls == [(32, 34), (34, 34)]
    calls.clear()
    figures, _ = calibrate(judges, toy, 33, 0, lambda *call: calls.append(call))
    wrong = sum(row["count"] for row in figures["called right although drawn wrong"].values())
    assert 33 < wrong <= 66 and {total for _, total in calls} == {99 + wrong}
    assert [done for done, _ in calls][:6] == [32, 33, 65, 66, 98, 99] and calls[-1][0] == 99 + wrong

    drawn |= {"phrases": {"waving": "0/2", "kicking": "1/2"}, "phrases that fail": ["waving"]}
    facts = {"model": "toy@1", "precision": "fp32", "seconds to load": 1.5, "nano": drawn, "vae": vae}
    lines = list(_told({**facts, "judges": figures}))
    assert lines[0].startswith("toy@1 in fp32: loaded in 1.5 s, ") and max(map(len, lines)) < 250
    for told in ("8 prompts", "phrases by heading", "phrases by actor", "judges, called right although drawn wrong"):
        assert told in lines
    assert "phrases: 2, of which 1 were asked more than once and never right" in lines and "  waving: 0/2" in lines


TINY = Fit(8, 4, 1e-3)
TOY = replace(
    RECIPE, distinct_pictures=8, text=Fit(48, 24, 1e-3), vae=TINY, unet=TINY, vision=TINY, encoder=TINY, refine=TINY,
    judge=TINY,
)  # fmt: skip
SMALLER = replace(TOY, text_width=64, text_layers=1, vision_width=64, vision_layers=1, vae_channels=(8, 8, 8),
                  unet_channels=(16, 32, 32), unet_heads=(2, 4, 4))  # fmt: skip


def _train(run: Path, *parts: str, recipe: Recipe = SMALLER, start: Path | None = None) -> Path:
    return train_nano(recipe, run, parts or None, start=start, workers=0, report=lambda _line: None)


def test_every_part_can_be_trained_alone_and_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 20)
    brought = {
        "text": {"text_encoder", "tokenizer", "training.json"},
        "vision": {"image_encoder"},
        "vae": {"vae"},
        "encoder": {"action_encoder"},
        "judges": {"judges"},
        "unet": {"unet", "scheduler", "feature_extractor", "model_index.json", SPACE_FILE},
        "refine": set(),
    }
    assert set(brought) == set(PARTS)
    there: set[str] = set()
    weights: dict[str, bytes] = {}
    for part, files in brought.items():
        before, model = weights, _train(tmp_path / "run", part)
        weights = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*.safetensors")}
        changed = {name.split("/")[0] for name, content in before.items() if weights[name] != content}
        assert changed == ({"unet", "text_encoder", SPACE_FILE} if part == "refine" else set()), part
        there |= files | ({"feature_extractor"} if "model_index.json" in there else set())
        assert {path.name for path in model.iterdir()} == there, part
    pipeline = DiffusionPipeline.from_pretrained(model)
    assert pipeline.image_encoder is not None and pipeline.vae.dtype == pipeline.image_encoder.dtype == torch.float32
    assert load_action_encoder(model) is not None and Judges.load(model / "judges").actors

    refined = [
        _train(tmp_path / f"weight-{weight}", "refine", recipe=replace(SMALLER, pose_weight=weight), start=model)
        for weight in (0.0, 2.0)
    ]
    without, with_pose = ((folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in refined)
    assert without != with_pose, "the drawn pose must reach the UNet"

    further = _train(tmp_path / "further", "vision", start=model)
    assert {path.name for path in further.iterdir()} == there
    assert open_model(further).model_id.split("@")[1] == open_model(model).model_id.split("@")[1]


def test_the_distance_from_a_choice_of_poses_is_that_from_one_of_them() -> None:
    up, down, right = torch.tensor([[0.0, -1.0], [0.0, 1.0], [1.0, 0.0]])
    wanted = torch.stack([torch.stack([up, up]), torch.stack([down, down])])[None]  # one picture, two poses
    first, second = torch.stack([up, up])[None], torch.stack([down, down])[None]

    def of(*steps: torch.Tensor) -> float:
        return float(pose_distance(torch.stack(steps), wanted, slack=0.1))

    assert of(first, first) == of(second, second) == 0
    assert of(first, second) == pytest.approx(0.95)  # half of the steps are 2 away
    assert of(torch.stack([up, right])[None]) == pytest.approx((2**0.5 - 0.1) / 2, abs=1e-4)


def test_a_run_goes_on_with_its_own_recipe_only(tmp_path: Path, monkeypatch) -> None:
    _train(tmp_path / "run", "text")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"recipe\.guidance was 3\.0 and is 2\.0, recipe\.unet\.batch_size was 4"):
        _train(tmp_path / "run", recipe=replace(SMALLER, unet=Fit(8, 2, 1e-3), guidance=2.0))
    monkeypatch.setattr("twinact.nano.train.WORLD_VERSION", 1000)
    with pytest.raises(ConfigError, match=r"world_version was \d+ and is 1000"):
        _train(tmp_path / "run", "text")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_start_that_cannot_be_used_leaves_nothing(tmp_path: Path, model: Path) -> None:
    for start, error, told in (
        (tmp_path / "none", DataError, "is not a folder"),
        (model, ConfigError, "does not fit the recipe"),
    ):
        with pytest.raises(error, match=told):
            _train(tmp_path / "run", "unet", start=start)
    with pytest.raises(ConfigError, match="part 'vae' of the model to start from is kept"):
        _train(tmp_path / "run", "vae", start=model)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_importing_the_training_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", "import twinact.nano.train"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_whole_recipe_at_toy_size(tmp_path: Path) -> None:
    model = _train(tmp_path / "run", recipe=TOY)
    pipeline = DiffusionPipeline.from_pretrained(model)
    further = _train(tmp_path / "further", "unet", recipe=TOY, start=model)
    again = DiffusionPipeline.from_pretrained(further)
    assert {path.name for path in further.iterdir()} == {path.name for path in model.iterdir()}
    for kept in ("vae", "text_encoder", "image_encoder"):
        for before, after in zip(getattr(pipeline, kept).parameters(), getattr(again, kept).parameters(), strict=True):
            assert torch.equal(before, after), f"{kept} must stay as it was"
    assert not torch.equal(next(pipeline.unet.parameters()), next(again.unet.parameters()))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a robot kicking left", num_inference_steps=2, height=64, width=64).images[0].size == (64, 64)
