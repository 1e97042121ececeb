"""Phrases, their meanings, captions, and what is held out."""

import hashlib
import json
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from twinact import PLACEHOLDER
from twinact.bench import judges
from twinact.errors import DataError
from twinact.nano import encoder, unet, vae, vision
from twinact.nano import text as text_tower
from twinact.nano.data import described, drawn_part, features_pose, trained_part
from twinact.nano.recipe import RECIPE
from twinact.nano.tokenizer import build_tokenizer
from twinact.phrases import load_phrases
from twinact.world.bodies import ACTORS, HELD_OUT_ACTORS
from twinact.world.captions import caption, follows_directly
from twinact.world.meanings import meanings, phrase_holds
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose, distance
from twinact.world.sampling import Part, possible_poses, sample_described, sample_free_pose
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, DEV_ACTIONS, is_held_out_pose, write_exemplars

FUNCTION_WORDS = frozenset(
    "a an the of in on at to with over and into from for behind under between against like up down out off by around "
    "across upon through".split()
)

# Whom and what other models would draw instead of the pose.
LIKENESSES = frozenset(
    "airplane bird cactus chicken cossack crane dog egyptian flamingo goalpost gorilla guitar horse pharaoh pistol "
    "starfish superman teapot tightrope wave wings".split()
)


def test_832_phrases_with_208_under_each_heading() -> None:
    phrases = load_phrases()
    assert len({p.text for p in phrases}) == 832
    for heading in ("Head", "Hand", "Foot", "Body"):
        assert sum(p.heading == heading for p in phrases) == 208


def test_every_phrase_has_a_meaning_and_no_meaning_lacks_a_phrase() -> None:
    assert set(meanings()) == {p.text for p in load_phrases()}
    assert all(alternative.targets for alternatives in meanings().values() for alternative in alternatives)


def test_phrases_are_short_and_name_no_actor_or_place() -> None:
    places = [place.text for place in PLACES.values()]
    named = {word for text in (*ACTORS, *PLACES, *places) for word in text.split()} - FUNCTION_WORDS
    assert {"robot", "moon"} <= named
    for text in (phrase.text for phrase in load_phrases()):
        words = text.split()
        assert text == text.lower() and text.replace(" ", "").isalpha(), text
        assert len(words) <= 6 and sum(word not in FUNCTION_WORDS for word in words) <= 3, text
        assert not named & set(words), text
        assert not LIKENESSES & set(words), text


def test_sided_phrases_mean_mirrored_poses() -> None:
    table = meanings()
    swapped = {"left": "right", "right": "left"}
    checked = 0
    for phrase, alternatives in table.items():
        partner = " ".join(swapped.get(word, word) for word in phrase.split())
        if partner == phrase or partner not in table or len(alternatives) > 1:
            continue
        pose = Pose().with_values({n: t.value for n, t in alternatives[0].targets.items()})
        assert table[partner][0].holds(pose.mirrored()), f"{phrase} and {partner} are no mirror images"
        checked += 1
    assert checked > 200


def test_partial_pose_left_is_not_right_and_rotation_wraps() -> None:
    left = PartialPose.parse("l_shoulder=175")
    assert left.holds(Pose(l_shoulder=165)) and not left.holds(Pose(r_shoulder=175))
    upside_down = PartialPose.parse("root_rotation=180±10")
    assert upside_down.holds(Pose(root_rotation=-175)) and not upside_down.holds(Pose(root_rotation=165))
    assert distance("root_rotation", 170, -170) == pytest.approx(20)


@pytest.mark.parametrize("text", ["l_wing=3", "l_shoulder=400", "l_shoulder=1 l_shoulder=2"])
def test_bad_pose_terms_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        PartialPose.parse(text)


def test_mirroring_twice_is_the_same_pose() -> None:
    pose = sample_free_pose(np.random.default_rng(3))
    assert pose.mirrored().mirrored() == pose


def test_sampled_scenes_are_deterministic_and_show_what_the_caption_says() -> None:
    part = Part()
    for index in range(300):
        item = sample_described(np.random.default_rng([5, index]), part)
        assert item == sample_described(np.random.default_rng([5, index]), part)
        assert item.scene.actor in item.caption
        for phrase in item.phrases:
            assert phrase in item.caption
            assert any(meaning.holds(item.scene.pose) for meaning in meanings()[phrase]), phrase
        pose = item.scene.pose.as_array()
        assert all(dof.low <= value <= dof.high for dof, value in zip(DOFS.values(), pose, strict=True))


def test_captions_vary_and_leave_the_place_out_sometimes() -> None:
    rng = np.random.default_rng(0)
    wordings = {caption("robot", ("arms crossed", "kicking left"), "in a park", rng) for _ in range(200)}
    assert len(wordings) > 20
    assert follows_directly("kicking left") and follows_directly("in a sumo stance")
    assert follows_directly("disco dancing left") and not follows_directly("arms crossed")


