"""Sliders, parts of several actions and explanations, on the space and the poses of the shipped model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands import done, invoke, refused
from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import model_dir
from twinact.data.captions import unsaid
from twinact.errors import CheckpointError, ConfigError
from twinact.intent import Meant, intended_pose
from twinact.intent.prompts import other_prompts
from twinact.jobs.models import default_space, open_model
from twinact.jobs.resources import choose_resources
from twinact.lora import fresh
from twinact.readers.body import SEGMENT_NAMES
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.space.clauses import Point
from twinact.space.limb_words import LimbWords
from twinact.space.limbs import (
    LEFT_ARM,
    LEFT_LEG,
    LIMBS,
    RIGHT_ARM,
    RIGHT_LEG,
    SEGMENTS,
    TRUNK,
    from_torso,
    joint_angles,
    on_torso,
    turned,
)
from twinact.space.sliders import SLIDERS, Posed
from twinact.training import refine
from twinact.training.refine import refined


@pytest.fixture(scope="module")
def space() -> ActionSpace:
    return ActionSpace.load(model_dir() / SPACE_FILE)


@pytest.fixture(scope="module")
def words(space: ActionSpace) -> LimbWords:
    return LimbWords(space)


def saying(space: ActionSpace, *phrases: str, name: str = "leap") -> Action:
    points, masks = zip(*(space.project_phrase(text) for text in phrases), strict=True)
    meta = {"captions": ["a robot <act>", "someone <act> in a park"], "exemplars": ["a", "b"]}
    return Action.from_coefficients(name, space, torch.stack(points), mask=torch.stack(masks), meta=meta)


def angles(action: Action, words: LimbWords) -> dict[str, list[float]]:
    """The joint angles expected of an action's clauses."""
    pose = words.pose_of(words.phrases_of(action.whole_point(words.space)))
    return {limb.name: joint_angles(pose, limb).tolist() for limb in LIMBS}


def test_limbs_are_made_of_the_segments_that_readers_name() -> None:
    assert len(SEGMENT_NAMES) == SEGMENTS
    for limb in (LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG):
        side, part = limb.name.split()
        named = ("upper arm", "forearm") if part == "arm" else ("thigh", "lower leg", "foot")
        assert [SEGMENT_NAMES[segment] for segment in limb.segments] == [f"{side} {one}" for one in named]
        assert limb.chain == limb.segments[:2]
    assert [SEGMENT_NAMES[segment] for segment in TRUNK.segments] == ["torso", "line of the hips"]


def test_joint_angles_are_those_of_the_body_and_not_of_the_picture(words: LimbWords) -> None:
    rest = words.poses.rest / words.poses.rest.norm(dim=1, keepdim=True)
    raised = turned(turned(rest, LEFT_ARM, torch.tensor([90.0, 90.0])), RIGHT_ARM, torch.tensor([90.0, 90.0]))
    for forearm in (5, 7):
        torch.testing.assert_close(raised[forearm], torch.tensor([0.0, -1.0]), atol=1e-5, rtol=0)  # both point up
    assert raised[4, 0] > 0.99 and raised[6, 0] < -0.99  # the left arm to the picture's right
    leaning = turned(raised, TRUNK, torch.tensor([30.0]))
    assert leaning[0, 0] > 0.49  # to the actor's left
    shown = on_torso(leaning)
    assert shown[4, 1] > 0.49  # the level left arm went down with the lean
    torch.testing.assert_close(from_torso(shown), leaning, atol=1e-5, rtol=0)
    for limb, wanted in ((LEFT_ARM, [90.0, 90.0]), (RIGHT_ARM, [90.0, 90.0]), (TRUNK, [30.0])):
        torch.testing.assert_close(joint_angles(from_torso(shown), limb), torch.tensor(wanted), atol=1e-3, rtol=0)
    kicking = turned(rest, RIGHT_LEG, torch.tensor([90.0, 0.0]))
    assert kicking[13, 1] < -0.9  # the foot goes along and points up


@pytest.mark.parametrize("name", SLIDERS)
def test_a_slider_turns_its_limbs_and_no_others(space: ActionSpace, words: LimbWords, name: str) -> None:
    action = saying(space, "flexing both biceps", "lunging right")
    slider, before = SLIDERS[name], angles(action, words)
    for amount, end in ((-1.0, slider.low), (1.0, slider.high)):
        moved = action.slid(space, name, amount)
        assert moved.meta["history"][-1]["off"] < 8
        after = angles(moved, words)
        for limb in LIMBS:
            wanted = list(end) if limb in slider.limbs else before[limb.name]
            assert after[limb.name] == pytest.approx(wanted, abs=25), limb.name


