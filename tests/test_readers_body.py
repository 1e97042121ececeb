"""One body for all readers, and what several pictures of an action have in common."""

import math
from dataclasses import replace

import pytest
import torch

from twinact.errors import DataError
from twinact.readers.body import (
    HEIGHT_NAME,
    JOINTS,
    SEGMENT_NAMES,
    SEGMENTS,
    body_reading,
    from_square,
    height_directions,
    heights,
    in_square,
)
from twinact.readers.common import common_pose
from twinact.readers.reader import PoseReading
from twinact.world.pose import Pose
from twinact.world.skeleton import JOINT_NAMES, Proportions, skeleton


def standing(**angles: float) -> torch.Tensor:
    """Joints (1, 17, 2) of a drawn figure."""
    found = skeleton(Pose(**angles), Proportions())
    return torch.tensor([[found[name] for name in JOINTS]])


def unit(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def reading(angles: list[float], confidence: list[float]) -> PoseReading:
    """Pictures whose first segment points to these angles; every other segment points down and is seen by all."""
    directions = torch.tensor([[unit(angle)] + [unit(90)] * (len(SEGMENTS) - 1) for angle in angles])
    weights = torch.tensor([[sure] + [1.0] * (len(SEGMENTS) - 1) for sure in confidence])
    return PoseReading(directions, weights, torch.zeros(len(angles), 4))


def test_the_body_is_that_of_the_world() -> None:
    assert JOINTS == JOINT_NAMES
    assert len(SEGMENTS) == len(SEGMENT_NAMES) == len(set(SEGMENT_NAMES)) == 14
    for name, (start, end) in zip(SEGMENT_NAMES, SEGMENTS, strict=True):
        for side in ("left", "right"):
            assert name.startswith(side) == (JOINTS[start][:2] == JOINTS[end][:2] == f"{side[0]}_")


def test_left_is_the_figures_own() -> None:
    """A figure that faces us and raises its left arm raises the one at the picture's right."""
    joints = standing(l_shoulder=90.0)
    directions = body_reading(joints, torch.ones(1, 17)).directions[0]
    torch.testing.assert_close(directions[SEGMENT_NAMES.index("left upper arm")], torch.tensor([1.0, 0.0]))
    assert float(directions[SEGMENT_NAMES.index("line of the hips"), 0]) == pytest.approx(1.0)


def test_a_joint_that_is_not_seen_takes_its_segments_with_it() -> None:
    joints, confidence = standing(), torch.full((1, 17), 0.8)
    confidence[0, JOINTS.index("l_elbow")] = 0.0
    joints[0, JOINTS.index("r_toe")] = torch.nan
    found = body_reading(joints, confidence)
    lost = {SEGMENT_NAMES[i] for i in torch.nonzero(found.weights[0] == 0).flatten()}
    assert lost == {"left upper arm", "left forearm", "right foot"}
    assert bool(found.directions.isfinite().all()) and bool(found.boxes.isfinite().all())
    assert bool((found.directions.norm(dim=2) - (found.weights > 0).float()).abs().max() < 1e-5)
    assert found.joints is not None and bool(found.joints[0, JOINTS.index("l_elbow")].isnan().all())


def test_a_segment_that_points_at_the_camera_counts_less() -> None:
    joints = standing()
    wrist, elbow = JOINTS.index("l_hand"), JOINTS.index("l_elbow")
    joints[0, wrist] = joints[0, elbow] + 0.002
    weights = body_reading(joints, torch.ones(1, 17)).weights[0]
    assert 0 < float(weights[SEGMENT_NAMES.index("left forearm")]) < 0.2
    assert float(weights[SEGMENT_NAMES.index("right forearm")]) == 1.0


def test_nobody_has_no_weights_and_an_empty_box() -> None:
    found = body_reading(torch.rand(2, 17, 2), torch.zeros(2, 17))
    assert float(found.weights.abs().max()) == float(found.boxes.abs().max()) == 0.0


def test_pixels_become_shares_of_the_square_and_back() -> None:
    points = torch.tensor([[0.0, 0.0], [200.0, 100.0], [100.0, 50.0]])
    square = in_square(points, 200, 100)
    torch.testing.assert_close(square, torch.tensor([[0.0, 0.25], [1.0, 0.75], [0.5, 0.5]]))
    torch.testing.assert_close(from_square(square, 200, 100), points)


def test_pictures_that_agree_are_averaged_by_confidence() -> None:
    found = common_pose(reading([0.0, 20.0], [0.9, 0.3]))
    angle = math.degrees(math.atan2(float(found.directions[0, 1]), float(found.directions[0, 0])))
    assert angle == pytest.approx(5.0, abs=0.1) and found.disagreeing == found.unseen == ()
    assert float(found.weights[0]) == pytest.approx((0.9**2 + 0.3**2) / 1.2)


def test_a_picture_alone_is_what_it_shows() -> None:
    alone = reading([40.0], [0.7])
    found = common_pose(alone)
    torch.testing.assert_close(found.directions, alone.directions[0])
    torch.testing.assert_close(found.weights, alone.weights[0])


def test_pictures_that_disagree_say_nothing() -> None:
    found = common_pose(reading([0.0, 120.0], [1.0, 0.97]))
    assert found.disagreeing == ("torso",) and float(found.weights[0]) == 0.0
    assert float(found.directions[0].abs().max()) == 0.0 and float(found.weights[1:].min()) > 0.99


def test_one_picture_read_wrongly_changes_little() -> None:
    found = common_pose(reading([0.0, 4.0, 180.0, 2.0, 6.0], [1.0] * 5))
    assert found.disagreeing == () and float(found.weights[0]) == pytest.approx(0.5)
    torch.testing.assert_close(found.directions[0], torch.tensor(unit(3.0)), atol=1e-3, rtol=0)


def test_what_no_picture_shows_is_told_apart_from_what_they_disagree_on() -> None:
    found = common_pose(reading([0.0, 120.0], [0.0, 0.0]))
    assert found.unseen == ("torso",) and found.disagreeing == ()


def test_heights_are_told_in_lengths_of_a_leg_whatever_the_pose() -> None:
    ground = float(standing()[..., 1].max())
    assert float(heights(standing(), ground)) == pytest.approx(0.0, abs=1e-6)
    for pose in ({}, {"l_shoulder": 150.0, "torso_lean": 20.0}, {"l_hip": 60.0, "r_hip": 60.0}):
        low, high = (float(heights(standing(**pose, clearance=value), ground)) for value in (0.1, 0.5))
        assert high - low == pytest.approx(0.4, abs=1e-5)


def test_a_height_is_a_direction_that_turns_a_quarter_for_a_leg() -> None:
    found = height_directions(torch.tensor([0.0, 0.5, 1.0, 9.0]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(found[:3], torch.tensor([[0.0, -1.0], [half, -half], [1.0, 0.0]]), atol=1e-6, rtol=0)
    assert float(found[3, 1]) > 0.7  # no further than one and a half: what is far up is not taken for what is low


@pytest.mark.parametrize(
    ("seen", "height", "differ"),
    [
        ([0.4, 0.5, 0.45], 0.45, False),
        ([0.4, 0.5, 2.0, 0.45, math.nan], 0.45, False),
        ([0.0, 0.6], None, True),
        ([math.nan, math.nan], None, False),
    ],
)
def test_the_common_height_is_one_on_which_most_pictures_agree(
    seen: list[float], height: float | None, differ: bool
) -> None:
    found = common_pose(replace(reading([0.0] * len(seen), [1.0] * len(seen)), heights=torch.tensor(seen)))
    assert found.height == (None if height is None else pytest.approx(height))
    assert found.disagreeing == ((HEIGHT_NAME,) if differ else ())
    directions, weights = found.rows
    assert directions.shape == (15, 2) and weights[:-1].tolist() == pytest.approx([1.0] * 14)
    assert float(weights[-1]) == (0.0 if height is None else 1.0)


def test_the_height_of_those_who_stand_does_not_count() -> None:
    for height, weight in ((0.1, 0.0), (-0.3, 0.0), (0.3, 1.0)):
        found = common_pose(replace(reading([0.0], [1.0]), heights=torch.tensor([height])))
        assert float(found.rows[1][-1]) == weight


def test_no_pictures_have_no_common_pose() -> None:
    with pytest.raises(DataError, match="no picture"):
        common_pose(body_reading(torch.zeros(0, 17, 2), torch.zeros(0, 17)))
