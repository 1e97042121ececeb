"""A folder of photographs → checked square pictures with captions that name the actor and the place.

Everything about the folder is checked before anything is learned, and all that is wrong is told at once.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.errors import ConfigError, DataError

if TYPE_CHECKING:
    from twinact.backbones.base import Backbone

DEFAULT_CAPTION = f"a photo of someone {PLACEHOLDER}"
CAPTIONS_FILE = "captions.json"
FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE_PIXELS = 32
# Phones take 12 to 50 megapixels, and a decoded megapixel costs 3 MB; larger ones gain nothing at 1024 pixels.
MAX_PIXELS = 40_000_000
MAX_FILE_BYTES = 200_000_000


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Pictures of one action, in order of file name.

    Attributes:
        images: RGB, all `size` × `size`, without metadata.
        captions: One a picture, each holding `PLACEHOLDER` exactly once where the action goes.
        paths: Where they were read from.
        hashes: SHA-256 of each file's bytes, hexadecimal.
        size: Side in pixels.
    """

    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def pixels(self) -> Float[Tensor, "n 3 h w"]:
        """The pictures as float32 in [-1, 1], channels first."""
        arrays = np.stack([np.asarray(image) for image in self.images])  # (n, h, w, 3) uint8
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


class _UnusableError(Exception):
    """What is wrong with one file, in words for the person who put it there."""


def load_exemplars(folder: str | Path, size: int, captions: Mapping[str, str] | None = None) -> Exemplars:
    """Read every picture of a folder.

    The format is decided by content (PNG, JPEG, WEBP), turned upright by its EXIF tag, laid on white where it is
    transparent, converted to RGB, and fitted whole into a square: nothing is cropped, since a limb outside the frame
    is an action lost; the rest of the square repeats the picture's edge.

    A caption comes from `captions`, else from ``<stem>.txt`` beside the picture, else from ``captions.json`` (file
    name → caption), else it is `DEFAULT_CAPTION`. Hidden files, other JSON files and sub-folders are left alone.

    Args:
        folder: Holds the pictures.
        size: Side of the squares, in pixels; the backbone's `image_size`.
        captions: File name → caption, before those in the folder.

    Raises:
        ConfigError: `size` is not positive.
        DataError: One or more files cannot be used; the message lists all of them, one a line.
    """
    if size < 1:
        raise ConfigError(f"size {size!r} must be a positive number of pixels")
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"exemplar folder '{folder}' {what}; give a folder with PNG, JPEG or WEBP pictures")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    pictures = [path for path in files if path.suffix.lower() not in (".txt", ".json")]
    if not pictures:
        raise DataError(f"exemplar folder '{folder}' holds no pictures; put PNG, JPEG or WEBP pictures there")

    problems: list[str] = []
    given = _read_captions(folder, files, pictures, captions or {}, problems)
    images: list[Image.Image] = []
    hashes: list[str] = []
    kept: list[Path] = []
    for path in pictures:
        try:
            image, digest = _read_picture(path, size)
            if digest in hashes:
                raise _UnusableError(f"is the same file as {kept[hashes.index(digest)].name}; delete one")
        except _UnusableError as problem:
            problems.append(f"{path.name}: {problem}")
        else:
            images.append(image)
            hashes.append(digest)
            kept.append(path)
    if problems:
        raise DataError(f"exemplar folder '{folder}': {_in_one_line(problems)}")
    texts = tuple(given.get(path.name, DEFAULT_CAPTION) for path in kept)
    return Exemplars(tuple(images), texts, tuple(kept), tuple(hashes), size)


@torch.no_grad()
def check_captions(exemplars: Exemplars, backbone: "Backbone", slots: int) -> None:
    """Makes sure that a model reads the action in every caption; one whose end it does not read is told in the log.

    Args:
        exemplars: Whose captions.
        backbone: Knows how much its text encoders read.
        slots: Token vectors that the action takes.

    Raises:
        DataError: The placeholder stands too far back in one or more captions; the message lists all of them.
    """
    action = [torch.zeros(slots, table.width, device=backbone.device) for table in backbone.token_tables()]
    problems = []
    for path, caption in zip(exemplars.paths, exemplars.captions, strict=True):
        try:
            backbone.encode_text([caption], {PLACEHOLDER: action})
        except DataError as error:
            problems.append(f"{path.name}: {error}")
    if problems:
        raise DataError(f"captions: {_in_one_line(problems)}")


def _in_one_line(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems: " + " ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))


