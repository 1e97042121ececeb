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

from fresh import start
from twinact.backbones import load, quiet
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import judges_dir, model_dir
from twinact.cli.world import _told
from twinact.errors import ConfigError
from twinact.jobs.models import open_model
from twinact.nano import pictures
from twinact.nano.calibrate import calibrate
from twinact.nano.data import (
    described,
    drawn_part,
    freely_posed,
    picture_batches,
    trained_part,
    worded,
)
from twinact.nano.encoder import train_encoder
from twinact.nano.evaluate import (
    KINDS,
    evaluate_between,
    evaluate_nano,
    evaluate_vae,
    measured_pairs,
    prompts,
)
from twinact.nano.fit import fit_module, schedule, visited_twice
from twinact.nano.pictures import Pictures
from twinact.nano.recipe import RECIPE, Fit, Recipe, changed
from twinact.nano.text import adopt, build_text_model, mixed, token_ids
from twinact.nano.tokenizer import build_tokenizer, train_tokenizer
from twinact.nano.unet import build_scheduler, build_unet
from twinact.nano.vae import PatchCodes
from twinact.phrases import load_phrases
from twinact.readers import load_action_encoder
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import EncoderConfig, LatentActionEncoder
from twinact.sheets import contact_sheet
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.world.draw import draw
from twinact.world.judges.judges import Judges, Verdict
from twinact.world.light import LIGHTS
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.pose import distance, features_pose, pose_features
from twinact.world.sampling import sample_free_pose
from twinact.world.skeleton import JOINT_NAMES
from twinact.world.splits import is_held_out_pose
from twinact.world.things import THINGS


@pytest.fixture(scope="module")
def toy(toy_nano: Path) -> Backbone:
    return load(toy_nano)


