"""What lies in folders of exemplars besides pictures and their captions: masks, maps, tables, files of systems."""

import json
import os
import unicodedata
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from commands import invoke
from twinact.cli.learn import action_folders, action_name
from twinact.data.exemplars import load_exemplars
from twinact.errors import DataError


def coloured(path: Path, red: int = 200) -> Path:
    picture = Image.new("RGB", (64, 48), (red, 40, 90))
    picture.paste((20, 180, 60), (0, 0, 32, 48))
    picture.save(path)
    return path


def many_coloured(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth, with as many colours as photographs have."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def grey(path: Path) -> Path:
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (48, 1))
    Image.fromarray(ramp).save(path)
    return path


@pytest.mark.parametrize("end", [".mask", "-masklabel", "_mask", "_MASK"])
def test_masks_by_the_names_of_other_tools_are_masks(end: str, tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a woman <act>")
    grey(tmp_path / f"0{end}.png")
    loaded = load_exemplars(tmp_path, 32)
    assert len(loaded) == 1 and loaded.masks[0] is not None
    grey(tmp_path / "0.mask.png" if end != ".mask" else tmp_path / "0_mask.png")
    with pytest.raises(DataError, match="is a mask of the same picture; delete one"):
        load_exemplars(tmp_path, 32)


@pytest.mark.parametrize("name", ["0_depth.png", "0-condlabel.png", "0.canny.png", "0 edges.jpg", "0_seg.webp"])
def test_maps_of_a_picture_are_refused_by_name(name: str, tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    grey(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: .* a mask or map of 0.png"):
        load_exemplars(tmp_path, 32)


@pytest.mark.parametrize("name", ["0_depth.png", "0-d.jpg", "b_0.png"])
@pytest.mark.parametrize("palette", ["viridis", "inferno", "turbo"])
def test_maps_in_colours_are_refused_by_name(name: str, palette: str, tmp_path: Path) -> None:
    depth = np.linspace(0, 1, 96 * 64).reshape(64, 96)
    coloured_map = (mpl.colormaps[palette](depth)[..., :3] * 255).astype(np.uint8)
    many_coloured(64, 96).save(tmp_path / "0.png")
    Image.fromarray(coloured_map).save(tmp_path / name, quality=90)
    with pytest.raises(DataError, match=f"{name}: .* a mask or map of 0.png"):
        load_exemplars(tmp_path, 32)
    Image.fromarray(coloured_map).save(tmp_path / "1.png")  # a picture of its own, by its name
    (tmp_path / name).unlink()
    assert len(load_exemplars(tmp_path, 32)) == 2


def test_pictures_are_no_maps_of_each_other(tmp_path: Path) -> None:
    """A series of one scene, a detail of another shape, and one drawing beside another."""
    many_coloured(64, 96).save(tmp_path / "0.png")
    many_coloured(64, 96, seed=1).save(tmp_path / "0-2.png")
    coloured(tmp_path / "0_close.png")
    coloured(tmp_path / "drawn.png", 10)
    coloured(tmp_path / "drawn 2.png", 90)
    assert len(load_exemplars(tmp_path, 32)) == 5


@pytest.mark.parametrize(("picture", "name"), [("0.jpg", "0.png"), ("0.png", "0m.png"), ("0.png", "m0.jpg")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_black_and_white_beside_a_picture_is_a_mask_whatever_its_name(
    picture: str, name: str, mode: str, tmp_path: Path
) -> None:
    many_coloured(64, 96).convert(mode).save(tmp_path / picture)
    mask = Image.new("L", (96, 64))
    mask.paste(255, (30, 10, 70, 60))
    mask.save(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: is black and white alone, .* a mask or map of {picture}"):
        load_exemplars(tmp_path, 32)
    mask.save(tmp_path / picture)  # drawings in ink, all of them
    mask.transpose(Image.Transpose.ROTATE_90).save(tmp_path / name)
    assert len(load_exemplars(tmp_path, 32)) == 2


@pytest.mark.parametrize("name", ["0_mask.jpg", "0-masklabel.webp"])
def test_masks_that_are_no_png_are_refused_by_name(name: str, tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    grey(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: masks are PNG files"):
        load_exemplars(tmp_path, 32)


def test_pictures_may_have_such_names_and_no_colour(tmp_path: Path) -> None:
    coloured(tmp_path / "face_mask.png")
    coloured(tmp_path / "a.png", 10)
    coloured(tmp_path / "a_2.png", 90)
    grey(tmp_path / "b.png")
    assert len(load_exemplars(tmp_path, 32)) == 4


def test_files_of_systems_and_tools_are_passed_over(tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    of_tools = (
        "0_0512x0512_sd.npz",
        "other.json",
        "0.npy",
        "0_te.safetensors",
        "dataset.toml",
        "0.xmp",
        "0.AAE",
        "0.txt~",
    )
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "~$0.txt", "README.md", "LICENSE", *of_tools):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "@eaDir").mkdir()
    assert len(load_exemplars(tmp_path, 32)) == 1


def test_captions_of_other_tools_are_read(tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "2.png"):
        coloured(tmp_path / name, 10 * int(name[0]))
    rows = [{"file_name": "0.png", "text": "a cat <act>"}, {"file_name": "1.png", "caption": "a dog <act>"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "2.caption").write_text("a man <act>")
    assert load_exemplars(tmp_path, 32).captions == ("a cat <act>", "a dog <act>", "a man <act>")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "9.png", "text": "a <act>"}')
    with pytest.raises(DataError, match=r"metadata\.jsonl: '9\.png' names no picture"):
        load_exemplars(tmp_path, 32)
    (tmp_path / "metadata.jsonl").write_text('["a"]')
    with pytest.raises(DataError, match=r"metadata\.jsonl: each line must be like"):
        load_exemplars(tmp_path, 32)


def test_tables_of_captions_may_be_csv_and_hold_any_letter(tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    (tmp_path / "Metadata.CSV").write_text('file_name,text\r\n./0.png,"a cat <act>,\nin a park"\r\n')
    assert load_exemplars(tmp_path, 32).captions == ("a cat <act>, in a park",)
    (tmp_path / "Metadata.CSV").write_text("image;text\n")
    with pytest.raises(DataError, match=r"Metadata\.CSV: must have a first line with the headings file_name and text"):
        load_exemplars(tmp_path, 32)
    (tmp_path / "Metadata.CSV").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a cat <act>,\u2028in a park"}\n')
    assert load_exemplars(tmp_path, 32).captions == ("a cat <act>, in a park",)


@pytest.mark.parametrize(
    "files",
    [
        {"captions.json": '{"0.png": "a cat <act>", "0.png": "a dog <act>"}'},
        {"metadata.jsonl": '{"file_name": "0.png", "text": "a <act>"}\n{"file_name": "0.png", "text": "a dog <act>"}'},
        {"captions.json": '{"0.png": "a cat <act>"}', "metadata.csv": "file_name,text\n0.png,a dog <act>\n"},
        {"0.txt": "a cat <act>", "0.caption": "a dog <act>"},
    ],
)
def test_two_captions_of_a_picture_must_be_one(files: dict[str, str], tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"says something else of 0\.png than is said .*; keep one of the two"):
        load_exemplars(tmp_path, 32)
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("a dog", "a cat").replace('"a <act>', '"a cat <act>'))
    assert load_exemplars(tmp_path, 32).captions == ("a cat <act>",)


@pytest.mark.parametrize("source", ["beside", "table", "mask"])
def test_names_are_the_same_however_their_letters_are_composed(source: str, tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Mädchen") for form in ("NFC", "NFD"))
    assert action_name(tmp_path / composed) == action_name(tmp_path / apart)
    coloured(tmp_path / f"{composed}.png")
    if source == "beside":
        (tmp_path / f"{apart}.txt").write_text("a girl <act>")
    elif source == "table":
        (tmp_path / "captions.json").write_text(json.dumps({f"{apart}.png": "a girl <act>"}))
    else:
        grey(tmp_path / f"{apart}.mask.png")
    loaded = load_exemplars(tmp_path, 32)
    assert loaded.masks[0] is not None if source == "mask" else loaded.captions == ("a girl <act>",)


@pytest.mark.parametrize("name", ["0.txt", "captions.json", "metadata.jsonl", "1.png"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder link", "huge"])
def test_files_that_are_no_files_are_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        with path.open("wb") as file:
            file.truncate(300_000_000)
    told = "has more than" if kind == "huge" else "is not a regular file"
    with pytest.raises(DataError, match=f"{name}: {told}"):
        load_exemplars(tmp_path, 32)


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    coloured(tmp_path / "0.png")
    (tmp_path / "captions.json").write_text('{"0.png": "a \\ud83d <act>"}')
    with pytest.raises(DataError, match="half a character"):
        load_exemplars(tmp_path, 32)


def test_a_folder_of_folders_may_hold_notes(tmp_path: Path) -> None:
    for name in ("10_leap", "wave"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "@eaDir").mkdir()
    assert [action_name(folder) for folder in action_folders(tmp_path)] == ["leap", "wave"]
    coloured(tmp_path / "0.png")
    assert action_folders(tmp_path) == []
    result = invoke("learn", tmp_path, "--name", "leap")
    assert result.exit_code == 1 and "notes.txt: no picture is called 'notes'" in result.stderr
