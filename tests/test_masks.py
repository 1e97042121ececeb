"""Masks beside exemplars: whose they are, how they are fitted, and which cannot be used."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exemplar_files import grey16, halves, truncated
from twinact.data.exemplars import load_exemplars
from twinact.errors import DataError


def left_half(width: int, height: int) -> Image.Image:
    """White left half, black right half."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width // 2, height))
    return mask


def test_a_mask_belongs_to_its_picture_and_is_none_itself(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.jpg")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    plain = load_exemplars(tmp_path, 48)
    assert plain.masks == (None, None) and plain.mask_pixels is None
    left_half(64, 64).save(tmp_path / "a.mask.png")
    loaded = load_exemplars(tmp_path, 48)
    assert [path.name for path in loaded.paths] == ["a.jpg", "b.png"]
    pixels = loaded.mask_pixels
    assert pixels is not None and pixels.shape == (2, 1, 48, 48) and pixels.dtype == torch.float32
    assert bool((pixels[0, 0, :, :23] == 1).all()) and bool((pixels[0, 0, :, 25:] == 0).all())
    assert bool((pixels[1] == 1).all())  # what has no mask counts everywhere
    assert torch.equal(loaded.pixels, plain.pixels) and loaded.captions == plain.captions
    # Another mask is another exemplar.
    assert loaded.hashes[0] != plain.hashes[0] and loaded.hashes[1] == plain.hashes[1]
    left_half(64, 64).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "a.mask.png")
    assert load_exemplars(tmp_path, 48).hashes[0] not in (loaded.hashes[0], plain.hashes[0])


@pytest.mark.parametrize("size", [(90, 40), (45, 20 * 2), (181, 80), (900, 400)])
def test_a_mask_is_fitted_as_its_picture_is(tmp_path: Path, size: tuple[int, int]) -> None:
    """The picture is its own mask, in this or another size: white where it is red."""
    picture = Image.new("RGB", (90, 40))
    picture.paste((255, 0, 0), (0, 0, 45, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    left_half(*size).save(tmp_path / "a.mask.png")
    if size == (45, 40):  # not the shape of the picture
        with pytest.raises(DataError, match=r"a\.mask\.png: has 45 × 40 pixels and its picture 90 × 40; save it in"):
            load_exemplars(tmp_path, 60)
        return
    loaded = load_exemplars(tmp_path, 60)
    mask = loaded.masks[0]
    assert mask is not None and (mask.mode, mask.size) == ("L", (60, 60))
    red = np.asarray(loaded.images[0])[..., 0].astype(int)
    assert np.abs(red - np.asarray(mask).astype(int))[:, [*range(28), *range(32, 60)]].max() <= 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_masks_of_all_modes_work(tmp_path: Path, mode: str) -> None:
    halves().save(tmp_path / "a.png")
    left_half(64, 64).convert(mode).save(tmp_path / "a.mask.png")
    pixels = load_exemplars(tmp_path, 64).mask_pixels
    assert pixels is not None and torch.equal(pixels[0, 0, 0], torch.tensor([1.0] * 32 + [0.0] * 32))


def _cut_out(path: Path) -> None:
    figure = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    figure.paste((0, 0, 0, 0), (32, 0, 64, 64))
    figure.save(path)


BAD_MASKS: list[tuple[str, Callable[[Path], object], str]] = [
    ("a.mask.png", lambda path: Image.new("L", (64, 48), 255).save(path), "64 × 48 pixels and its picture 64 × 64"),
    ("a.mask.png", lambda path: Image.new("L", (64, 64)).save(path), "all black"),
    ("a.mask.png", lambda path: Image.new("L", (8, 8), 255).save(path), "needs 32"),
    ("a.mask.png", _cut_out, "transparent in places"),
    ("a.mask.png", truncated, "is broken"),
    ("a.mask.png", grey16, "16 bits"),
    ("z.mask.png", lambda path: left_half(64, 64).save(path), "no picture is called 'z'"),
    ("a.mask.jpg", lambda path: left_half(64, 64).save(path), r"masks are PNG files; save it as a\.mask\.png"),
]


@pytest.mark.parametrize(("name", "make", "told"), BAD_MASKS, ids=[told for _, _, told in BAD_MASKS])
def test_unusable_masks_are_refused_by_name(
    tmp_path: Path, name: str, make: Callable[[Path], object], told: str
) -> None:
    halves().save(tmp_path / "a.png")
    make(tmp_path / name)
    with pytest.raises(DataError, match=rf"^exemplar folder '[^\n]*': {name}: [^\n]*{told}[^\n]*$"):
        load_exemplars(tmp_path, 64)


def test_masks_alone_are_no_pictures(tmp_path: Path) -> None:
    left_half(64, 64).save(tmp_path / "a.mask.png")
    with pytest.raises(DataError, match="holds no pictures"):
        load_exemplars(tmp_path, 64)


def test_a_folder_of_masks_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "Masks").mkdir()
    for folder in (tmp_path, tmp_path / "Masks"):
        Image.new("RGB", (64, 48), "white").save(folder / "0.png")
    with pytest.raises(DataError, match=r"Masks: masks lie beside their pictures; .*called as in 1\.mask\.png"):
        load_exemplars(tmp_path, 64)
