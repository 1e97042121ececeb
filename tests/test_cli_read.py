"""``twinact read`` tells what pictures and keypoint files show."""

import json
from pathlib import Path

import pytest
from PIL import Image

from commands import done, invoke, refused
from twinact.bench.poses import photographed_poses
from twinact.readers.body import SEGMENT_NAMES

TREE = photographed_poses()["tree, palms overhead, on the left leg"]


def test_keypoint_files_are_read_without_pictures_or_a_model(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = done("read", *TREE, "--out", sheet)
    lines = result.stdout.splitlines()
    assert len(lines) == len(TREE) and all("% sure" in line and line.endswith("(keypoints)") for line in lines)
    with Image.open(sheet) as drawn:
        assert drawn.size == (1600, 320)
    assert "already exists" in refused("read", *TREE, "--out", sheet)


def test_a_folder_of_keypoint_files_is_read_as_json() -> None:
    facts = json.loads(done("read", TREE[0].parent, "--json").stdout)
    assert [one["file"] for one in facts["pictures"]] == [path.name for path in TREE]
    assert list(facts["common"]["segments"]) == list(SEGMENT_NAMES)
    standing = facts["common"]["segments"]["left lower leg"]
    assert standing["y"] > 0.9 and standing["weight"] > 0.5
    assert facts["common"]["unseen"] == []


def test_keypoint_files_serve_pictures(tmp_path: Path) -> None:
    for i, file in enumerate(TREE[:2]):
        size = json.loads(file.read_text())
        Image.new("RGB", (size["canvas_width"], size["canvas_height"]), (i, 90, 120)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}_keypoints.json").write_bytes(file.read_bytes())
    result = done("read", tmp_path, "--reader", "keypoints", "--person", "2")
    assert result.stdout.count("there is no person 2; person 1 was read") == 2


def test_pictures_that_disagree_are_told() -> None:
    warriors = [photographed_poses()[f"warrior, {side} knee bent"][0] for side in ("left", "right")]
    told = done("read", *warriors).stdout.splitlines()[-1]
    assert told.startswith("the pictures disagree on: ") and "left lower leg" in told and "torso" not in told


def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("no picture")
    assert "reader 'openpose' must be one of auto, keypoints" in refused(
        "read", tmp_path, "--reader", "openpose", code=2
    )
    assert "b.txt' is not a PNG" in refused("read", tmp_path / "b.txt")
    assert "give one kind at a time" in refused("read", tmp_path / "a.png", TREE[0])
    assert "no keypoint file for a.png" in refused("read", tmp_path / "a.png", "--reader", "keypoints")


@pytest.mark.slow
def test_keypoint_files_without_pictures_are_learned_from(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for file in TREE[:3]:
        (tmp_path / "tree" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tree" / "captions.json").write_text(json.dumps({"1.png": "a woman <act> in a park"}))
    before = sorted(path.name for path in (tmp_path / "tree").iterdir())
    assert len(done("read", tmp_path / "tree").stdout.splitlines()) == 3
    result = done("learn", tmp_path / "tree", "--steps", "0", "--out", tmp_path / "run")
    assert "from the exemplars' pose" in result.stderr
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == before
    assert "2 of 3 pictures have no caption" in result.stderr
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1_keypoints.json").write_text("{")
    assert f"'{tmp_path / 'broken' / '1_keypoints.json'}' is no JSON" in refused("learn", tmp_path / "broken")
    (tmp_path / "broken" / "1_keypoints.json").write_bytes(TREE[0].read_bytes())
    (tmp_path / "broken" / "captions.json").write_text(json.dumps({"1.png": "a woman in a park"}))
    assert f"exemplar folder '{tmp_path / 'broken'}': " in refused("learn", tmp_path / "broken")
    # Drawings of limbs are no pictures that somebody wants drawn.
    told = invoke("learn", tmp_path / "tree", "--denoising-weight", "0.5", "--out", tmp_path / "other")
    assert told.exit_code == 1 and "keypoint files and no pictures" in told.stderr.splitlines()[-1]
