"""Keypoint files of every tool say the same pose, and what is broken is told."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from twinact.bench.poses import photographed_pose, photographed_poses
from twinact.errors import DataError
from twinact.readers.body import JOINTS, SEGMENT_NAMES
from twinact.readers.keypoint_files import keypoint_file, read_keypoints, read_table, table_of
from twinact.readers.keypoints import AP_10K, BLAZEPOSE_33, BODY_25, COCO_17, OPENPOSE_18, WHOLE_BODY_133, KeypointSet
from twinact.readers.reader import PoseReading
from twinact.world.pose import Pose
from twinact.world.skeleton import Proportions, skeleton

WIDTH, HEIGHT = 600, 800
FILE_SETS = (COCO_17, OPENPOSE_18, BODY_25, WHOLE_BODY_133)
TRUNK_AND_LIMBS = [i for i, name in enumerate(SEGMENT_NAMES) if name != "head" and not name.endswith("foot")]


def figure(size: float = 600.0, left: float = 0.0) -> dict[str, tuple[float, float]]:
    """Where the keypoints of a figure lie, in pixels: left arm out, right arm up, left knee out, face to the camera."""
    pose = Pose(l_shoulder=90.0, r_shoulder=170.0, l_hip=40.0, l_knee=20.0)
    found = {k: (300 + left + size * x, 750 + size * y) for k, (x, y) in skeleton(pose, Proportions()).items()}
    x, y = found["head"]
    offsets = {"nose": (0, 5), "l_eye": (8, 0), "r_eye": (-8, 0), "l_ear": (16, 0), "r_ear": (-16, 0)}
    return found | {name: (x + dx, y + dy) for name, (dx, dy) in offsets.items()}


def flat(kind: KeypointSet, points: dict[str, tuple[float, float]], seen: float = 1.0) -> list[float]:
    """x, y, confidence of each keypoint of a set, one after the other; zeros for those that are not named."""
    numbers = [0.0] * (3 * kind.count)
    for name, i in kind.index.items():
        x, y = points[name]
        numbers[3 * i : 3 * i + 3] = [x, y, seen]
    return numbers


def openpose(*people: list[float], **more: Any) -> dict[str, Any]:
    return {"version": 1.3, "people": [{"pose_keypoints_2d": one, "face_keypoints_2d": []} for one in people], **more}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def directions(reading: PoseReading, which: str) -> torch.Tensor:
    return reading.directions[0, SEGMENT_NAMES.index(which)]


@pytest.mark.parametrize("kind", FILE_SETS, ids=lambda one: one.name)
def test_every_set_says_the_same_pose(kind: KeypointSet, tmp_path: Path) -> None:
    wanted = read_keypoints([written(tmp_path / "b.json", openpose(flat(BODY_25, figure())))], [(WIDTH, HEIGHT)])
    found = read_keypoints([written(tmp_path / "a.json", openpose(flat(kind, figure())))], [(WIDTH, HEIGHT)])
    torch.testing.assert_close(found.directions[:, TRUNK_AND_LIMBS], wanted.directions[:, TRUNK_AND_LIMBS])
    torch.testing.assert_close(directions(found, "left upper arm"), torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)
    assert float(directions(found, "right upper arm")[1]) < -0.9  # raised
    has_toes = "l_toe" in kind.index
    assert (
        bool((found.weights[0, [SEGMENT_NAMES.index(f"{side} foot") for side in ("left", "right")]] > 0).all())
        == has_toes
    )
    assert found.seen[0].remarks == (() if has_toes else ("not seen: left foot, right foot",))


@pytest.mark.parametrize("kind", [*FILE_SETS, BLAZEPOSE_33, AP_10K], ids=lambda one: one.name)
def test_sets_name_each_keypoint_once_and_both_sides(kind: KeypointSet) -> None:
    assert len(set(kind.index.values())) == len(kind.index) and max(kind.index.values()) < kind.count
    sides = [{name[2:] for name in kind.index if name.startswith(f"{side}_")} for side in "lr"]
    assert sides[0] == sides[1] >= {joint[2:] for joint in JOINTS if joint.startswith("l_") and joint != "l_toe"}


def test_shares_of_a_canvas_are_as_good_as_pixels(tmp_path: Path) -> None:
    points = {name: (x / WIDTH, y / HEIGHT) for name, (x, y) in figure().items()}
    canvas = {"canvas_width": WIDTH, "canvas_height": HEIGHT}
    shares = written(tmp_path / "shares.json", openpose(flat(OPENPOSE_18, points), **canvas))
    pixels = written(tmp_path / "pixels.json", [openpose(flat(OPENPOSE_18, figure()), **canvas)])
    found, wanted = read_keypoints([shares]), read_keypoints([pixels])  # ComfyUI writes a list of frames
    torch.testing.assert_close(found.directions, wanted.directions)
    torch.testing.assert_close(found.boxes, wanted.boxes)
    with pytest.raises(DataError, match="canvas_width"):
        read_keypoints([written(tmp_path / "no_canvas.json", openpose(flat(OPENPOSE_18, points)))])


def test_without_a_canvas_pixels_still_have_directions(tmp_path: Path) -> None:
    known = read_keypoints([written(tmp_path / "a.json", openpose(flat(BODY_25, figure())))], [(WIDTH, HEIGHT)])
    unknown = read_keypoints([tmp_path / "a.json"])
    torch.testing.assert_close(unknown.directions, known.directions)
    torch.testing.assert_close(unknown.weights, known.weights)
    assert bool(((unknown.boxes >= -1e-6) & (unknown.boxes <= 1 + 1e-6)).all())


def test_the_largest_is_read_or_the_one_asked_for(tmp_path: Path) -> None:
    small, large = flat(BODY_25, figure(200.0, 200.0)), flat(BODY_25, figure(600.0))
    file = written(tmp_path / "a.json", openpose(small, [], large))
    sizes = [(WIDTH, HEIGHT)]
    boxes = [read_keypoints([file], sizes, person).boxes[0] for person in (1, 2)]
    heights = [float(box[3] - box[1]) for box in boxes]
    assert heights[0] == pytest.approx(3 * heights[1], rel=1e-3)
    third = read_keypoints([file], sizes, 3)
    assert third.seen[0].person == third.seen[0].people == 2
    assert "there is no person 3; person 2 was read" in third.seen[0].remarks


def test_nobody_in_a_file_is_told(tmp_path: Path) -> None:
    reading = read_keypoints([written(tmp_path / "a.json", openpose())], [(WIDTH, HEIGHT)])
    assert reading.seen[0].person == 0 and reading.seen[0].remarks == ("nobody was found",)
    assert float(reading.weights.max()) == 0.0


def test_a_back_and_swapped_sides_are_told_apart_by_the_face(tmp_path: Path) -> None:
    sides = {"l_": "r_", "r_": "l_"}
    swapped = {sides.get(name[:2], name[:2]) + name[2:]: at for name, at in figure().items()}
    numbers = flat(BODY_25, swapped)
    facing = read_keypoints([written(tmp_path / "a.json", openpose(numbers))], [(WIDTH, HEIGHT)])
    assert any("left and right may be swapped" in remark for remark in facing.seen[0].remarks)
    for i in (BODY_25.index[name] for name in ("nose", "l_eye", "r_eye")):
        numbers[3 * i + 2] = 0.0
    behind = read_keypoints([written(tmp_path / "b.json", openpose(numbers))], [(WIDTH, HEIGHT)])
    assert "seen from behind" in behind.seen[0].remarks


def coco(**kinds: Any) -> dict[str, Any]:
    """Annotations of two pictures: a figure in the first, nobody in the second."""
    images = [{"id": 7, "file_name": "photos/a.jpg", "width": WIDTH, "height": HEIGHT},
              {"id": 8, "file_name": "b.jpg", "width": 50, "height": 50}]  # fmt: skip
    seen = {"keypoints": flat(COCO_17, figure(), seen=2.0)}
    return {"images": images, "annotations": [{"image_id": 7, "bbox": [0, 0, 1, 1], **seen, **kinds}]}


def test_one_coco_file_serves_a_folder(tmp_path: Path) -> None:
    written(tmp_path / "captions.json", {"a.jpg": "a man <act>"})
    written(tmp_path / "poses.json", coco())
    table = table_of(tmp_path)
    assert table is not None and table.name == "poses.json"
    found = read_table(table, [tmp_path / "b.png", tmp_path / "a.jpg"])
    assert [one.people for one in found.seen] == [0, 1] and float(found.weights[1].max()) == 1.0
    hidden = {"keypoints": flat(COCO_17, figure(), seen=1.0)}
    half = read_table(written(tmp_path / "half.json", coco(**hidden)), [tmp_path / "a.jpg"])
    assert float(half.weights.max()) == 0.5
    with pytest.raises(DataError, match="two tables"):
        table_of(tmp_path)
    with pytest.raises(DataError, match=r"says nothing about c\.jpg"):
        read_table(table, [tmp_path / "c.jpg"])


def test_whole_bodies_of_coco_have_feet(tmp_path: Path) -> None:
    whole = flat(WHOLE_BODY_133, figure(), seen=2.0)
    parts = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    numbers: dict[str, list[float]] = {}
    at = 3 * 17
    for name, count in parts.items():
        numbers[name], at = whole[at : at + 3 * count], at + 3 * count
    found = read_table(written(tmp_path / "a.json", coco(**numbers)), [tmp_path / "a.jpg"])
    assert found.seen[0].remarks == ()


def test_results_are_matched_by_name_or_number(tmp_path: Path) -> None:
    results = [{"image_id": 785, "category_id": 1, "score": 0.9, "keypoints": flat(COCO_17, figure(), seen=0.8)}]
    file = written(tmp_path / "results.json", results)
    found = read_table(file, [tmp_path / "000000000785.jpg"], [(WIDTH, HEIGHT)])
    assert float(found.weights.max()) == pytest.approx(0.8)
    assert keypoint_file(tmp_path / "results.jpg") == file


@pytest.mark.parametrize("frames", [False, True])
def test_instances_of_mmpose_are_read(frames: bool, tmp_path: Path) -> None:
    points = [[0.0, 0.0]] * 133
    for name, i in WHOLE_BODY_133.index.items():
        points[i] = list(figure()[name])
    instances: Any = [{"keypoints": points, "keypoint_scores": [0.7] * 133, "bbox": [[0, 0, 1, 1]]}]
    if frames:
        instances = {"meta_info": {}, "instance_info": [{"frame_id": 0, "instances": instances}]}
    found = read_keypoints([written(tmp_path / "a.json", instances)], [(WIDTH, HEIGHT)])
    assert float(found.weights[0].min()) == pytest.approx(0.7)


def test_the_file_of_a_picture_is_found_by_name_and_content(tmp_path: Path) -> None:
    picture = tmp_path / "leap.jpg"
    Image.new("RGB", (40, 40)).save(picture)
    assert keypoint_file(picture) is None
    written(tmp_path / "leap.json", {"prompt": "of another tool"})
    assert keypoint_file(picture) is None
    written(tmp_path / "leap.json", openpose())
    assert keypoint_file(picture) == tmp_path / "leap.json"
    written(tmp_path / "leap_keypoints.json", openpose())
    assert keypoint_file(picture) == tmp_path / "leap_keypoints.json"


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("ending", ["_keypoints.json", ".json"])
def test_its_name_is_the_same_however_its_letters_are_composed(
    forms: tuple[str, str], ending: str, tmp_path: Path
) -> None:
    picture, stem = (unicodedata.normalize(form, "Mädchen") for form in forms)
    file = written(tmp_path / f"{stem}{ending}", openpose())
    assert keypoint_file(tmp_path / f"{picture}.png") == file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"poses": []}', "holds no keypoints"),
        ('{"people": 3}', "is malformed"),
        ('{"people": [3]}', "is malformed"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "2 numbers"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "1 keypoints"),
        ('{"people": [{"pose_keypoints_2d": ["a", 2, 3]}]}', "is malformed"),
        (json.dumps(openpose([1e999] * 54)), "is no number"),
        ('{"people": [], "canvas_width": 0, "canvas_height": 5}', "canvas of 0"),
        ('{"annotations": [], "images": [{"id": 1}]}', "lacks 'file_name'"),
        ('{"instance_info": null}', "is malformed"),
        ('[{"keypoints": [[1, 2]], "keypoint_scores": []}]', "is malformed"),
        (json.dumps(coco()), "is about 2 pictures"),
        (json.dumps(openpose([10**400] * 54)), "is malformed"),
        (json.dumps(openpose(canvas_width=float("inf"), canvas_height=5)), "canvas of inf"),
        (json.dumps(openpose(canvas_width=float("nan"), canvas_height=5)), "canvas of nan"),
        (json.dumps(openpose(canvas_width=1e30, canvas_height=5)), "canvas of 1e\\+30"),
        (json.dumps(openpose(canvas_width=10**400, canvas_height=5)), "is malformed"),
        (json.dumps({"instances": [{"keypoints": [[1]] * 17}]}), "is malformed"),
    ],
)  # fmt: skip
def test_what_is_broken_is_told_with_the_files_name(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as told:
        read_keypoints([written(tmp_path / "a_keypoints.json", content)], [(WIDTH, HEIGHT)])
    assert "a_keypoints.json" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.slow
def test_the_shipped_poses_are_whole_and_seen_from_the_front() -> None:
    poses = photographed_poses()
    assert len(poses) >= 10 and all(len(files) >= 3 for files in poses.values())
    for name, files in poses.items():
        reading = read_keypoints(files)
        remarks = " ".join(remark for one in reading.seen for remark in one.remarks)
        assert "behind" not in remarks and "swapped" not in remarks, name
        torso, hips = (reading.directions[:, SEGMENT_NAMES.index(part)] for part in ("torso", "line of the hips"))
        assert bool((torso[:, 0] * hips[:, 1] - torso[:, 1] * hips[:, 0] > 0).all()), name  # left is on our right
        common = photographed_pose(name)
        assert common.unseen == () and len(common.disagreeing) <= 2, (name, common.disagreeing)


def test_shipped_left_and_right_differ() -> None:
    left, right = (photographed_pose(f"warrior, {side} knee bent").directions for side in ("left", "right"))
    thighs = [SEGMENT_NAMES.index(f"{side} thigh") for side in ("left", "right")]
    assert float(left[thighs[0], 1]) < float(left[thighs[1], 1])  # the bent one is the more level
    assert float(right[thighs[1], 1]) < float(right[thighs[0], 1])
