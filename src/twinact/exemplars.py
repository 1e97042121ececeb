"""A folder of photographs → checked square pictures, captions that name the actor and the place, and masks.

Everything about the folder is checked before anything is learned, and all that is wrong is told at once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.errors import ConfigError, DataError
from twinact.squares import UnusableError, fit_square, read_mask, read_picture

if TYPE_CHECKING:
    from twinact.backbones.base import Backbone

DEFAULT_CAPTION = f"a photo of someone {PLACEHOLDER}"
CAPTIONS_FILE = "captions.json"
MASK_SUFFIX = ".mask.png"


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Pictures of one action, in order of file name.

    Attributes:
        images: RGB, all `size` × `size`, without metadata.
        captions: One a picture, each holding `PLACEHOLDER` exactly once where the action goes.
        paths: Where they were read from.
        hashes: SHA-256 of each file's bytes, hexadecimal; over both hashes where the picture has a mask.
        masks: For each picture, how much its places count, from black to white, `size` × `size`; None: all alike.
        size: Side in pixels.
    """

    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    masks: tuple[Image.Image | None, ...]
    size: int

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def pixels(self) -> Float[Tensor, "n 3 h w"]:
        """The pictures as float32 in [-1, 1], channels first."""
        arrays = np.stack([np.asarray(image) for image in self.images])  # (n, h, w, 3) uint8
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()

    @cached_property
    def mask_pixels(self) -> Float[Tensor, "n 1 h w"] | None:
        """How much each pixel counts, in [0, 1]; ones for a picture without mask, None when no picture has one."""
        if all(mask is None for mask in self.masks):
            return None
        full = Image.new("L", (self.size, self.size), "white")
        arrays = np.stack([np.asarray(full if mask is None else mask) for mask in self.masks])  # (n, h, w) uint8
        return torch.from_numpy(arrays)[:, None].float().div(255.0)


def load_exemplars(folder: str | Path, size: int, captions: Mapping[str, str] | None = None) -> Exemplars:
    """Read every picture of a folder.

    The format is decided by content (PNG, JPEG, WEBP), turned upright by its EXIF tag, laid on white where it is
    transparent, converted to RGB, and fitted whole into a square: nothing is cropped, since a limb outside the frame
    is an action lost; the rest of the square repeats the picture's edge.

    A caption comes from `captions`, else from ``<stem>.txt`` beside the picture, else from ``captions.json`` (file
    name → caption), else it is `DEFAULT_CAPTION`. ``<stem>.mask.png`` beside a picture is its mask: white where it
    counts, black where it does not, of the picture's shape, and fitted into the square as the picture is. Hidden files,
    other JSON files and sub-folders are left alone.

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
    masks = {path.name[: -len(MASK_SUFFIX)]: path for path in files if path.name.lower().endswith(MASK_SUFFIX)}
    pictures = [path for path in files if path.suffix.lower() not in (".txt", ".json") and path not in masks.values()]
    if not pictures:
        raise DataError(f"exemplar folder '{folder}' holds no pictures; put PNG, JPEG or WEBP pictures there")

    problems: list[str] = []
    given = _read_captions(folder, files, pictures, captions or {}, problems)
    stems = {path.stem for path in pictures}
    problems += [
        f"{path.name}: no picture is called {stem!r}; rename or delete the mask"
        for stem, path in masks.items()
        if stem not in stems
    ]
    read: dict[str, tuple[Path, Image.Image, str, Image.Image | None]] = {}  # by hash of the picture alone
    for path in pictures:
        about = path
        try:
            if path.stem.lower().endswith(".mask"):
                raise UnusableError(f"masks are PNG files; save it as {path.stem}.png, or rename the picture")
            picture, own = read_picture(path)
            if own in read:
                raise UnusableError(f"is the same file as {read[own][0].name}; delete one")
            mask, digest = None, own
            if path.stem in masks:
                about = masks[path.stem]
                mask, of_mask = read_mask(about, picture.size)
                # Without rings around edges, unlike the picture.
                mask = fit_square(mask, size, Image.Resampling.BILINEAR)
                digest = hashlib.sha256(f"{own} {of_mask}".encode()).hexdigest()
            read[own] = (path, fit_square(picture, size, Image.Resampling.LANCZOS), digest, mask)
        except UnusableError as problem:
            problems.append(f"{about.name}: {problem}")
    if problems:
        raise DataError(f"exemplar folder '{folder}': {_in_one_line(problems)}")
    paths, images, hashes, fitted = zip(*read.values(), strict=True)
    return Exemplars(
        images, tuple(given.get(path.name, DEFAULT_CAPTION) for path in paths), paths, hashes, fitted, size
    )


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
        except UnusableError as problem:
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
    """The caption on one line; raises `UnusableError` when the placeholder is not in it exactly once."""
    if not isinstance(text, str):
        raise UnusableError(f"caption {text!r} is not text")
    caption = " ".join(text.split())
    count = caption.count(PLACEHOLDER)
    if count != 1:
        raise UnusableError(
            f"caption {caption[:80]!r} holds {PLACEHOLDER} {count} times; write it once, where the action goes, "
            f"e.g. 'a woman {PLACEHOLDER} in a park'"
        )
    return caption
