"""Judges, metrics and tasks of the benchmark."""

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from twinact import PLACEHOLDER
from twinact.bench.actors import write_actor_exemplars
from twinact.bench.metrics import Asked, score
from twinact.bench.tasks import asks, best_text, limb_by_limb
from twinact.data.captions import unsaid
from twinact.data.exemplars import read_exemplars
from twinact.errors import CheckpointError
from twinact.nano.calibrate import (
    OFF,
    Case,
    accuracy,
    called_right,
    drawn_scenes,
    false_alarms,
    hardest,
    wrong_scenes,
)
from twinact.nano.heatmaps import heat_loss, limb_map
from twinact.nano.judges import compressed
from twinact.nano.recipe import RECIPE
from twinact.readers.latent import joint_positions
from twinact.statistics import Share
from twinact.world.draw import draw
from twinact.world.judges.judges import Judges, Verdict
from twinact.world.meanings import meanings
from twinact.world.pose import DOF_NAMES, PartialPose, Pose
from twinact.world.sampling import sample_free_pose
from twinact.world.scene import Scene
from twinact.world.skeleton import JOINT_NAMES, Proportions, limb_angles, skeleton
from twinact.world.splits import CUSTOM_ACTIONS, DEV_ACTIONS, CustomAction


def test_wilson_interval_has_the_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    low, high = Share(81, 263).interval
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert Share(0, 0).as_json() == {"share": None, "low": 0.0, "high": 1.0, "count": 0}
    assert Share(0, 20).interval[0] == 0.0 and Share(20, 20).interval[1] == 1.0


def test_score_counts_action_actor_joint_place_and_leak() -> None:
    action = PartialPose.parse("l_shoulder=90 r_shoulder=90")
    right, wrong = Pose(l_shoulder=95, r_shoulder=88), Pose(l_shoulder=90, r_shoulder=10)
    asked = Asked(action, "robot", "park", leaked_actors=("panda",))
    verdicts = [
        Verdict(right, "robot", "park"),
        Verdict(wrong, "robot", "moon"),
        Verdict(right, "panda", "park"),
        Verdict(wrong, "fox", "park"),
    ]
    scores = score(verdicts, [asked] * 4)
    counts = [s.successes for s in (scores.action, scores.actor, scores.joint, scores.place, scores.leak)]
    assert counts == [2, 2, 1, 3, 1]
    assert scores.near == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)


def test_asks_are_repeatable_and_never_name_an_exemplar_actor() -> None:
    for action in CUSTOM_ACTIONS.values():
        chosen = asks(action, RECIPE.actors, RECIPE.places)
        assert chosen == asks(action, RECIPE.actors, RECIPE.places)
        actors = [ask.asked.actor for ask in chosen]
        assert len(set(actors)) == 10 and not set(actors) & set(action.actors)
        assert all("<act>" in ask.prompt and ask.asked.actor in ask.prompt for ask in chosen)


def test_best_text_finds_the_words_for_poses_that_have_them() -> None:
    def custom(terms: str) -> CustomAction:
        pose = Pose().with_values({n: t.value for n, t in PartialPose.parse(terms).targets.items()})
        values = tuple(getattr(pose, name) for name in next(iter(CUSTOM_ACTIONS.values())).pose.targets)
        return CustomAction("probe", "free", values, ("robot",))

    kick = meanings()["side kicking left"][0]
    terms = " ".join(f"{n}={t.value:g}" for n, t in kick.targets.items())
    found = best_text(custom(terms))
    assert found in meanings() and meanings()[found][0].holds(Pose(**{n: t.value for n, t in kick.targets.items()}))
    both = custom("l_shoulder=90 l_elbow=90 r_shoulder=90 r_elbow=90 l_hip=75 l_knee=-75 r_hip=75 r_knee=-75")
    first, second = best_text(both, pairs=True).split(" and ")
    assert {first, second} <= set(meanings())
    apart = custom("l_shoulder=90 l_elbow=0 r_shoulder=12 r_elbow=0 l_hip=90 l_knee=0 r_hip=4 r_knee=0")
    assert 1 <= len(limb_by_limb(apart).split(" and ")) <= 4


@pytest.mark.slow
def test_more_phrases_never_come_less_near() -> None:
    """One phrase is a way to say it with two, and two with four."""
    for action in DEV_ACTIONS.values():
        few, pair, many = best_text(action), best_text(action, pairs=True), limb_by_limb(action)
        assert missed(action, few) >= missed(action, pair) >= missed(action, many)


def missed(action: CustomAction, text: str) -> float:
    """How far the joints lie that an action names, in tolerances, each at most 3."""
    pose, rest = Pose(), text
    while rest:  # "and" also stands inside phrases
        phrase = max((one for one in (*meanings(), "standing still") if rest.startswith(one)), key=len)
        rest = rest[len(phrase) :].removeprefix(" and ")
        if phrase in meanings():
            pose = pose.with_values({n: t.value for n, t in meanings()[phrase][0].targets.items()})
    return sum(min(e / action.pose.targets[n].tolerance, 3.0) for n, e in action.pose.errors(pose).items())


def test_heat_maps_give_back_positions() -> None:
    positions = torch.tensor([[[0.25, 0.5], [0.7, 0.9]]])
    heat = torch.full((1, 2, 32, 32), -20.0)
    for joint, (x, y) in enumerate(positions[0].tolist()):
        heat[0, joint, round(y * 32 - 0.5), round(x * 32 - 0.5)] = 20.0
    assert torch.allclose(joint_positions(heat), positions, atol=1 / 64)
    better, worse = heat_loss(heat, positions), heat_loss(heat, positions.flip(1))
    assert better < worse