def test_every_word_of_the_phrases_is_one_token() -> None:
    tokenizer = build_tokenizer(32)
    words = {word for phrase in load_phrases() for word in phrase.text.split()}
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    assert tokenizer.decode(tokenizer("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"


@pytest.mark.slow
def test_tokenizer_is_the_same_in_every_process() -> None:
    # The text tower is trained in one process and used in another; ids that differ would silently swap words.
    code = "from twinact.nano.tokenizer import build_tokenizer as b; print(sorted(b(32).get_vocab().items()))"
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert outputs == {str(sorted(build_tokenizer(32).get_vocab().items())) + "\n"}


@pytest.mark.slow
def test_longest_captions_fit_the_context() -> None:
    tokenizer, part = build_tokenizer(RECIPE.max_tokens), trained_part(RECIPE)
    lengths = [len(tokenizer(described(RECIPE, part, i).caption).input_ids) for i in range(2000)]
    assert max(lengths) <= RECIPE.max_tokens


def test_pose_features_round_trip() -> None:
    for seed in range(20):
        pose = sample_free_pose(np.random.default_rng(seed))
        back = features_pose(pose_features(pose))
        assert np.allclose(back.as_array(), pose.as_array(), atol=1e-3)


@pytest.mark.slow
def test_picture_number_i_does_not_depend_on_batches_or_workers() -> None:
    process = start(_draw_with_workers)  # a process that forks must have no other threads, and this one has by now
    process.join(200)
    assert process.exitcode == 0


def _draw_with_workers() -> None:
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


@pytest.mark.slow
def test_pictures_of_a_step_do_not_depend_on_when_they_were_drawn(tmp_path: Path, monkeypatch) -> None:
    for name, value in {"_AT_ONCE": 8, "_FIRST": 8}.items():
        monkeypatch.setattr(pictures, name, value)
    recipe = replace(RECIPE, distinct_pictures=20)
    codes = PatchCodes(torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(16))
    tokenizer = build_tokenizer(RECIPE.max_tokens)

    def made(folder: str) -> Pictures:
        return Pictures(recipe, codes, tokenizer, tmp_path / folder, 0, torch.device("cpu"), lambda _line: None)

    one, other = made("one"), made("other")
    late = other.batch(5, 4)
    for step in range(6):
        batch = one.batch(step, 4)
    assert all(torch.equal(values, late[name]) for name, values in batch.items())
    one.batch(50, 4)  # needs all of them
    other.batch(50, 4)
    again = made("one")  # nothing is drawn twice
    assert one.drawn == again.drawn == 20 and torch.equal(again.batch(5, 4)["latents"], late["latents"])
    item = worded(recipe, drawn_part(recipe), 0, pictures.STREAM, pictures.CAPTIONS)
    pixels = torch.from_numpy(draw(item.scene, 128)).permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(
        torch.from_numpy(one._files["latents"][:1]).float(), codes.encode(pixels), atol=0.02, rtol=1e-2
    )


def test_an_encoder_goes_on_from_the_weights_it_is_given(tmp_path: Path) -> None:
    codes = PatchCodes(torch.zeros(16, 3, 4, 4), torch.zeros(16))
    recipe = replace(RECIPE, encoder_widths=(8, 8), encoder=Fit(2, 2, learning_rate=0.0))
    config = EncoderConfig(recipe.latent_channels, len(JOINT_NAMES), SEGMENTS, 8, 8)
    torch.manual_seed(5)
    before = LatentActionEncoder(config)

    def trained(recipe: Recipe) -> LatentActionEncoder:
        folder = tmp_path / str(recipe.encoder_widths)
        return train_encoder(recipe, codes, torch.device("cpu"), folder, 0, lambda _line: None, start=before)

    same, other = trained(recipe), trained(replace(recipe, encoder_widths=(8, 16)))
    assert all(torch.equal(values, same.state_dict()[name]) for name, values in before.state_dict().items())
    assert other.config.deep == 16  # another size begins anew


def test_pictures_that_cannot_be_drawn_end_the_training(tmp_path: Path, monkeypatch) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(pictures, "worded", broken)
    codes, tokenizer = PatchCodes(torch.zeros(16, 3, 4, 4), torch.zeros(16)), build_tokenizer(48)
    drawn = Pictures(RECIPE, codes, tokenizer, tmp_path, 0, torch.device("cpu"), lambda _line: None)
    with pytest.raises(RuntimeError, match="no ink"):
        drawn.batch(0, 4)


def test_mixed_texts_are_read_between_theirs() -> None:
    tokenizer = build_tokenizer(RECIPE.max_tokens)
    tower = build_text_model(replace(RECIPE, text_width=64, text_layers=1), tokenizer).eval()
    ids, second = (token_ids(tokenizer, [f"a robot kicking {side}"] * 3) for side in ("left", "right"))
    share = torch.tensor([0.0, 0.5, 1.0])
    with torch.no_grad():
        with mixed(tower, second, share):
            read = tower(input_ids=ids).last_hidden_state
        plain, other = (tower(input_ids=values).last_hidden_state for values in (ids, second))
    torch.testing.assert_close(read[0], plain[0])
    torch.testing.assert_close(read[2], other[2])
    assert not torch.allclose(read[1], plain[1], atol=1e-3) and not torch.allclose(read[1], other[1], atol=1e-3)


def test_a_text_tower_keeps_its_words_when_it_learns_more(tmp_path: Path) -> None:
    recipe = replace(RECIPE, text_width=64, text_layers=1)
    few, many = train_tokenizer({"a", "robot"}, 16), train_tokenizer({"a", "robot", "aardvark"}, 24)
    before = build_text_model(replace(recipe, max_tokens=16), few)
    after = build_text_model(replace(recipe, max_tokens=24, seed=1), many)
    adopt(after, many, before, few)
    for word in ("a", "robot"):
        (old,), (new,) = (tokenizer(word, add_special_tokens=False).input_ids for tokenizer in (few, many))
        assert torch.equal(before.get_input_embeddings().weight[old], after.get_input_embeddings().weight[new])
    ids, ids_after = token_ids(few, ["a robot"]), token_ids(many, ["a robot"])
    torch.testing.assert_close(
        before(input_ids=ids).last_hidden_state[:, :-1], after(input_ids=ids_after).last_hidden_state[:, :-1]
    )


def test_numbers_of_the_recipe_can_be_changed_by_name() -> None:
    recipe = changed(RECIPE, ["unet.minutes=8", "unet.batch_size=384", "distinct_pictures=9"])
    assert (recipe.unet.minutes, recipe.unet.batch_size, recipe.distinct_pictures) == (8.0, 384, 9)
    assert replace(recipe, unet=RECIPE.unet, distinct_pictures=RECIPE.distinct_pictures) == RECIPE


@pytest.mark.slow
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


@pytest.mark.slow
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
    timed = replace(fit, minutes=2.0)
    assert schedule(500, timed, 30) == pytest.approx(0.5) and schedule(500, timed, 90) == pytest.approx(0.25)
    assert schedule(500, timed, 121) == 0


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


@pytest.mark.slow
def test_a_way_between_phrases_is_told_with_five_points(toy: Backbone, toy_nano: Path) -> None:
    space = ActionSpace.load(toy_nano / SPACE_FILE)
    facts = evaluate_between(toy, space, Judges().eval(), measured_pairs(space, 1, 0), 0, steps=1)
    assert facts["monotone"]["count"] == 1 and len(facts["ways"][0]["advance"]) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_evaluation_adds_up(toy: Backbone) -> None:
    judges = Judges().eval()
    drawn, pictures = evaluate_nano(toy, judges, 8, 0, steps=2)
    asked = [prompt for kind in KINDS for prompt in prompts(kind, 8, 0)]
    assert [drawn[kind]["count"] for kind in KINDS] == [8, 8, 8]
    assert [drawn[what]["count"] for what in ("actor", "place", "things", "light")] == [24] * 4
    assert {len(prompt.phrases) for prompt in asked} == {1, 2, 3, 4}
    assert set(drawn["unsaid"]) == {*RECIPE.places, *THINGS, *LIGHTS} and min(drawn["unsaid"].values()) >= 0
    named = sum(len(prompt.phrases) for prompt in asked if prompt.kind != "limb by limb")
    for table in ("phrases by heading", "phrases by actor"):
        assert sum(row["count"] for row in drawn[table].values()) == named
    assert sum(int(row.split("/")[1]) for row in drawn["phrases"].values()) == named
    assert all(prompt.action_right(Verdict(prompt.scene.pose, "fox", "park")) for prompt in asked)
    size = toy.image_size
    for prompt, pair in zip(asked, pictures, strict=True):
        assert pair.size == (2 * size, size)
        assert np.array_equal(np.asarray(pair)[:, :size], draw(prompt.scene, size))
    assert contact_sheet(pictures, columns=4).size == (4 * 2 * size, 6 * size)

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
    facts = {"model": "toy@1", "precision": "fp32", "seconds to load": 1.5, "nano": drawn, "vae": vae, "poses": {}}
    lines = list(_told({**facts, "judges": figures}))
    assert lines[0].startswith("toy@1 in fp32: loaded in 1.5 s, ") and max(map(len, lines)) < 250
    for told in (
        "8 prompts of each kind",
        "phrases by heading",
        "phrases by actor",
        "judges, called right although drawn wrong",
    ):
        assert told in lines
    assert "phrases: 2, of which 1 were asked more than once and never right" in lines and "  waving: 0/2" in lines
