"""Whether the colours of exemplars are those that people see, however a file says them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from twinact.data.exemplars import load_exemplars
from twinact.errors import DataError


def display_p3() -> bytes:
    """A profile with the primaries of Display P3, adapted to D50, and a gamma of 2.2."""

    def xyz(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(number * 65536) for number in numbers))

    tags = {
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105), b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407), b"wtpt": xyz(0.9642, 1.0, 0.8249),
        **{name: b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(2.2 * 256)) + b"\0\0"
           for name in (b"rTRC", b"gTRC", b"bTRC")},
    }  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    illuminant = struct.pack(">3i", *(round(number * 65536) for number in (0.9642, 1.0, 0.8249)))
    return head.ljust(68, b"\0") + illuminant + bytes(48) + table + body


@pytest.mark.parametrize(("mode", "end"), [("RGB", "png"), ("RGBA", "png"), ("RGB", "jpg"), ("P", "png")])
def test_colours_of_other_profiles_are_converted(mode: str, end: str, tmp_path: Path) -> None:
    """A phone writes (235, 78, 70) for the red that is (255, 60, 60) on the web."""
    picture = Image.new("RGB", (64, 64), (235, 78, 70))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / f"0.{end}", icc_profile=display_p3(), **({"quality": 100} if end == "jpg" else {}))
    seen = load_exemplars(tmp_path, 64).images[0].getpixel((32, 32))
    assert np.abs(np.subtract(seen, (255, 60, 60))).max() <= 6
    picture.convert("RGB").save(tmp_path / f"0.{end}")
    plain = load_exemplars(tmp_path, 64).images[0].getpixel((32, 32))
    assert np.abs(np.subtract(plain, (235, 78, 70))).max() <= 2
    picture.convert("RGB").save(tmp_path / f"0.{end}", icc_profile=b"damaged")
    assert load_exemplars(tmp_path, 64).images[0].getpixel((32, 32)) == plain


def explained(chunk: bytes, content: bytes, mode: str, path: Path) -> None:
    """A PNG with a chunk that says what its colours mean."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add(chunk, content)
    picture = Image.new("RGB", (64, 64), (200, 100, 50))
    (picture.quantize(4) if mode == "P" else picture.convert(mode)).save(path, pnginfo=chunks)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_gamma_are_converted(mode: str, tmp_path: Path) -> None:
    """Light is the numbers to the power of 1.8, where sRGB has 2.2."""
    explained(b"gAMA", struct.pack(">I", 55556), mode, tmp_path / "0.png")
    seen = load_exemplars(tmp_path, 64).images[0].getpixel((32, 32))
    right = [255 * (level / 255) ** (1.8 / 2.2) for level in (200, 100, 50)]
    assert np.abs(np.subtract(seen, right)).max() <= 2
    explained(b"gAMA", struct.pack(">I", 45455), mode, tmp_path / "0.png")
    plain = load_exemplars(tmp_path, 64).images[0].getpixel((32, 32))
    assert np.abs(np.subtract(plain, (200, 100, 50))).max() <= 1


def test_colours_that_are_coded_are_srgb_or_refused(tmp_path: Path) -> None:
    explained(b"cICP", bytes((1, 13, 0, 1)), "RGB", tmp_path / "0.png")
    load_exemplars(tmp_path, 64)
    explained(b"cICP", bytes((12, 13, 0, 1)), "RGB", tmp_path / "0.png")  # Display P3
    with pytest.raises(DataError, match=r"0\.png.*cICP 12, 13, 0, 1.*save it as sRGB"):
        load_exemplars(tmp_path, 64)