def test_what_a_slider_does_not_move_is_said_as_before(space: ActionSpace) -> None:
    action = saying(space, "left arm raised", "lunging right")
    moved = action.slid(space, "right arm up", 1.0, "higher")
    assert moved.name == "higher" and action.coefficients is not None and moved.coefficients is not None
    torch.testing.assert_close(moved.coefficients[:2], action.coefficients)
    assert torch.equal(action.slid(space, "arms up", 0.0).coefficients, action.coefficients)


def test_a_slider_starts_where_the_exemplars_hold_the_limb(space: ActionSpace) -> None:
    action = saying(space, "left arm raised")
    words = LimbWords(space)
    level = on_torso(turned(words.poses.rest, LEFT_ARM, torch.tensor([90.0, 0.0])))
    pose = {"directions": level.tolist(), "weights": [1.0] * SEGMENTS}
    shown = replace(action, meta={"pose": pose})
    assert angles(action.slid(space, "left arm up", 0.1), words)["left arm"][0] > 160
    half = shown.slid(space, "left arm up", 0.5)
    remembered = from_torso(torch.tensor(half.meta["pose"]["directions"]))
    assert float(joint_angles(remembered, LEFT_ARM)[0]) == pytest.approx((90 + 173) / 2, abs=0.1)
    assert "pose" not in half.adjusted(space, (0, 0), 1.0).meta  # it shows another one
    with pytest.raises(CheckpointError, match="pose of another body"):
        replace(action, meta={"pose": {"directions": [[0.0, 1.0]], "weights": [1.0]}}).slid(space, "arms up", 1.0)


def test_parts_of_two_actions(space: ActionSpace, words: LimbWords) -> None:
    wave, kick = (
        saying(space, "left arm raised", "squatting", name="wave"),
        saying(space, "arms akimbo", "kicking left"),
    )
    both = wave.with_parts(space, [(kick, ["legs"])], "both")
    assert wave.coefficients is not None and kick.coefficients is not None and both.coefficients is not None
    torch.testing.assert_close(both.coefficients, torch.stack([wave.coefficients[0], kick.coefficients[1]]))
    assert both.meta["history"][-1]["parts"]["leap"] == ["left leg", "right leg"]
    torn = wave.with_parts(space, [(saying(space, "flexing both biceps"), ["right arm"])])
    after = angles(torn, words)
    assert after["left arm"][0] > 160 and after["right arm"] == pytest.approx([91, 95], abs=20)


def test_what_cannot_be_is_refused(space: ActionSpace) -> None:
    action = saying(space, "left arm raised")
    for name, amount, told in (
        ("left arms up", 1.0, "left arm up"),
        ("arms up", 1.5, "amount 1.5"),
        ("arms up", float("nan"), "amount"),
    ):
        with pytest.raises(ConfigError, match=told):
            action.slid(space, name, amount)
    with pytest.raises(ConfigError, match="holds no poses"):
        action.slid(replace(space, poses=None), "arms up", 1.0)
    assert space.poses is not None
    anyhow = torch.randn(space.poses.directions.shape, generator=torch.Generator().manual_seed(0))
    all_move = replace(space.poses, directions=anyhow)
    with pytest.raises(ConfigError, match=r"no phrase of this space is about the .* alone"):
        action.slid(replace(space, poses=all_move), "left arm up", 1.0)
    with pytest.raises(ConfigError, match="part 'wings'"):
        action.with_parts(space, [(action, ["wings"])])
    with pytest.raises(ConfigError, match="name every limb once"):
        action.with_parts(space, [(action, ["arms", "left arm"])])
    with pytest.raises(ConfigError, match="no words left"):
        action.with_parts(space, [(saying(space, "kicking left"), ["arms"])])
    heavy = replace(action, lora={"unet.x.lora_A.weight": torch.ones(1, 1)})
    with pytest.raises(ConfigError, match="carries a LoRA"):
        action.with_parts(space, [(heavy, ["arms"])])


def test_captions_that_leave_something_unsaid() -> None:
    captions = ["a photo of someone <act>", "a robot <act>", "a fox <act> in a park", "in a park, a person <act>."]
    assert unsaid(captions) == {"actor": 2, "place": 2}