def test_another_language_or_split_is_another_version_of_the_world() -> None:
    """What fails here has changed what models were trained on: raise `WORLD_VERSION`, and pin the new hash to it."""
    told = {phrase: [dict(way.targets) for way in ways] for phrase, ways in meanings().items()}
    held_out = [CUSTOM_ACTIONS, DEV_ACTIONS, HELD_OUT_ACTORS]
    digest = hashlib.sha256(repr((told, held_out)).encode()).hexdigest()[:12]
    assert (WORLD_VERSION, digest) == (3, "20d1dc82c428")


def test_settings_are_chosen_on_other_poses_than_the_custom_actions() -> None:
    assert not DEV_ACTIONS.keys() & CUSTOM_ACTIONS.keys()
    for dev in DEV_ACTIONS.values():
        pose = Pose().with_values({name: target.value for name, target in dev.pose.targets.items()})
        assert not is_held_out_pose(pose), dev.name


def test_custom_actions_are_eight_of_each_kind_and_held_out() -> None:
    kinds = [action.kind for action in CUSTOM_ACTIONS.values()]
    assert len(kinds) == 24 and all(kinds.count(kind) == 8 for kind in ("combination", "between", "free"))
    for action in CUSTOM_ACTIONS.values():
        pose = Pose().with_values({n: t.value for n, t in action.pose.targets.items()})
        assert is_held_out_pose(pose) and action.pose.holds(pose)
        assert 1 <= len(action.actors) <= 2 and set(action.actors) <= set(RECIPE.actors)


def test_phrases_that_leave_a_choice_mean_several_poses() -> None:
    rng = np.random.default_rng(0)
    right, left = possible_poses(["scratching the head", "right knee slightly up"], rng)
    assert right.r_elbow == left.l_elbow == 110 and abs(left.r_elbow) < 10 and right.r_hip == left.r_hip
    for pose in (right, left):
        assert phrase_holds("scratching the head", pose) and phrase_holds("right knee slightly up", pose)
    assert len(possible_poses([], rng)) == 1
    # Each is known, and both together are the custom action flex-lunge.
    assert possible_poses(["flexing both arms"], rng) and possible_poses(["lunging left"], rng)
    assert possible_poses(["flexing both arms", "lunging left"], rng) == []


def test_no_phrase_alone_means_a_custom_action() -> None:
    for alternatives in meanings().values():
        for meaning in alternatives:
            pose = Pose().with_values({n: t.value for n, t in meaning.targets.items()})
            assert not is_held_out_pose(pose), meaning


def test_nothing_sampled_for_training_shows_a_custom_action() -> None:
    part = Part()
    columns = [DOF_NAMES.index(name) for name in next(iter(CUSTOM_ACTIONS.values())).pose.targets]
    assert len(columns) == 11
    for index in range(500):
        item = sample_described(np.random.default_rng([8, index]), part)
        assert not any(action.pose.holds(item.scene.pose) for action in CUSTOM_ACTIONS.values())
        assert item.scene.actor not in HELD_OUT_ACTORS


@pytest.mark.parametrize("module", [vae, unet, vision, encoder], ids=lambda module: module.__name__.rpartition(".")[2])
def test_no_trained_part_sees_a_custom_action_or_a_held_out_actor(module: ModuleType) -> None:
    part = drawn_part(RECIPE) if module is unet else trained_part(RECIPE)
    for index in range(300):
        scene = described(RECIPE, part, index, module.STREAM).scene
        assert not is_held_out_pose(scene.pose)
        assert scene.actor in RECIPE.actors and scene.place in RECIPE.places


def test_the_text_tower_reads_of_no_custom_action_or_held_out_actor() -> None:
    captions = text_tower._Captions(RECIPE, trained_part(RECIPE), build_tokenizer(RECIPE.max_tokens))
    seen = captions[0]
    assert len(seen["pose"]) == 384
    assert not any(is_held_out_pose(features_pose(row)) for row in seen["pose"].numpy())
    assert seen["actor"].max() < len(RECIPE.actors) and seen["place"].max() < len(RECIPE.places)


def test_streams_of_the_trained_parts_and_of_the_judges_differ() -> None:
    streams = [module.STREAM for module in (vae, text_tower, unet, vision, encoder, judges)]
    assert len(set(streams)) == len(streams)


def test_nano_is_trained_on_known_actors_only() -> None:
    assert not set(RECIPE.actors) & set(HELD_OUT_ACTORS)
    assert set(RECIPE.actors) <= set(ACTORS) and set(RECIPE.places) <= set(PLACES)
    assert len(HELD_OUT_ACTORS) == 6 and len(ACTORS) >= 28 and len(PLACES) >= 16


def test_exemplar_folder_holds_pictures_captions_and_truth(tmp_path) -> None:
    action = CUSTOM_ACTIONS["comet"]
    write_exemplars(action, tmp_path, 64, RECIPE.places)
    captions = json.loads((tmp_path / "captions.json").read_text())
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert len(captions) == 5 and set(captions) == {p.name for p in tmp_path.glob("*.png")} == set(truth["pictures"])
    for name, text in captions.items():
        seen = truth["pictures"][name]
        assert PLACEHOLDER in text and seen["actor"] in action.actors and PLACES[seen["place"]].text in text
        assert action.pose.holds(Pose(**seen["pose"]))
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (64, 64)
