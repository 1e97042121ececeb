"""Names are taken by creating them: nothing that exists is replaced, and nothing of others is touched."""

import json
import os
import resource
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import fresh
from commands import refused
from families import BASES
from twinact.action import Action
from twinact.cli.outputs import RECORD, PictureFolder, new_file, new_folder
from twinact.errors import DataError, NameTaken
from twinact.export import embedding_contents, export_embedding
from twinact.runs.folder import RunFolder
from twinact.storage import atomic_write_bytes, write_all_new


def draw_into(folder: Path, shade: int) -> None:
    pictures = PictureFolder(folder)
    (folder.parent / f"{shade} is in").touch()
    while len(list(folder.parent.glob("* is in"))) < 2:  # a folder with pictures would be refused
        time.sleep(0.01)
    for seed in range(5):
        pictures.add(Image.new("RGB", (8, 8), (shade,) * 3), "leap", {"seed": seed, "shade": shade}, "")


@pytest.mark.slow
def test_two_processes_draw_into_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    both = [fresh.start(draw_into, folder, shade) for shade in (10, 200)]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    lines = [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
    assert len({line["file"] for line in lines}) == len(lines) == len(list(folder.glob("*.png"))) == 10
    for line in lines:
        assert Image.open(folder / line["file"]).getpixel((0, 0)) == (line["shade"],) * 3


def test_a_picture_that_cannot_be_noted_down_is_not_kept(tmp_path: Path) -> None:
    pictures, before = PictureFolder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"seed": 0, "prompt": "a " * 2000}
    first = pictures.add(Image.new("RGB", (8, 8)), "leap", large, "")
    line = (tmp_path / RECORD).read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))  # a disk that ends in the next line
    try:
        with pytest.raises(DataError, match=r"cannot write .*pictures\.jsonl: .*; free some space"):
            pictures.add(Image.new("RGB", (8, 8)), "leap", {**large, "seed": 1}, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.glob("*.png")) == [first] and (tmp_path / RECORD).read_bytes() == line
    pictures.add(Image.new("RGB", (8, 8)), "leap", {**large, "seed": 1}, "")
    assert [json.loads(one)["seed"] for one in (tmp_path / RECORD).read_text().splitlines()] == [0, 1]


def test_a_picture_that_a_kill_left_without_its_line_does_not_close_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("twinact.cli.outputs.append_line", killed)
        with pytest.raises(KeyboardInterrupt):
            PictureFolder(tmp_path / "new").add(Image.new("RGB", (8, 8)), "leap", {"seed": 0}, "")
    second = PictureFolder(tmp_path / "new").add(Image.new("RGB", (8, 8)), "leap", {"seed": 0}, "")
    assert second.name == "leap_00001_0.png"
    assert [json.loads(line)["file"] for line in (tmp_path / "new" / RECORD).read_text().splitlines()] == [second.name]


def test_a_folder_that_was_opened_twice_keeps_all_pictures(tmp_path: Path) -> None:
    first, second = PictureFolder(tmp_path), PictureFolder(tmp_path)
    paths = [
        folder.add(Image.new("RGB", (8, 8), (shade,) * 3), "leap", {"seed": 0}, "")
        for folder, shade in ((first, 1), (second, 2), (first, 3))
    ]
    assert [Image.open(path).getpixel((0, 0))[0] for path in paths] == [1, 2, 3]


def test_a_new_file_is_new_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "leap.action.safetensors"
    assert new_file(path) == path
    path.write_text("of another process")
    with pytest.raises(NameTaken, match="already exists and is not replaced"):
        Action("leap", [torch.ones(1, 4)], "tiny@0").save(path, new=True)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["of another process"]
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    for taken in (lambda: new_file(dangling), lambda: atomic_write_bytes(dangling, b"", new=True)):
        with pytest.raises(NameTaken):
            taken()
    assert dangling.is_symlink()


def test_an_export_is_whole_or_nothing(tmp_path: Path) -> None:
    action = Action("leap", [torch.ones(1, 32)], "tiny@0")
    first, second = embedding_contents(action, BASES["sd"], tmp_path)
    second.mkdir(parents=True)
    with pytest.raises(NameTaken):
        export_embedding(action, BASES["sd"], tmp_path)
    assert not first.exists()
    with pytest.raises(DataError, match="cannot write"):
        write_all_new({first: b"1", first / "below" / "a": b"2"})
    assert not first.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_what_a_write_left_is_deleted_only_if_it_is_ours(tmp_path: Path) -> None:
    ours, others = tmp_path / f".twinact-7-{'0' * 16}.tmp", tmp_path / f".twinact-7-{'1' * 16}.tmp"
    linked = tmp_path / f".twinact-7-{'2' * 16}.tmp"
    kept = [tmp_path / ".notes.tmp", others, linked, tmp_path / ".target"]
    for path in (ours, *kept[:2], kept[3]):
        path.write_text("x")
    linked.symlink_to(kept[3])
    os.chown(others, 12345, 12345)
    with RunFolder.open(tmp_path, "leap", {}, {}):
        pass
    assert not ours.exists()
    assert all(path.exists() for path in kept)


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "diary"
    target.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(target)
    with pytest.raises(DataError, match=r"\.lock"):
        RunFolder.open(run, "leap", {}, {})
    assert target.read_text() == "mine"
    (tmp_path / RECORD).symlink_to(target)
    with pytest.raises(DataError, match=r"pictures\.jsonl: .*symbolic link"):
        PictureFolder(tmp_path).add(Image.new("RGB", (8, 8)), "leap", {"seed": 0}, "")
    assert target.read_text() == "mine"


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for make in (new_folder, lambda path: new_file(path / "a.png")):
        with pytest.raises(DataError, match="is no folder"):
            make(tmp_path / "file" / "below")
    told = refused("generate", "a.action.safetensors", "--prompt", "a <act>", "--out", tmp_path / "file" / "below")
    assert "is no folder" in told
