"""Phrases, their meanings, captions, and what is held out."""

import hashlib
import json
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from twinact import PLACEHOLDER
from twinact.errors import DataError
from twinact.nano import data, encoder, judges, pictures, vae, wishes
from twinact.nano import text as text_tower
from twinact.nano.between import between_pairs
from twinact.nano.data import described, drawn_part, freely_posed, trained_part, worded
from twinact.nano.recipe import RECIPE
from twinact.nano.tokenizer import build_tokenizer
from twinact.phrases import load_phrases
from twinact.phrases.wording import follows_directly
from twinact.world import sampling
from twinact.world.bodies import ACTORS, HELD_OUT_ACTORS
from twinact.world.captions import GENERIC, caption, with_article
from twinact.world.light import LIGHTS
from twinact.world.meanings import meanings, phrase_holds
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose, distance, features_pose
from twinact.world.sampling import Part, phrases_held, possible_poses, sample_described, sample_free_pose, sample_posed
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, DEV_ACTIONS, is_held_out_pose, shared_by, write_exemplars
from twinact.world.things import THINGS

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
        assert item.scene.actor in item.caption or any(word in item.caption for word in GENERIC)
        for phrase in item.phrases:
            assert phrase in item.caption
            assert any(meaning.holds(item.scene.pose) for meaning in meanings()[phrase]), phrase
        pose = item.scene.pose.as_array()
        assert all(dof.low <= value <= dof.high for dof, value in zip(DOFS.values(), pose, strict=True))


@pytest.mark.slow
def test_captions_leave_unsaid_what_people_do() -> None:
    items = [sample_described(np.random.default_rng([6, index]), Part()) for index in range(1500)]
    worn = [(thing, item) for item in items for thing in item.scene.things]
    said = {
        "actor": np.mean([item.scene.actor in item.caption for item in items]),
        "place": np.mean([PLACES[item.scene.place].text in item.caption for item in items]),
        "things": np.mean([any(words in item.caption for words in THINGS[thing].words) for thing, item in worn]),
        "light": np.mean([any(w in item.caption for w in LIGHTS[item.scene.light].words) for item in items]),
    }
    for name, share in {"actor": 0.85, "place": 0.7, "things": 0.4, "light": 0.4}.items():
        assert said[name] == pytest.approx(share, abs=0.04), name
    assert {len(item.phrases) for item in items} == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_free_poses_are_described_by_phrases_that_hold() -> None:
    posed = [sample_posed(np.random.default_rng([7, index]), drawn_part(RECIPE).phrases) for index in range(300)]
    free = [one for one in posed if one.way == "free"]
    assert 60 < len(free) < 140
    for one in free:
        assert all(phrase_holds(phrase, one.pose) for phrase in one.phrases)
        assert len(phrases_held(one.pose, drawn_part(RECIPE).phrases)) >= len(one.phrases)
    rng = np.random.default_rng(0)
    assert {len(one.said(rng)) for one in free} == {0, 1, 2, 3, 4}


def test_captions_vary() -> None:
    rng = np.random.default_rng(0)
    wordings = {caption("robot", ("arms crossed", "kicking left"), "in a park", rng) for _ in range(200)}
    assert len(wordings) > 20
    told = {caption("someone", (), None, rng, things=["in a top hat"], light="at night") for _ in range(200)}
    assert all("someone in a top hat" in text and "at night" in text and "a someone" not in text for text in told)
    assert follows_directly("kicking left") and follows_directly("in a sumo stance")
    assert follows_directly("disco dancing left") and not follows_directly("arms crossed")


def test_another_language_or_split_is_another_version_of_the_world() -> None:
    """What fails here has changed what models were trained on: raise `WORLD_VERSION`, and pin the new hash to it."""
    told = {phrase: [dict(way.targets) for way in ways] for phrase, ways in meanings().items()}
    held_out = [CUSTOM_ACTIONS, DEV_ACTIONS, HELD_OUT_ACTORS]
    digest = hashlib.sha256(repr((told, held_out)).encode()).hexdigest()[:12]
    assert (WORLD_VERSION, digest) == (4, "c604018e9cea")


def test_settings_are_chosen_on_other_poses_than_the_custom_actions() -> None:
    assert not DEV_ACTIONS.keys() & CUSTOM_ACTIONS.keys()
    for dev in DEV_ACTIONS.values():
        pose = Pose().with_values({name: target.value for name, target in dev.pose.targets.items()})
        assert not is_held_out_pose(pose), dev.name


def test_custom_actions_are_sixteen_of_each_kind_and_held_out() -> None:
    kinds = [action.kind for action in CUSTOM_ACTIONS.values()]
    assert len(DEV_ACTIONS) == 16 and len(kinds) == 48
    assert all(kinds.count(kind) == 16 for kind in ("combination", "between", "free"))
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