def test_words_that_the_model_takes_otherwise_give_way(space: ActionSpace, words: LimbWords) -> None:
    action = saying(space, "flexing both biceps", "right leg straight")
    likeliest = action.slid(space, "left leg up", 1.0)
    before, after = (set(words.phrases_of(one.whole_point(space))) for one in (action, likeliest))
    (wrong,) = after - before
    asked: list[int] = []

    def ask(points: Sequence[Point]) -> Tensor:
        """As expected, but nobody moves for the likeliest words."""
        asked.append(len(points))
        said = [words.phrases_of(point) for point in points]
        return torch.stack([on_torso(words.pose_of([i for i in one if i != wrong])) for one in said])[:, None]

    moved = action.slid(space, "left leg up", 1.0, ask=ask)
    assert wrong not in words.phrases_of(moved.whole_point(space))
    assert angles(moved, words)["left leg"][0] == pytest.approx(90, abs=15)
    assert moved.meta["history"][-1]["off"] < 10 and asked == [6, 1]
    asked.clear()
    assert torch.equal(action.slid(space, "left leg up", 0.0, ask=ask).vectors[0], action.vectors[0]) and not asked
    other = saying(space, "arms akimbo", "kicking left")
    whole = action.with_parts(space, [(other, ["legs"])], ask=ask)  # of whole clauses: nothing is said anew
    assert torch.equal(whole.vectors[0], action.with_parts(space, [(other, ["legs"])]).vectors[0]) and not asked


