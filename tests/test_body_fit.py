"""Fitting a body to heat maps of its joints."""

import numpy as np
import pytest
import torch

from twinact.nano.calibrate import LIMBS
from twinact.world.draw import joints
from twinact.world.judges.body_fit import fit_pose
from twinact.world.judges.judges import Judges
from twinact.world.pose import DOFS, Pose, pose_features
from twinact.world.scene import Camera, Scene
from twinact.world.skeleton import JOINT_NAMES

ARCHER = Pose(
    root_rotation=10, clearance=0.2, torso_lean=-20, l_shoulder=100, l_elbow=-40, r_shoulder=60, r_elbow=90, l_hip=40,
    l_knee=-60, r_hip=15, r_knee=0,
)  # fmt: skip


def heat_maps(scene: Scene, spread: dict[str, float] | None = None) -> np.ndarray:
    """Logits (17, 32, 32) of Gaussians around the joints, 0.8 cells wide unless `spread` says otherwise."""
    x = (np.arange(32) + 0.5) / 32
    widths = [(spread or {}).get(name, 0.8) / 32 for name in JOINT_NAMES]
    rows = zip(joints(scene), widths, strict=True)
    maps = [-(((x - px) / w)[None] ** 2 + ((x - py) / w)[:, None] ** 2) / 2 for (px, py), w in rows]
    return np.stack(maps).astype(np.float32)


@pytest.mark.parametrize("actor", ["robot", "panda", "woman in a red dress", "penguin"])
def test_the_pose_comes_back_whatever_the_camera(actor) -> None:
    scene = Scene(actor, ARCHER, "park", Camera(scale=0.9, x=0.46, y=0.91))
    found = fit_pose(heat_maps(scene), pose_features(Pose(clearance=0.2)), actor)
    assert found.root_rotation == pytest.approx(10, abs=2) and found.torso_lean == pytest.approx(-20, abs=2)
    assert found.clearance == pytest.approx(0.2, abs=0.1)
    for name in LIMBS:
        assert getattr(found, name) == pytest.approx(getattr(ARCHER, name), abs=2.5), name


def test_an_elbow_that_is_not_seen_follows_from_the_bones() -> None:
    scene = Scene("robot", ARCHER, "park")
    maps = heat_maps(scene, {"r_elbow": 8.0})
    elbow = JOINT_NAMES.index("r_elbow")
    maps[elbow] = np.roll(maps[elbow], 4, axis=1)  # and what little is seen of it is wrong
    found = fit_pose(maps, pose_features(ARCHER), "robot")
    assert found.r_shoulder == pytest.approx(ARCHER.r_shoulder, abs=10)
    assert found.r_elbow == pytest.approx(ARCHER.r_elbow, abs=10)


def test_face_and_hands_are_what_the_features_say() -> None:
    told = Pose(smile=-0.5, l_hand=0.9, eyes=0.1)
    found = fit_pose(heat_maps(Scene("robot", ARCHER, "park")), pose_features(told), "robot")
    assert (found.smile, found.l_hand, found.eyes) == pytest.approx((-0.5, 0.9, 0.1), abs=1e-6)


def test_maps_without_a_figure_give_a_pose_within_its_ranges() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (len(JOINT_NAMES), 32, 32)).astype(np.float32)
    found = fit_pose(noise, pose_features(Pose()), "robot")
    assert all(dof.low <= getattr(found, name) <= dof.high for name, dof in DOFS.items())


def test_judges_say_of_a_mirrored_picture_what_they_say_of_the_picture() -> None:
    torch.manual_seed(0)
    judges = Judges().eval()
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    plain, mirrored = judges.judge([picture, picture[:, ::-1].copy()])
    assert (plain.actor, plain.place) == (mirrored.actor, mirrored.place)
    assert np.allclose(plain.pose.mirrored().as_array(), mirrored.pose.as_array(), atol=0.05)