@pytest.mark.slow
@pytest.mark.parametrize("module", [vae, pictures, encoder], ids=lambda module: module.__name__.rpartition(".")[2])
def test_no_trained_part_sees_a_custom_action_or_a_held_out_actor(module: ModuleType) -> None:
    part = drawn_part(RECIPE) if module is pictures else trained_part(RECIPE)
    for index in range(300):
        for scene in (described(RECIPE, part, index, module.STREAM).scene, worded(RECIPE, part, index, 3, 1).scene):
            assert not is_held_out_pose(scene.pose)
            assert scene.actor in RECIPE.actors and scene.place in RECIPE.places


def custom_pose(name: str) -> Pose:
    """The pose of a custom action, the rest at ease."""
    return Pose().with_values({n: t.value for n, t in CUSTOM_ACTIONS[name].pose.targets.items()})


def test_a_custom_action_that_is_drawn_by_chance_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [custom_pose("comet"), custom_pose("signpost"), Pose()]
    with monkeypatch.context() as patched:
        patched.setattr(sampling, "_WAYS", (0.0, 0.0, 1.0))
        patched.setattr(sampling, "sample_free_limbs", lambda rng: shown.pop(0))
        assert sample_posed(np.random.default_rng(0), ("squatting",)).pose == Pose() and not shown

    freely = [custom_pose("comet"), Pose()]
    monkeypatch.setattr(data, "sample_free_pose", lambda rng: freely.pop(0))
    assert freely_posed(RECIPE, trained_part(RECIPE), 1, 5).scene.pose == Pose() and not freely


@pytest.mark.slow
def test_a_custom_action_between_two_phrases_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    part, offered = drawn_part(RECIPE), []

    def offer(pose: Pose) -> bool:
        offered.append(pose)
        return True

    between = [worded(RECIPE, part, index, 9, 1) for index in range(60)]
    monkeypatch.setattr(data, "is_held_out_pose", offer)
    refused = [worded(RECIPE, part, index, 9, 1) for index in range(60)]
    assert offered and any(item.share for item in between) and not any(item.share for item in refused)
    assert all(first == second for item in refused for first, second in item.captions)


@pytest.mark.slow
def test_texts_that_are_mixed_have_the_same_tokens_but_for_the_phrases() -> None:
    tokenizer, part, apart = build_tokenizer(RECIPE.max_tokens), drawn_part(RECIPE), 0
    measured = {frozenset(pair) for pair in between_pairs(part.phrases, measured=True)}
    for index in range(300):
        item = worded(RECIPE, part, index, 9, 2)
        for first, second in item.captions:
            assert len(tokenizer(first).input_ids) == len(tokenizer(second).input_ids) <= RECIPE.max_tokens - 7
            apart += first != second
    assert apart > 60
    trained = {frozenset((a, b)) for a, partners in data._partners(part.phrases).items() for b in partners}
    assert len(measured) > 500 and not trained & measured


def test_a_mixed_caption_shows_the_pose_between_its_phrases() -> None:
    part, checked = drawn_part(RECIPE), 0
    for index in range(200):
        item = worded(RECIPE, part, index, 9, 1)
        (first, second), (phrases,) = item.captions[0], item.phrases[:1]
        if first == second or len(phrases) != 1:
            continue
        other = next(p for p in data._partners(part.phrases)[phrases[0]] if first.replace(phrases[0], p) == second)
        (start,), (end,) = meanings()[phrases[0]], meanings()[other]
        for name, target in start.targets.items():
            middle = (1 - item.share) * target.value + item.share * end.targets[name].value
            assert getattr(item.scene.pose, name) == pytest.approx(middle)
        checked += 1
    assert checked > 10


@pytest.mark.slow
def test_the_text_tower_reads_of_no_custom_action_or_held_out_actor() -> None:
    captions = text_tower._Captions(RECIPE, trained_part(RECIPE), build_tokenizer(RECIPE.max_tokens))
    seen = captions[0]
    assert len(seen["pose"]) == 384
    assert not any(is_held_out_pose(features_pose(row)) for row in seen["pose"].numpy())
    assert seen["actor"].max() < len(RECIPE.actors) and seen["place"].max() < len(RECIPE.places)


def test_streams_of_the_trained_parts_and_of_the_judges_differ() -> None:
    streams = [module.STREAM for module in (vae, text_tower, pictures, wishes, encoder, judges)]
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


def test_exemplars_may_share_what_no_caption_says(tmp_path) -> None:
    for action in CUSTOM_ACTIONS.values():
        shared = shared_by(action, RECIPE.places)
        assert shared == shared_by(action, RECIPE.places) and shared.light != "day"
    write_exemplars(action, tmp_path, 64, RECIPE.places, shared)
    captions, truth = (json.loads((tmp_path / name).read_text()) for name in ("captions.json", "truth.json"))
    assert set(captions.values()) == {f"{with_article(actor)} {PLACEHOLDER}" for actor in action.actors}
    assert truth["unsaid"] == {"place": shared.place, "thing": shared.thing, "light": shared.light}
    for seen in truth["pictures"].values():
        assert (seen["place"], seen["things"], seen["light"]) == (shared.place, [shared.thing], shared.light)