def test_limb_maps_follow_the_bones() -> None:
    positions = torch.full((1, len(JOINT_NAMES), 2), 0.5)  # all bones are points, but for one forearm
    positions[0, JOINT_NAMES.index("l_elbow")] = torch.tensor([4.5, 2.5]) / 16
    positions[0, JOINT_NAMES.index("l_hand")] = torch.tensor([10.5, 2.5]) / 16
    positions[0, JOINT_NAMES.index("l_shoulder")] = positions[0, JOINT_NAMES.index("l_elbow")]
    limbs = limb_map(positions, 16)
    assert limbs.shape == (1, 1, 16, 16)
    torch.testing.assert_close(limbs[0, 0, 2, 4:11], torch.ones(7))
    torch.testing.assert_close(limbs[0, 0, 1, 4:11], torch.full((7,), math.exp(-0.5)))
    assert float(limbs[0, 0, 2, 14]) < 0.01


def test_limb_angles_undo_the_skeleton() -> None:
    for seed in range(50):
        pose = sample_free_pose(np.random.default_rng(seed))
        points = {name: complex(*point) for name, point in skeleton(pose, Proportions()).items()}
        assert set(points) == set(JOINT_NAMES)
        for name, value in limb_angles(points, pose.root_rotation).items():
            assert value == pytest.approx(getattr(pose, name), abs=1e-6), name


@pytest.mark.slow
def test_judges_save_and_load(tmp_path) -> None:
    torch.manual_seed(0)
    judges = Judges().eval()
    pictures = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    judges.save(tmp_path)
    again = Judges.load(tmp_path)
    for a, b in zip(judges.judge(list(pictures)), again.judge(list(pictures)), strict=True):
        assert (a.actor, a.place, a.things, a.light) == (b.actor, b.place, b.things, b.light)
        assert np.allclose(a.pose.as_array(), b.pose.as_array(), atol=1.0)


def test_judges_of_an_earlier_world_are_refused_and_begun_with(tmp_path) -> None:
    earlier, judges = Judges(), Judges()
    earlier.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"world_version": 1}))
    with pytest.raises(CheckpointError, match="belong to another world"):
        Judges.load(tmp_path)
    judges.take_over(tmp_path)
    torch.testing.assert_close(judges.state_dict(), earlier.state_dict(), atol=1e-3, rtol=1e-3)


def truth_of(scene: Scene) -> Verdict:
    """What judges say that see everything."""
    return Verdict(scene.pose, scene.actor, scene.place, scene.things, scene.light)


def test_calibration_knows_the_truth() -> None:
    scenes = drawn_scenes(40, 3)
    cases = [Case(item.scene, item.phrases, draw(item.scene, 128), truth_of(item.scene)) for item in scenes]
    right = accuracy(cases)
    for name in ("actor", "place", "things", "light", "phrases judged right"):
        assert right[name]["share"] == 1.0
    assert right["limb angle error, median degrees"] == 0 and right["joint error, mean share of height"] == 0
    assert all(alarm["share"] == 0.0 for alarm in false_alarms(cases, 3).values())

    mirrored = [Case(c.scene, c.phrases, c.picture, Verdict(c.verdict.pose.mirrored(), "fox", "park")) for c in cases]
    wrong = accuracy(mirrored)
    assert wrong["phrases judged right"]["share"] < 0.6 and wrong["limb angle error, 90th percentile"] > 20
    assert wrong["actor"]["share"] < 0.5 and wrong["joint error, mean share of height"] > 0.02
    assert hardest(mirrored, 6).size == (4 * 2 * 128, 2 * 128)


def test_wrong_drawings_are_wrong_in_one_thing() -> None:
    scenes = drawn_scenes(60, 3)
    wrong = wrong_scenes(scenes, 3)
    assert wrong == wrong_scenes(scenes, 3)
    truth = [truth_of(w.scene) for w in wrong]
    assert all(row["share"] == 0.0 and row["count"] > 10 for row in called_right(wrong, truth).values())
    scene_of = {item.scene.detail_seed: item.scene for item in scenes}
    asked = [scene_of[w.scene.detail_seed] for w in wrong]
    for w, scene in zip(wrong, asked, strict=True):
        assert sum(getattr(w.scene, f.name) != getattr(scene, f.name) for f in fields(Scene)) == 1
        if w.how == OFF:
            drawn, true_pose = w.scene.pose.as_array(), scene.pose.as_array()
            (changed,) = np.flatnonzero(drawn != true_pose)
            target = next(m for m in meanings()[w.asked] if m.holds(scene.pose)).targets[DOF_NAMES[changed]]
            assert abs(drawn[changed] - target.value) == pytest.approx(2 * target.tolerance)
    fooled = [truth_of(scene) for scene in asked]
    assert all(row["share"] == 1.0 for row in called_right(wrong, fooled).values())


def test_compression_spoils_a_picture_more_at_low_quality() -> None:
    picture = draw(Scene("fox", Pose(), "park"), 64)
    low, high = (np.abs(compressed(picture, q).astype(int) - picture).mean() for q in (30, 95))
    assert 0 < high < low < 20
    torch.from_numpy(compressed(picture, 50))  # without a warning that it cannot be written


def test_exemplars_of_an_actor_leave_only_the_actor_unsaid(tmp_path: Path) -> None:
    write_actor_exemplars("king", tmp_path, 48, count=5)
    found = read_exemplars(tmp_path)
    assert len(found.images) == len(set(found.hashes)) == len(set(found.captions)) == 5
    assert unsaid(found.captions) == {"actor": 5, "place": 0}
    assert all(caption.startswith(PLACEHOLDER) and "king" not in caption for caption in found.captions)
