"""What nano is asked to draw while it is refined."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from twinact.backbones.base import TokenTable
from twinact.encoders.pose import segment_directions
from twinact.nano.between import between_pairs
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.nano.tokenizer import build_tokenizer
from twinact.nano.wishes import SEEN_SEGMENTS, Wishes
from twinact.world.draw import joints
from twinact.world.meanings import meanings
from twinact.world.pose import DOF_NAMES, Pose
from twinact.world.scene import Scene


@pytest.fixture(scope="module")
def wishes() -> Wishes:
    tokenizer = build_tokenizer(RECIPE.max_tokens)
    weight = torch.randn(len(tokenizer), 8, generator=torch.Generator().manual_seed(0))
    return Wishes(RECIPE, TokenTable("text_encoder", tokenizer, weight))


def test_a_step_asks_for_one_pose_for_several_and_for_poses_between(wishes) -> None:
    found = wishes.of(3)
    single, several, between = found[:11], found[11:22], found[22:]
    assert all(len(wish.poses) == 1 and not wish.vectors for wish in single)
    assert max(len(wish.poses) for wish in several) > 1 and not any(wish.vectors for wish in several)
    assert [list(wish.vectors) for wish in between] == [[f"<between-{i}>"] for i in range(8)]
    assert all(next(iter(wish.vectors)) in wish.words for wish in between)
    again, other = wishes.of(3), wishes.of(4)
    assert [wish.words for wish in again] == [wish.words for wish in found] != [wish.words for wish in other]
    assert all(torch.equal(a.poses, b.poses) for a, b in zip(again, found, strict=True))


def test_a_point_between_two_phrases_asks_for_the_pose_between_theirs(wishes, monkeypatch) -> None:
    a, b = next((a, b) for a, b in wishes.pairs if set(meanings()[a][0].targets) == {"l_shoulder", "l_elbow"})
    monkeypatch.setattr(wishes, "pairs", [(a, b)])
    (start,), (end,) = meanings()[a], meanings()[b]
    upper, lower = (SEEN_SEGMENTS.index(s) for s in ((3, 4), (4, 5)))  # left arm
    for wish in wishes.of(0)[22:]:
        way = wishes.vectors[b] - wishes.vectors[a]
        share = float(((next(iter(wish.vectors.values())) - wishes.vectors[a]) * way).sum() / way.square().sum())
        middle = {n: (1 - share) * t.value + share * end.targets[n].value for n, t in start.targets.items()}
        positions = joints(Scene("robot", Pose().with_values(middle), "park"))
        asked = segment_directions(torch.from_numpy(positions)[None].float(), SEEN_SEGMENTS)
        # The trunk leans by up to 3 degrees.
        torch.testing.assert_close(wish.poses[:, [upper, lower]], asked[:, [upper, lower]], atol=0.06, rtol=0)


def test_no_wish_is_a_custom_action(wishes, monkeypatch) -> None:
    asked: list[Pose] = []
    monkeypatch.setattr("twinact.nano.wishes.is_held_out_pose", lambda pose: not asked.append(pose) and len(asked) < 4)
    assert len(wishes.of(0)) == 30 and len(asked) == 3 + 8, "three were refused, and others taken in their place"


def test_pairs_that_are_measured_are_never_trained() -> None:
    phrases = drawn_part(RECIPE).phrases
    measured, trained = (between_pairs(phrases, measured=kept) for kept in (True, False))
    assert len(measured) > 500 and not {frozenset(p) for p in measured} & {frozenset(p) for p in trained}
    assert 0.08 < len(measured) / (len(measured) + len(trained)) < 0.12


def test_the_hips_tell_a_turned_body_from_a_leaning_one() -> None:
    turned, leaning = Pose(root_rotation=30, l_hip=36, r_hip=-24), Pose(torso_lean=30)
    assert np.abs(turned.as_array() - leaning.as_array())[DOF_NAMES.index("l_hip")] == 30
    scenes = [replace(Scene("robot", turned, "park"), pose=pose) for pose in (turned, leaning)]
    positions = torch.from_numpy(np.stack([joints(scene) for scene in scenes])).float()
    one, other = segment_directions(positions, SEEN_SEGMENTS)
    torch.testing.assert_close(one[:-1], other[:-1], atol=1e-4, rtol=0)
    assert (one[-1] - other[-1]).norm() > 0.5
