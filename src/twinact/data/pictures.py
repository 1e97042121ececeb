"""Reads a picture file and its mask, checks them, turns them upright, and fits them into a frame."""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE_PIXELS = 32
# A decoded megapixel costs 3 MB, and more of them gain nothing at 1024 pixels.
MAX_PIXELS = 40_000_000
# Phones take 12 to 64 megapixels, all as JPEG. The larger ones are decoded at half their width and height, which takes
# less memory than MAX_PIXELS; but a progressive file keeps up to 6 bytes a pixel of its full size while it is read.
MAX_JPEG_PIXELS = 80_000_000
_ALLOWED = (
    f"at most {MAX_PIXELS // 10**6} megapixels are taken, and {MAX_JPEG_PIXELS // 10**6} of a JPEG; save it smaller"
)
MAX_FILE_BYTES = 200_000_000

_SRGB_GAMMA = 0.45455
_GAMMA_TOLERANCE = 0.05  # nearer ones change no level by more than five of 256
_SRGB_CODES = (1, 13, 0, 1)  # primaries, transfer, matrix and range in a cICP chunk


class UnusableError(Exception):
    """What is wrong with one file, in words for the person who put it there."""


def read_picture(path: Path) -> tuple[Image.Image, str]:
    """A picture in RGB, laid on white where it is transparent, and the SHA-256 of its file.

    A JPEG of more than `MAX_PIXELS` comes at half its width and height; see `upright_size` for those of its file.

    Raises:
        UnusableError: It cannot be used.
    """
    return _read(path, _on_white)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height that the file of a picture has once it is upright, as keypoints in pixels count them."""
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if on_its_side else (width, height)


def read_mask(path: Path, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """A mask in 256 greys, and the SHA-256 of its file.

    Args:
        path: The file.
        size: Width and height of the upright picture that it belongs to; the mask has this shape in any size.

    Raises:
        UnusableError: It cannot be used.
    """
    mask, digest = _read(path, _grey)
    (width, height), (own_width, own_height) = size, mask.size
    # Sides that are rounded to whole pixels are off by half a one.
    if 2 * abs(own_width * height - own_height * width) > width + height:
        raise UnusableError(
            f"has {own_width} × {own_height} pixels and its picture {width} × {height}; save it in that size, upright"
        )
    return mask, digest


def fit_square(picture: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    """The whole picture, scaled to touch the square and centred; the rest repeats its edge."""
    return fit_into(picture, (size, size), resampling)


def fit_into(picture: Image.Image, shape: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """The whole picture, scaled to touch a frame of that width and height and centred; the rest repeats its edge."""
    scale = min(side / own for side, own in zip(shape, picture.size, strict=True))
    width, height = (min(side, max(1, round(own * scale))) for side, own in zip(shape, picture.size, strict=True))
    pixels = np.asarray(picture.resize((width, height), resampling))
    left, top = (shape[0] - width) // 2, (shape[1] - height) // 2
    margins = [(top, shape[1] - height - top), (left, shape[0] - width - left), (0, 0)]
    return Image.fromarray(np.pad(pixels, margins[: pixels.ndim], mode="edge"))


def pixels_of(pictures: Sequence[Image.Image | np.ndarray]) -> Float[Tensor, "n 3 h w"]:
    """Pictures of one size, of 8 bits and in RGB, as float32 in [-1, 1], channels first."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # (n, h, w, 3)
    return stacked.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file in a folder of exemplars.

    Raises:
        UnusableError: It cannot be read, is no regular file, or has more than `most_bytes`.
    """
    try:
        if not path.is_file():
            raise UnusableError("is not a regular file; delete it")
        if path.stat().st_size > most_bytes:
            size = f"{most_bytes // 10**6} MB" if most_bytes >= 10**6 else f"{most_bytes // 10**3} kB"
            raise UnusableError(f"has more than {size}; save it smaller")
        return path.read_bytes()
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror or error})") from error


def _read(path: Path, convert: Callable[[Image.Image], Image.Image]) -> tuple[Image.Image, str]:
    """Upright pixels, converted, and the SHA-256 of the file."""
    data = read_bytes(path, MAX_FILE_BYTES)
    try:
        with warnings.catch_warnings(action="ignore"):  # about what is damaged and not needed, such as EXIF
            # Pillow only warns of a decompression bomb between its limit and twice that.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = convert(_decode(data))
    except UnusableError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableError(f"has too many pixels: {_ALLOWED}") from error
    except UnidentifiedImageError as error:
        raise UnusableError(f"is not a {', '.join(FORMATS)} picture; convert or delete it") from error
    except Exception as error:  # decoders meet damaged data with errors of every kind
        raise UnusableError(f"is broken ({error}); save it again or delete it") from error
    return picture, hashlib.sha256(data).hexdigest()


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        jpeg = image.format in ("JPEG", "MPO")
        if width * height > (MAX_JPEG_PIXELS if jpeg else MAX_PIXELS):
            raise UnusableError(f"has {width} × {height} pixels: {_ALLOWED}")
        if min(width, height) < MIN_SIDE_PIXELS:
            raise UnusableError(f"has {width} × {height} pixels; the shorter side needs {MIN_SIDE_PIXELS} or more")
        # MPO is a JPEG that phones append a preview or depth map to; its first frame is the photograph.
        frames = getattr(image, "n_frames", 1)
        if image.format != "MPO" and frames > 1:
            raise UnusableError(f"is animated ({frames} frames); save one frame as a picture")
        # Byte 24 of a PNG is its bit depth. Pillow opens 16-bit colour as 8-bit and clips 16-bit grey.
        if image.format == "PNG" and data[24] == 16:
            raise UnusableError("has 16 bits a channel; save it with 8")
        if image.format == "PNG" and (colours := _coded_colours(data)) not in (None, _SRGB_CODES):
            raise UnusableError(f"has colours of another kind (cICP {', '.join(map(str, colours))}); save it as sRGB")
        if width * height > MAX_PIXELS:  # not for smaller ones: what is learned from these stays the same to the bit
            image.draft(None, (width // 2, height // 2))
        return ImageOps.exif_transpose(image)


def _coded_colours(data: bytes) -> tuple[int, ...] | None:
    """The numbers in the cICP chunk of a PNG: primaries, transfer, matrix, range. Pillow passes over it."""
    at = 8
    while at + 8 <= len(data) and (kind := data[at + 4 : at + 8]) != b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"cICP":
            return tuple(data[at + 8 : at + 8 + length])
        at += 12 + length
    return None


def _in_srgb(picture: Image.Image) -> Image.Image:
    """The same colours in sRGB, where a profile says that the numbers mean others; phones save Display P3."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return _with_gamma(picture)
    if picture.mode in ("P", "PA", "1"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    colours = picture.convert(picture.mode.removesuffix("A")) if alpha else picture
    try:
        converted = ImageCms.profileToProfile(
            colours, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError:  # a damaged profile, or one of another kind of colours: viewers pass it over, too
        return picture
    if alpha is not None and converted is not None:
        converted.putalpha(alpha)
    return converted or picture


def _with_gamma(picture: Image.Image) -> Image.Image:
    """The same colours in sRGB, where a PNG says that light is its numbers to another power; old Macs wrote 1.8."""
    gamma = picture.info.get("gamma", _SRGB_GAMMA)  # 0 is of a damaged file
    if "srgb" in picture.info or not gamma or abs(gamma / _SRGB_GAMMA - 1) < _GAMMA_TOLERANCE:
        return picture
    kind = "RGBA" if picture.has_transparency_data else "RGB"
    curve = [round(255 * (level / 255) ** (_SRGB_GAMMA / gamma)) for level in range(256)]
    return picture.convert(kind).point(curve * 3 + [*range(256)] * (kind == "RGBA"))


def _on_white(picture: Image.Image) -> Image.Image:
    picture = _in_srgb(picture)
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return picture.convert("RGB")


def _grey(mask: Image.Image) -> Image.Image:
    if mask.has_transparency_data and mask.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise UnusableError("is transparent in places; save it as black and white, without transparency")
    mask = mask.convert("L")
    if mask.getextrema()[1] == 0:
        raise UnusableError("is all black, so that nothing of its picture counts; paint white what counts")
    return mask
