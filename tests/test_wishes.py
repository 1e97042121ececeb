"""What nano is asked to draw while it is refined."""

import numpy as np
import pytest
import torch

from twinact.nano import wishes as module
from twinact.nano.data import Worded
from twinact.nano.recipe import RECIPE
from twinact.nano.wishes import Wishes
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import segment_directions
from twinact.world.draw import joints
from twinact.world.pose import Pose
from twinact.world.sampling import Posed
from twinact.world.scene import Scene
from twinact.world.skeleton import JOINT_NAMES


@pytest.fixture(scope="module")
def wishes() -> Wishes:
    return Wishes(RECIPE)


def segment(start: str, end: str) -> int:
    return SEGMENTS.index((JOINT_NAMES.index(start), JOINT_NAMES.index(end)))


@pytest.mark.slow
def test_a_step_asks_for_one_pose_for_several_and_for_poses_between(wishes: Wishes) -> None:
    found, again, other = wishes.of(3, 40), wishes.of(3, 40), wishes.of(4, 40)
    assert len(found) == 40 and sum(len(wish.poses) > 1 for wish in found) >= 5
    assert any(wish.share > 0 and wish.words != wish.second for wish in found)
    assert all(len(wish.poses) == 1 for wish in found if wish.words != wish.second)
    assert [wish.words for wish in again] == [wish.words for wish in found] != [wish.words for wish in other]
    assert all(torch.equal(a.poses, b.poses) for a, b in zip(again, found, strict=True))


def asked(way: str, *phrases: str) -> Worded:
    """A scene that came about in a way, and whose caption says these phrases."""
    posed = Posed(Pose(), phrases, way)  # type: ignore[arg-type]
    return Worded(Scene("robot", Pose(), "park"), posed, (("words", "words"),), (phrases,), 0.0)


def test_what_words_leave_open_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    arm = [segment("l_shoulder", "l_elbow"), segment("l_elbow", "l_hand")]
    trunk = [
        SEGMENTS.index(pair) for pair in SEGMENTS if JOINT_NAMES[pair[1]] in ("neck", "head", "l_hip", "l_shoulder")
    ]
    for way, fixed in (("plain", list(range(len(SEGMENTS)))), ("limbs", arm + trunk), ("free", arm)):
        wish = module._wish(asked(way, "left arm raised"), False, rng)
        assert wish is not None and sorted(wish.weights.nonzero().flatten().tolist()) == sorted(fixed), way
    assert module._wish(asked("plain"), False, rng) is None, "where words say nothing, nothing can be asked"


def test_no_wish_is_a_custom_action() -> None:
    rng = np.random.default_rng(0)
    assert module._wish(asked("plain", "flexing both arms"), True, rng) is not None
    # Each is known, and both together are the custom action flex-lunge.
    assert module._wish(asked("plain", "flexing both arms", "lunging left"), True, rng) is None


def test_the_hips_tell_a_turned_body_from_a_leaning_one() -> None:
    poses = Pose(root_rotation=30, l_hip=36, r_hip=-24), Pose(torso_lean=30)
    scenes = [Scene("robot", pose, "park") for pose in poses]
    positions = torch.from_numpy(np.stack([joints(scene) for scene in scenes])).float()
    one, other = segment_directions(positions, SEGMENTS)
    apart = (one - other).norm(dim=1)
    hips = segment("r_hip", "l_hip")
    assert apart[hips] > 0.5 and float(apart.sum() - apart[hips]) < 1e-3