@pytest.mark.slow  # about 60 passes of nano
def test_the_command_asks_the_model(space: ActionSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space.save("phrases.space.safetensors")
    action = saying(space, "left arm raised", "squatting", name="wave")
    action.save("wave.action.safetensors")
    command = ("adjust", "wave.action.safetensors", "--slider", "right arm up", "--amount", "0.5")
    assert "opening model nano" in done(*command, "--out", "higher").stderr
    nano = open_model("nano", choose_resources("nano").precision)
    same = action.slid(space, "right arm up", 0.5, "higher", Meant.of(nano, space))
    assert torch.equal(Action.load("higher.action.safetensors").vectors[0], same.vectors[0])


@pytest.mark.slow
def test_the_commands(space: ActionSpace, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space.save("phrases.space.safetensors")
    saying(space, "left arm raised", "squatting", name="wave").save("wave.action.safetensors")
    saying(space, "arms akimbo", "kicking left", name="kick").save("kick.action.safetensors")
    assert len(done("adjust", "--list").stdout.splitlines()) == len(SLIDERS)
    wave = ("adjust", "wave.action.safetensors", "--model", model)
    result = done(*wave, "--slider", "right arm up", "--amount", "3", "--out", "higher")
    assert "1 is used instead of 3" in result.stderr and "is not the model of action 'wave'" in result.stderr
    assert Action.load("higher.action.safetensors").meta["history"][-1]["slid"] == "right arm up"
    files = ("wave.action.safetensors", "kick.action.safetensors")
    done("combine", *files, "--parts", "arms of wave, legs of kick", "--out", "both", "--model", model)
    told = done("explain", "both.action.safetensors").stdout
    assert "clause 1: left arm raised  moves left arm" in told and "moves left leg" in told
    assert "1 of 2 captions leave the actor unsaid" in told and "changed: from wave" in told
    facts = json.loads(done("explain", "both.action.safetensors", "--json").stdout)
    assert [one["phrase"] for one in facts["clauses"]] == ["left arm raised", "kicking left"]
    assert facts["schema_version"] == 1 and facts["unsaid"] == {"actor": 1, "place": 1}
    for parts in ("arms", "arms of nobody", "wings of wave"):
        refused("combine", *files, "--parts", parts, "--out", "new", code=2)
    refused("combine", *files, "--parts", "arms of wave", "--weights", "1,1", "--out", "new", code=2)
    refused("adjust", files[0], "--slider", "ears up", "--amount", "1", "--out", "new", code=2)
    assert "was made for model" in refused(
        "refine", "both.action.safetensors", "--model", model, "--out", "new", code=1
    )
    assert not Path("new.action.safetensors").exists()


@pytest.mark.slow
def test_an_actor_of_another_file_is_who_an_action_is_refined_for(
    space: ActionSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space.save("phrases.space.safetensors")
    said = saying(space, "left arm raised", name="wave")
    pose = Posed.of(LimbWords(space), said.whole_point(space), None, said.name).to_dict()
    wave = replace(said, meta={"pose": pose})
    wave.save("wave.action.safetensors")
    lora = fresh(load("nano", "cpu"), 1, 0)
    Action("anna", [torch.ones(2, wave.vectors[0].shape[1])], space.model_id, lora=lora).save("anna.action.safetensors")
    Action("looks", [], space.model_id, lora=lora).save("looks.action.safetensors")
    asked: list[dict[str, Any]] = []

    def recorded(_backbone: Backbone, own: ActionSpace, action: Action, **given: Any) -> Action:
        asked.append(given)
        return action.learned_on(own, action.whole_point(own), {"refined": 1, "off": 7.2}, given["name"])

    monkeypatch.setattr(refine, "refined", recorded)
    command = ("refine", "wave.action.safetensors")
    assert "7 degrees" in done(*command, "--actor", "anna.action.safetensors", "--out", "hers").stderr
    assert Action.load("hers.action.safetensors").name == "hers"
    done(*command, "--actor", "looks.action.safetensors", "--who", "sks woman", "--steps", "7", "--out", "theirs")
    done(*command, "--out", "all")
    assert "--who" in refused(*command, "--actor", "looks.action.safetensors", "--out", "new", code=2)
    for actor, who in ((["--actor", "anna.action.safetensors"], "a woman"), ([], "<actor>")):
        assert "does not fit" in refused(*command, *actor, "--who", who, "--out", "new", code=2)
    assert [one["who"] for one in asked] == ["<actor>", "sks woman", None]
    assert [list(one["vectors"]) for one in asked] == [["<actor>"], [], []]
    assert [len(one["loras"]) for one in asked] == [1, 1, 0]
    assert [one["steps"] for one in asked] == [60, 7, 60]


def test_what_lies_in_no_space_is_explained_too(tmp_path: Path) -> None:
    Action("leap", [torch.ones(2, 8)], "tiny@1").save(tmp_path / "leap.action.safetensors")
    result = invoke("explain", tmp_path / "leap.action.safetensors")
    assert result.exit_code == 0 and "lies in no action space" in result.stdout and "2 token vectors" in result.stdout


@pytest.mark.slow  # 200 passes of nano
@torch.no_grad()
def test_nano_means_what_sliders_say() -> None:
    """Full travel of at least 40 degrees, monotone in 90 % of strips, and other limbs that stay within 10 degrees."""
    nano = load("nano", "cpu")
    space, intent = default_space(nano), intended_pose(nano)
    assert intent is not None
    generator = torch.Generator().manual_seed(3)
    prompts = other_prompts(generator, 4)
    noise = torch.randn((4, *nano.latent_shape), generator=generator)
    action = saying(space, "flexing both biceps", "right knee up")
    travels, rising, others = [], [], []
    for name, slider in SLIDERS.items():
        shown = []
        for amount in (-1.0, -0.5, 0.0, 0.5, 1.0):
            vectors = {PLACEHOLDER: action.slid(space, name, amount).vectors}
            shown.append(from_torso(intent.read(nano, nano.encode_text(prompts, vectors), noise)))
        joint = -1 if "knee" in name else 0
        sign = -1 if "knee" in name else 1
        each = [[sign * joint_angles(pose, limb)[:, joint] for limb in slider.limbs] for pose in shown]
        strips = torch.stack([torch.stack(one).mean(dim=0) for one in each])  # (amounts, prompts)
        travels.append(strips[-1] - strips[0])
        rising.append((strips.diff(dim=0) > -5).all(dim=0))
        still = [i for i in range(SEGMENTS) if all(i not in limb.segments for limb in slider.limbs)]
        cosines = (torch.stack(shown)[:, :, still] * shown[2][:, still]).sum(dim=-1).clamp(-1, 1)
        others.append(cosines.acos().rad2deg().amax(dim=0).flatten())
    assert float(torch.cat(travels).mean()) > 40 and float(torch.cat(others).median()) < 10
    assert float(torch.cat(rising).float().mean()) >= 0.9


@pytest.mark.slow  # 190 passes of nano
def test_nano_is_led_from_words_to_the_pose_that_is_wanted() -> None:
    nano = load("nano", "cpu")
    space = default_space(nano)
    shown, wanted = saying(space, "flexing both biceps"), saying(space, "arms akimbo")
    pose = Posed.of(LimbWords(space), wanted.whole_point(space), None, wanted.name).to_dict()
    action = replace(shown, meta={"pose": pose})
    begun, ended = (refined(nano, space, action, steps=steps).meta["history"][-1]["off"] for steps in (1, 30))
    assert ended < 0.85 * begun and begun > 10
