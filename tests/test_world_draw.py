"""The drawn world: kinematics, framing and pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twinact.errors import DataError
from twinact.world import gallery
from twinact.world.bodies import ACTORS, HELD_OUT_ACTORS
from twinact.world.draw import draw, figure_mask, joints
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.pose import DOFS, Pose
from twinact.world.sampling import rest_pose
from twinact.world.scene import BODY_HEIGHT, MARGIN, Camera, Scene
from twinact.world.skeleton import JOINT_NAMES, Proportions, radii, skeleton
from twinact.world.splits import CUSTOM_ACTIONS
from twinact.world.things import THINGS

BODY = Proportions()
STRAIGHT = Pose(l_shoulder=0, r_shoulder=0, l_hip=0, r_hip=0)


def random_pose(rng: np.random.Generator) -> Pose:
    return Pose.from_array(np.array([rng.uniform(dof.low, dof.high) for dof in DOFS.values()]))


def lowest(pose: Pose) -> float:
    """Lowest point of the flesh, y down from the ground."""
    flesh = radii(BODY)
    return max(y + flesh[name] for name, (_, y) in skeleton(pose, BODY).items())


def test_arms_out_put_the_hands_level_with_the_shoulders() -> None:
    at = skeleton(STRAIGHT.with_values({"l_shoulder": 90, "r_shoulder": 90}), BODY)
    reach = BODY.shoulders + BODY.upper_arm + BODY.forearm
    assert at["l_hand"] == pytest.approx((reach, at["l_shoulder"][1]))
    assert at["r_hand"] == pytest.approx((-reach, at["r_shoulder"][1]))


@pytest.mark.parametrize(
    ("shoulder", "elbow", "direction"),
    [(0, 0, (0, 1)), (180, 0, (0, -1)), (90, 90, (0, -1)), (90, -90, (0, 1)), (0, 90, (1, 0)), (0, -90, (-1, 0))],
)
def test_forearm_follows_shoulder_and_elbow(shoulder: float, elbow: float, direction: tuple[float, float]) -> None:
    at = skeleton(STRAIGHT.with_values({"l_shoulder": shoulder, "l_elbow": elbow}), BODY)
    forearm = np.subtract(at["l_hand"], at["l_elbow"])
    np.testing.assert_allclose(forearm, np.multiply(direction, BODY.forearm), atol=1e-12)


def test_knee_and_ankle_follow_the_leg() -> None:
    at = skeleton(STRAIGHT.with_values({"l_hip": 90, "l_knee": -90, "l_ankle": 80}), BODY)
    assert at["l_knee"] == pytest.approx((at["l_hip"][0] + BODY.thigh, at["l_hip"][1]))
    assert at["l_foot"] == pytest.approx((at["l_knee"][0], at["l_knee"][1] + BODY.shank))
    assert at["l_toe"] == pytest.approx((at["l_foot"][0], at["l_foot"][1] + BODY.foot))


def test_lean_moves_the_torso_but_not_the_legs() -> None:
    straight, bent = (skeleton(STRAIGHT.with_values({"torso_lean": lean}), BODY) for lean in (0, 40))
    assert bent["head"][0] > 0.2 and bent["neck"][0] > 0.1
    assert bent["l_foot"] == pytest.approx(straight["l_foot"])


def test_handstand_puts_the_head_below_the_pelvis() -> None:
    at = skeleton(STRAIGHT.with_values({"root_rotation": 180, "l_shoulder": 180, "r_shoulder": 180}), BODY)
    assert at["head"][1] > at["pelvis"][1] > at["l_foot"][1]
    # Turned by half a circle, the actor's left is the left of the picture.
    assert at["l_foot"][0] < at["r_foot"][0]


def test_figures_stand_on_the_ground_and_jump_off_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        pose = random_pose(rng)
        leap = pose.clearance * (BODY.thigh + BODY.shank)
        assert lowest(pose) == pytest.approx(-leap)


def test_a_mirrored_pose_mirrors_the_joints() -> None:
    rng = np.random.default_rng(2)
    other = [JOINT_NAMES.index({"l_": "r_", "r_": "l_"}.get(n[:2], n[:2]) + n[2:]) for n in JOINT_NAMES]
    for _ in range(20):
        pose = random_pose(rng)
        here, there = (joints(Scene("robot", p, "park")) for p in (pose, pose.mirrored()))
        np.testing.assert_allclose(there[other], here * [-1, 1] + [1, 0], atol=1e-9)


def test_joints_stay_inside_the_picture() -> None:
    rng = np.random.default_rng(3)
    names = list(ACTORS)
    for index in range(200):
        camera = Camera(scale=rng.uniform(0.6, 1.6), x=rng.uniform(0.2, 0.8), y=rng.uniform(0.8, 0.95))
        found = joints(Scene(names[index % len(names)], random_pose(rng), "park", camera))
        assert found.shape == (len(JOINT_NAMES), 2)
        assert found.min() >= MARGIN and found.max() <= 1 - MARGIN


def test_a_figure_that_fits_is_not_moved() -> None:
    camera = Camera(scale=0.8, x=0.4, y=0.85)
    found = dict(zip(JOINT_NAMES, joints(Scene("robot", Pose(), "park", camera)), strict=True))
    at = skeleton(Pose(), ACTORS["robot"].body)
    for name in JOINT_NAMES:
        expected = (0.4 + 0.8 * BODY_HEIGHT * at[name][0], 0.85 + 0.8 * BODY_HEIGHT * at[name][1])
        assert tuple(found[name]) == pytest.approx(expected)


@pytest.mark.slow
def test_pictures_of_every_actor_in_every_place_have_contrast() -> None:
    rng = np.random.default_rng(4)
    for actor in ACTORS:
        pose = random_pose(rng)
        for place in PLACES:
            picture = draw(Scene(actor, pose, place, detail_seed=int(rng.integers(100))), 32)
            assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
            assert picture.std() > 10


def test_drawing_is_a_function_of_the_scene() -> None:
    scene = Scene("fox", Pose(l_shoulder=90), "farm", detail_seed=5)
    assert np.array_equal(draw(scene), draw(Scene("fox", Pose(l_shoulder=90), "farm", detail_seed=5)))
    assert not np.array_equal(draw(scene), draw(Scene("fox", Pose(l_shoulder=90), "farm", detail_seed=6)))


def test_the_seed_changes_the_place_but_not_the_figure() -> None:
    masks = [figure_mask(Scene("fox", Pose(), "farm", detail_seed=seed)) for seed in (1, 2)]
    assert np.array_equal(*masks)


def test_the_mask_covers_the_joints_and_leaves_the_edges() -> None:
    rng = np.random.default_rng(6)
    for actor in ACTORS:
        scene = Scene(actor, random_pose(rng), "beach")
        mask = figure_mask(scene, 64)
        assert mask.dtype == bool and 0.02 < mask.mean() < 0.6
        x, y = (joints(scene) * 64).astype(int).T
        assert mask[y, x].all()
    upright = figure_mask(Scene("robot", Pose(), "beach"), 64)
    assert not (upright[0].any() or upright[-1].any() or upright[:, 0].any() or upright[:, -1].any())


def test_the_composition_does_not_depend_on_the_size() -> None:
    for actor, place in (("panda", "moon"), ("chef", "beach"), ("robot", "library")):
        scene = Scene(actor, Pose(r_shoulder=120, l_hip=40), place, detail_seed=3)
        large = draw(scene, 128).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(large - draw(scene, 64)).mean() < 5
        coarse = figure_mask(scene, 128).reshape(64, 2, 64, 2).mean(axis=(1, 3)) >= 0.5
        assert (coarse != figure_mask(scene, 64)).mean() < 0.02


@pytest.mark.parametrize(
    "change",
    [{"eyes": 0.0}, {"mouth": 1.0}, {"smile": -1.0}, {"head_turn": 60.0}, {"head_nod": 40.0}, {"l_hand": 1.0},
     {"l_arm_depth": -1.0}, {"l_ankle": 60.0}, {"head_tilt": 30.0}],
)  # fmt: skip
def test_every_small_degree_of_freedom_shows_at_64_pixels(change: dict[str, float]) -> None:
    base = Pose(l_shoulder=5, l_elbow=-60)
    for actor in ACTORS:
        before, after = (draw(Scene(actor, pose, "park")).astype(int) for pose in (base, base.with_values(change)))
        assert np.abs(after - before).max() > 20, actor


def test_actors_and_places_are_many_and_the_held_out_ones_exist() -> None:
    assert len(ACTORS) - len(HELD_OUT_ACTORS) >= 28 and len(PLACES) >= 16
    assert set(HELD_OUT_ACTORS) <= set(ACTORS) and len(set(HELD_OUT_ACTORS)) == 6
    assert {actor.kind for actor in ACTORS.values()} == {"person", "animal", "creature"}
    assert len({place.text for place in PLACES.values()}) == len(PLACES)


@pytest.mark.slow
def test_things_are_seen_on_every_actor_and_hide_no_limb() -> None:
    rng = np.random.default_rng(7)
    for actor in ACTORS:
        pose = rest_pose(rng)
        bare = Scene(actor, pose, "park")
        for thing in THINGS:
            worn = replace(bare, things=(thing,))
            before, after = (draw(scene, 64).astype(int) for scene in (bare, worn))
            if thing not in ("top hat", "crown"):  # under these some figures shrink, to fit into the picture
                assert np.array_equal(joints(worn), joints(bare))
            assert (np.abs(after - before).max(2) > 40).sum() >= 12, (actor, thing)
            x, y = (joints(worn) * 64).astype(int).T
            assert figure_mask(worn, 64)[y, x].all()


def test_a_balloon_stays_in_the_picture_beside_the_body() -> None:
    rng = np.random.default_rng(8)
    for _ in range(60):
        scene = Scene("robot", random_pose(rng), "moon")
        grown = figure_mask(replace(scene, things=("balloon",)), 64) & ~figure_mask(scene, 64)
        assert grown.sum() > 25


def test_light_changes_the_whole_picture() -> None:
    scene = Scene("robot", Pose(), "beach")
    day = draw(scene).astype(int)
    assert draw(replace(scene, light="night")).mean() < 0.6 * day.mean()
    assert draw(replace(scene, light="fog")).std() < 0.6 * day.std()
    grey = draw(replace(scene, light="black and white"))
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 1], grey[..., 2])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DataError, match="thing 'umbrella'"):
        Scene("robot", Pose(), "park", things=("umbrella",))
    with pytest.raises(DataError, match="light 'dusk'"):
        Scene("robot", Pose(), "park", light="dusk")
    with pytest.raises(DataError, match="at most one thing of each kind"):
        Scene("robot", Pose(), "park", things=("top hat", "crown"))
    with pytest.raises(DataError, match="actor 'unicorn'"):
        Scene("unicorn", Pose(), "park")
    with pytest.raises(DataError, match="place 'office'"):
        Scene("robot", Pose(), "office")


@pytest.mark.slow
def test_gallery_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PHRASES_PER_HEADING", "_MATRIX_ACTORS", "_MATRIX_PHRASES"):
        monkeypatch.setattr(gallery, name, 1)
    monkeypatch.setattr(gallery, "_PICTURE", 48)
    calls: list[tuple[int, int]] = []
    gallery.write_gallery(tmp_path / "gallery", lambda done, count: calls.append((done, count)))
    assert len(calls) == 9 and calls == sorted(calls)
    assert (
        calls[-1][0]
        == calls[-1][1]
        == len(ACTORS) + 2 * len(PLACES) + 4 + 1 + len(THINGS) + len(LIGHTS) + len(CUSTOM_ACTIONS)
    )
