"""Exemplar folders: every kind of picture is read right or refused by name, and no caption is lost."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exemplar_files import BLUE, RED, grey16, halves, near, pixel, truncated
from twinact.data import pictures as module
from twinact.data.captions import default_caption
from twinact.data.exemplars import load_exemplars, read_exemplars
from twinact.errors import ConfigError, DataError


def test_reads_by_content_in_order_of_name(tmp_path: Path) -> None:
    halves().save(tmp_path / "b.png", format="JPEG", quality=95)
    halves().save(tmp_path / "a.jpg", format="WEBP", lossless=True)
    halves().save(tmp_path / "c", format="PNG")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    loaded = load_exemplars(tmp_path, 48)
    assert [path.name for path in loaded.paths] == ["a.jpg", "b.png", "c"]
    assert loaded.captions == (default_caption(),) * 3
    assert loaded.hashes[0] == hashlib.sha256((tmp_path / "a.jpg").read_bytes()).hexdigest()
    for image in loaded.images:
        assert (image.mode, image.size) == ("RGB", (48, 48))
        assert near(pixel(image, 0.1, 0.5), RED) and near(pixel(image, 0.9, 0.5), BLUE)


def test_pixels_are_channels_first_in_minus_one_to_one(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 32), (255, 0, 51))
    picture.save(tmp_path / "a.png")
    pixels = load_exemplars(tmp_path, 32).pixels
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 5, 5], torch.tensor([1.0, -1.0, -0.6]))


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "RGBA", "LA"])
def test_colour_modes_simply_work(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("black", (0, 0, 32, 64))
    suffix = "jpg" if mode == "CMYK" else "png"
    picture.convert(mode).save(tmp_path / f"a.{suffix}")
    (image,) = load_exemplars(tmp_path, 64).images
    assert near(pixel(image, 0.2, 0.5), (0, 0, 0)) and near(pixel(image, 0.8, 0.5), (255, 255, 255))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_lies_on_white(tmp_path: Path, mode: str) -> None:
    if mode == "RGBA":
        picture = Image.new("RGBA", (64, 64), (*RED, 255))
        picture.paste((0, 0, 0, 0), (32, 0, 64, 64))
        picture.save(tmp_path / "a.png")
    else:
        picture = Image.new("P", (64, 64), 0)
        picture.putpalette([*RED, 0, 0, 0])
        picture.paste(1, (32, 0, 64, 64))
        picture.save(tmp_path / "a.png", transparency=1)
    (image,) = load_exemplars(tmp_path, 64).images
    assert near(pixel(image, 0.2, 0.5), RED) and near(pixel(image, 0.8, 0.5), (255, 255, 255))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turn: Image.Transpose) -> None:
    upright = halves()
    upright.paste((10, 200, 10), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(turn).save(tmp_path / "a.png", exif=exif)  # stored turned, tagged how to turn it back
    (image,) = load_exemplars(tmp_path, 64).images
    assert np.array_equal(np.asarray(image), np.asarray(upright))
    assert not image.getexif()


def test_jpeg_of_a_phone_held_upright_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor lies on its side: turn by a quarter to the right
    halves(48, 64).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", quality=95, exif=exif)
    (image,) = load_exemplars(tmp_path, 64).images
    # 48 of the 64 columns are the picture, the rest repeats its edges.
    for x, colour in ((0.02, RED), (0.4, RED), (0.6, BLUE), (0.98, BLUE)):
        assert near(pixel(image, x, 0.1), colour, 20) and near(pixel(image, x, 0.9), colour, 20)


def test_nothing_is_cropped_and_the_margin_repeats_the_edge(tmp_path: Path) -> None:
    tall = Image.new("RGB", (40, 80), (90, 90, 90))
    tall.paste(RED, (0, 0, 40, 8))
    tall.paste(BLUE, (0, 72, 40, 80))
    tall.save(tmp_path / "a.png")
    (image,) = load_exemplars(tmp_path, 80).images
    for x in (0.0, 0.5, 0.99):
        assert near(pixel(image, x, 0.02), RED) and near(pixel(image, x, 0.98), BLUE)


def test_phone_jpeg_with_a_second_frame_works(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    (image,) = load_exemplars(tmp_path, 64).images
    assert near(pixel(image, 0.1, 0.5), RED, 20)


def _animated(path: Path) -> None:
    halves().save(path, format="WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))])


def _animated_png(path: Path) -> None:
    halves().save(path, format="PNG", save_all=True, append_images=[Image.new("RGB", (64, 64))])


def _gif(path: Path) -> None:
    halves().save(path, format="GIF")


def _huge(path: Path) -> None:
    Image.new("1", (7000, 6000)).save(path, format="PNG")


def _bomb(path: Path) -> None:
    Image.new("1", (12_000, 10_000)).save(path, format="PNG")  # over Pillow's warning limit


def _big_bomb(path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(path, format="PNG")  # over Pillow's error limit


def _small(path: Path) -> None:
    Image.new("RGB", (300, 31)).save(path, format="PNG")


def _huge_jpeg(path: Path) -> None:
    Image.new("L", (9000, 8889)).save(path, format="JPEG")  # 80 001 000 pixels


BAD: list[tuple[Callable[[Path], object], str]] = [
    (truncated, "is broken"),
    (lambda path: path.write_bytes(b""), "is not a PNG, JPEG, WEBP picture"),
    (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "is not a PNG, JPEG, WEBP picture"),
    (_gif, "is not a PNG, JPEG, WEBP picture"),
    (_animated, "animated"),
    (_animated_png, "animated"),
    (grey16, "16 bits"),
    (_huge, "40 megapixels"),
    (_bomb, "40 megapixels"),
    (_big_bomb, "40 megapixels"),
    (_huge_jpeg, "9000 × 8889 pixels: .*, and 80 of a JPEG"),
    (_small, "needs 32"),
    (os.mkfifo, "not a regular file"),
]


@pytest.mark.parametrize(("make", "told"), BAD)
def test_unusable_pictures_are_refused_by_name(tmp_path: Path, make: Callable[[Path], object], told: str) -> None:
    make(tmp_path / "pic.png")
    with pytest.raises(DataError, match=rf"^exemplar folder '[^\n]*': pic\.png: [^\n]*{told}[^\n]*$"):
        load_exemplars(tmp_path, 64)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_jpegs_of_more_pixels_than_are_kept_are_read_smaller(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]} if kind == "MPO" else {}
    halves(101, 201).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", kind, quality=95, exif=exif, **more)
    monkeypatch.setattr(module, "MAX_PIXELS", 101 * 201)
    assert read_exemplars(tmp_path).images[0].size == (101, 201)
    monkeypatch.setattr(module, "MAX_PIXELS", 101 * 201 - 1)
    (image,) = read_exemplars(tmp_path).images
    assert image.size == (51, 101) and module.upright_size(tmp_path / "a.jpg") == (101, 201)
    assert near(pixel(image, 0.1, 0.5), RED, 20) and near(pixel(image, 0.9, 0.5), BLUE, 20)
    monkeypatch.setattr(module, "MAX_JPEG_PIXELS", 101 * 201 - 1)
    with pytest.raises(DataError, match=r"has 201 × 101 pixels"):
        read_exemplars(tmp_path)


def test_photographs_of_the_largest_phones_are_kept_small(tmp_path: Path) -> None:
    Image.new("L", (8160, 6144)).save(tmp_path / "a.jpg")
    (image,) = read_exemplars(tmp_path).images
    assert (image.mode, image.size) == ("RGB", (4080, 3072))


def test_colour_with_16_bits_is_refused(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    assert data[24] == 8
    data[24] = 16  # Pillow cannot write 16-bit colour; the header decides before anything is decoded
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="16 bits"):
        load_exemplars(tmp_path, 64)


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves().save(tmp_path / "a.png")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="save it smaller"):
        load_exemplars(tmp_path, 64)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    _animated(tmp_path / "b.webp")
    _small(tmp_path / "c.png")
    (tmp_path / "a.txt").write_text("someone leaping")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(DataError) as caught:
        load_exemplars(tmp_path, 64)
    (line,) = str(caught.value).splitlines()
    places = [line.index(part) for part in ("4 problems: (1) a.txt: ", "(2) b.webp: ", "(3) c.png: ", "(4) d.png: ")]
    assert places == sorted(places)
    assert "same file as a.png" in line[places[3] :]


def test_captions_from_txt_json_and_argument(tmp_path: Path) -> None:
    for index, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        Image.new("RGB", (40, 40), (index * 50, 0, 0)).save(tmp_path / name)
    (tmp_path / "captions.json").write_text(json.dumps({"a.png": "a dog <act>", "b.png": "a cat <act>"}))
    (tmp_path / "b.txt").write_text("\ufeffa woman <act>\n in a park \n", encoding="utf-8")
    loaded = load_exemplars(tmp_path, 32, {"c.png": "a robot <act>"})
    assert loaded.captions == ("a dog <act>", "a woman <act> in a park", "a robot <act>", default_caption())


def test_captions_as_tools_and_data_sets_have_them(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (40, 40), (index * 50, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "0.caption").write_text("a dog <act>")
    rows = ({"file_name": "1.png", "text": "a cat <act>"}, {"file_name": "2.png", "caption": "a fox <act>"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = read_exemplars(tmp_path, actor="a woman")
    assert loaded.captions == ("a dog <act>", "a cat <act>", "a fox <act>", "a photo of a woman <act>")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.jsonl", '{"text": "a <act>"}', "each line must be like"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 3}', "each line must be like"),
        ("a.txt", "a woman leaping", r"a\.txt: caption 'a woman leaping' holds <act> 0 times; write it once"),
        ("a.txt", "<act> and <act>", "2 times"),
        ("a.txt", "", "0 times"),
        ("a.txt", "a woman <ACT>", "0 times"),
        ("other.txt", "a woman <act>", r"other\.txt: no picture is called 'other'"),
        ("captions.json", '{"z.png": "a <act>"}', "'z.png' names no picture"),
        ("captions.json", '{"a.png": 3}', "not text"),
        ("captions.json", '["a <act>"]', "must be an object"),
        ("captions.json", "{", "not readable JSON"),
    ],
)
def test_no_caption_is_silently_lost(tmp_path: Path, name: str, content: str, told: str) -> None:
    halves().save(tmp_path / "a.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=told):
        load_exemplars(tmp_path, 64)


def test_captions_in_another_encoding_or_for_nothing_are_refused(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"'b\.png': names no picture"):
        load_exemplars(tmp_path, 64, {"b.png": "a <act>"})
    (tmp_path / "a.txt").write_bytes("a café <act>".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        load_exemplars(tmp_path, 64)


def test_bad_folders_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        load_exemplars(tmp_path, 64)
    (tmp_path / "a.txt").write_text("a <act>")
    with pytest.raises(DataError, match="is a file"):
        load_exemplars(tmp_path / "a.txt", 64)
    with pytest.raises(DataError, match="does not exist"):
        load_exemplars(tmp_path / "none", 64)
    halves().save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="size"):
        load_exemplars(tmp_path, 0)
