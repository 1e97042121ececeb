"""Reads a folder of photographs: checked pictures, captions that name the actor and the place, and masks.

The whole folder is checked before anything is learned, and one message names everything that is wrong.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from twinact import PLACEHOLDER
from twinact.configs import NOBODY
from twinact.data.captions import default_caption, read_captions
from twinact.data.folder import MASK_SUFFIX, holds_pictures, mask_of, sort_files, stem_of, visible
from twinact.data.maps import maps_of
from twinact.data.pictures import UnusableError, fit_into, pixels_of, read_mask, read_picture
from twinact.data.shapes import Together, shape_for, together
from twinact.errors import ConfigError, DataError

if TYPE_CHECKING:
    from twinact.backbones.backbone import Backbone

_MASK_FOLDERS = ("mask", "masks")


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Pictures of one action, in order of file name.

    Attributes:
        images: RGB, without metadata: all `size` × `size`, or in shapes of about as many pixels.
        captions: One a picture, each holding `PLACEHOLDER` exactly once where the action goes.
        paths: Where they were read from.
        hashes: SHA-256 of each file's bytes, hexadecimal; over both hashes where the picture has a mask.
        masks: For each picture, how much its places count, from black to white, as large as it; None: all alike.
        size: Side of the squares in pixels.
    """

    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    masks: tuple[Image.Image | None, ...]
    size: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each picture."""
        return tuple(image.size for image in self.images)

    @cached_property
    def pixels(self) -> Together:
        """The pictures as float32 in [-1, 1], channels first."""
        return together([pixels_of([image])[0].contiguous() for image in self.images])

    @cached_property
    def mask_pixels(self) -> Together | None:
        """How much each pixel counts, in [0, 1]; ones for a picture without mask, None when no picture has one."""
        if all(mask is None for mask in self.masks):
            return None
        full = [
            mask or Image.new("L", image.size, "white") for mask, image in zip(self.masks, self.images, strict=True)
        ]
        return together([torch.from_numpy(np.array(mask))[None].float().div(255.0) for mask in full])


@dataclass(frozen=True, eq=False)
class Photographs:
    """Checked pictures of one action as they are in the folder, in order of file name; see `Exemplars` for the rest.

    Attributes:
        images: Upright, RGB, of any shape.
        masks: As large as they are in the folder; None for a picture without one.
    """

    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    masks: tuple[Image.Image | None, ...]

    def fitted(self, size: int, multiple: int | None = None) -> Exemplars:
        """The pictures and masks fitted into frames; nothing is cropped, the rest of a frame repeats the edge.

        Args:
            size: Side of the squares, in pixels; the backbone's `image_size`.
            multiple: Fits each picture into the shape nearest to its own, see `shape_for`; None into a square.

        Raises:
            ConfigError: `size` is not positive.
        """
        if size < 1:
            raise ConfigError(f"size {size!r} must be a positive number of pixels")
        shapes = [shape_for(one.size, size, multiple) if multiple else (size, size) for one in self.images]
        pairs = zip(self.images, shapes, strict=True)
        images = tuple(fit_into(image, shape, Image.Resampling.LANCZOS) for image, shape in pairs)
        # Bilinear makes no rings around the edges of a mask.
        pairs_of_masks = zip(self.masks, shapes, strict=True)
        masks = tuple(mask and fit_into(mask, shape, Image.Resampling.BILINEAR) for mask, shape in pairs_of_masks)
        return Exemplars(images, self.captions, self.paths, self.hashes, masks, size)


def load_exemplars(folder: str | Path, size: int, captions: Mapping[str, str] | None = None) -> Exemplars:
    """Read every picture of a folder and fit it into a square; see `read_exemplars` and `Photographs.fitted`."""
    return read_exemplars(folder, captions).fitted(size)


def read_exemplars(folder: str | Path, captions: Mapping[str, str] | None = None, actor: str = NOBODY) -> Photographs:
    """Read every picture of a folder.

    The format is decided by content (PNG, JPEG, WEBP), turned upright by its EXIF tag, laid on white where it is
    transparent and converted to RGB. No limb may be lost outside the frame, so nothing is cropped, here or later.

    A caption comes from `captions`, else from ``<stem>.txt`` or ``<stem>.caption`` beside the picture, else from
    ``metadata.jsonl`` (an object a line, with "file_name" and "text" or "caption", as image folders of Hugging Face
    have it), ``metadata.csv`` or ``captions.json`` (file name → caption), else `default_caption` makes one of `actor`.
    Two sources of one kind must say the same. ``<stem>.mask.png`` (also ``-masklabel.png``, ``_mask.png``) beside a
    picture is its mask: white where it counts, black where it does not, of the picture's shape. Hidden files, those of
    systems, other JSON files and sub-folders are left alone, but one with masks is refused. A picture that is a map of
    another one, by its name or its colours, is refused; see `twinact.data.maps`.

    Args:
        folder: Holds the pictures.
        captions: File name → caption, before those in the folder.
        actor: Who is seen in pictures without a caption, as in "a woman".

    Raises:
        DataError: One or more files cannot be used; the message lists all of them, one a line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"exemplar folder '{folder}' {what}; give a folder with PNG, JPEG or WEBP pictures")
    files = sort_files(folder)
    if not files.pictures:
        raise DataError(
            f"exemplar folder '{folder}' holds no pictures; put PNG, JPEG or WEBP pictures or keypoint files there"
        )

    problems: list[str] = []
    given = read_captions(files, captions or {}, problems)
    stems = {stem_of(path) for path in files.pictures}
    for stem, own_files in files.masks.items():
        if stem not in stems:
            problems.append(f"{own_files[0].name}: no picture is called {stem!r}; rename or delete the mask")
        if len(own_files) > 1:
            problems.append(f"{own_files[1].name}: {own_files[0].name} is a mask of the same picture; delete one")
    for inside in visible(folder):
        if inside.name.lower() in _MASK_FOLDERS and inside.is_dir() and holds_pictures(inside):
            problems.append(f"{inside.name}: masks lie beside their pictures; move them, called as in 1{MASK_SUFFIX}")
    read: dict[str, tuple[Path, Image.Image, str, Image.Image | None]] = {}  # by hash of the picture alone
    for path in files.pictures:
        about = path
        try:
            if path.stem.lower().endswith(".mask") or mask_of(path) in stems:
                raise UnusableError(f"masks are PNG files; save it as {path.stem}.png, or rename the picture")
            picture, own = read_picture(path)
            if own in read:
                raise UnusableError(f"is the same file as {read[own][0].name}; delete one")
            mask, digest = None, own
            if stem_of(path) in files.masks:
                about = files.masks[stem_of(path)][0]
                mask, of_mask = read_mask(about, picture.size)
                digest = hashlib.sha256(f"{own} {of_mask}".encode()).hexdigest()
            read[own] = (path, picture, digest, mask)
        except UnusableError as problem:
            problems.append(f"{about.name}: {problem}")
    problems += maps_of({path: picture for path, picture, *_ in read.values()})
    if problems:
        raise DataError(f"exemplar folder '{folder}': {_in_one_line(problems)}")
    paths, images, hashes, own_masks = zip(*read.values(), strict=True)
    texts = tuple(given.get(path.name, default_caption(actor)) for path in paths)
    return Photographs(images, texts, paths, hashes, own_masks)


@torch.no_grad()
def check_captions(exemplars: Exemplars, backbone: "Backbone", slots: int) -> None:
    """Makes sure that a model reads the action in every caption; a warning in the log names each one that is cut.

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