def _read_captions(
    folder: Path, files: list[Path], pictures: list[Path], captions: Mapping[str, str], problems: list[str]
) -> dict[str, str]:
    """File name → caption for all that have one; adds to `problems` every caption that would be lost or is unusable."""
    names = {path.name for path in pictures}
    given: dict[str, str] = {}

    def take(name: str, text: object, source: str) -> None:
        try:
            given[name] = _check_caption(text)
        except _UnusableError as problem:
            problems.append(f"{source}: {problem}")

    for name, text in _read_captions_file(folder / CAPTIONS_FILE, files, problems).items():
        if name in names:
            take(name, text, f"{CAPTIONS_FILE}: {name!r}")
        else:
            problems.append(f"{CAPTIONS_FILE}: {name!r} names no picture in the folder; correct or delete the entry")
    for path in files:
        if path.suffix.lower() != ".txt":
            continue
        owners = [picture.name for picture in pictures if picture.stem == path.stem]
        if not owners:
            problems.append(f"{path.name}: no picture is called {path.stem!r}; rename or delete the caption")
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path.name}: cannot be read as UTF-8 text ({error}); save it as UTF-8")
            continue
        for name in owners:
            take(name, text, path.name)
    for name, text in captions.items():
        if name in names:
            take(name, text, f"caption given for {name!r}")
        else:
            problems.append(f"caption given for {name!r}: names no picture in the folder; correct the name")
    return given


def _read_captions_file(path: Path, files: list[Path], problems: list[str]) -> dict[str, object]:
    if path not in files:
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: is not readable JSON ({error})")
        return {}
    if not isinstance(table, dict):
        problems.append(
            f'{path.name}: must be an object of file name to caption, like {{"a.png": "{DEFAULT_CAPTION}"}}'
        )
        return {}
    return table


def _check_caption(text: object) -> str:
    """The caption on one line; raises `_UnusableError` when the placeholder is not in it exactly once."""
    if not isinstance(text, str):
        raise _UnusableError(f"caption {text!r} is not text")
    caption = " ".join(text.split())
    count = caption.count(PLACEHOLDER)
    if count != 1:
        raise _UnusableError(
            f"caption {caption[:80]!r} holds {PLACEHOLDER} {count} times; write it once, where the action goes, "
            f"e.g. 'a woman {PLACEHOLDER} in a park'"
        )
    return caption


def _read_picture(path: Path, size: int) -> tuple[Image.Image, str]:
    """The picture as RGB `size` × `size`, and the SHA-256 of its file."""
    try:
        if not path.is_file():
            raise _UnusableError("is not a regular file; delete it")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _UnusableError(f"has more than {MAX_FILE_BYTES // 10**6} MB; save it smaller")
        data = path.read_bytes()
    except OSError as error:
        raise _UnusableError(f"cannot be read ({error.strerror or error})") from error
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a decompression bomb between its limit and twice that.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = _decode(data)
    except _UnusableError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _UnusableError(f"has more than {MAX_PIXELS // 10**6} megapixels; save it smaller") from error
    except UnidentifiedImageError as error:
        raise _UnusableError(f"is not a {', '.join(FORMATS)} picture; convert or delete it") from error
    except Exception as error:  # decoders meet damaged data with errors of every kind
        raise _UnusableError(f"is broken ({error}); save it again or delete it") from error
    return _fit_square(picture, size), hashlib.sha256(data).hexdigest()


def _decode(data: bytes) -> Image.Image:
    """Upright RGB pixels."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _UnusableError(
                f"has {width} × {height} pixels, more than {MAX_PIXELS // 10**6} megapixels; save it smaller"
            )
        if min(width, height) < MIN_SIDE_PIXELS:
            raise _UnusableError(f"has {width} × {height} pixels; the shorter side needs {MIN_SIDE_PIXELS} or more")
        # MPO is a JPEG that phones append a preview or depth map to; its first frame is the photograph.
        frames = getattr(image, "n_frames", 1)
        if image.format != "MPO" and frames > 1:
            raise _UnusableError(f"is animated ({frames} frames); save one frame as a picture")
        # Byte 24 of a PNG is its bit depth. Pillow opens 16-bit colour as 8-bit and clips 16-bit grey.
        if image.format == "PNG" and data[24] == 16:
            raise _UnusableError("has 16 bits a channel; save it with 8")
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            layered = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
        return upright.convert("RGB")


def _fit_square(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture, scaled to touch the square and centred; the rest repeats its edge."""
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    left, top = (size - width) // 2, (size - height) // 2
    margins = ((top, size - height - top), (left, size - width - left), (0, 0))
    return Image.fromarray(np.pad(pixels, margins, mode="edge"))
