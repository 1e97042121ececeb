"""Takes uploaded files as exemplars: copies them under names that are safe, checks each, and reads its limbs."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from twinact.configs import check_name
from twinact.data.captions import default_caption
from twinact.data.exemplars import Photographs, read_exemplars
from twinact.data.folder import PICTURE_SUFFIXES, composed, sort_files, stem_of
from twinact.data.pictures import UnusableError, read_picture
from twinact.errors import ConfigError, DataError, MissingDependency
from twinact.readers.choice import read_photographs
from twinact.readers.common import common_pose
from twinact.readers.drawn import draw_keypoints, with_limbs
from twinact.readers.keypoint_files import keypoint_files

if TYPE_CHECKING:
    from twinact.backbones.backbone import Backbone

MAX_FILES = 100
MAX_FILE_BYTES = 50_000_000
MAX_BYTES = 300_000_000
"""Of all files that are given at once."""
_ENDINGS = (*PICTURE_SUFFIXES, ".txt", ".caption", ".json", ".jsonl")
_TILE_PIXELS = 320


@dataclass(frozen=True)
class Checked:
    """What is known of exemplars before anything is learned from them.

    Attributes:
        folder: Where the page has put them.
        problems: What is wrong, a line a file; nothing can be learned while there are any.
        tiles: For each picture, the picture with its read limbs, and what is told about it.
        captions: For each picture, its file name and its caption.
        notes: What the pictures have in common or do not show.
    """

    folder: Path
    problems: tuple[str, ...]
    tiles: tuple[tuple[Image.Image, str], ...] = ()
    captions: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def take(uploads: Sequence[Path], folder: Path) -> None:
    """Copy uploaded files into a new folder; keypoint files without pictures get drawings of their limbs.

    Args:
        uploads: What a browser has sent; only the last part of each name is looked at.
        folder: Must not exist.

    Raises:
        DataError: They are too many, too large, of an unknown kind, or two have one name.
    """
    if len(uploads) > MAX_FILES:
        raise DataError(f"{len(uploads)} files were given; at most {MAX_FILES} are taken, and three to ten are usual")
    total = sum(path.stat().st_size for path in uploads)
    if total > MAX_BYTES:
        raise DataError(f"the files have {total // 10**6} MB together; at most {MAX_BYTES // 10**6} MB are taken")
    folder.mkdir(parents=True)
    for path in uploads:
        name = re.sub(r"[^\w.() -]", "-", composed(path.name)).lstrip(". ")
        if not name.lower().endswith(_ENDINGS):
            raise DataError(f"{path.name!r} is of no kind that is taken; give one of {', '.join(_ENDINGS)}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path.name!r} has more than {MAX_FILE_BYTES // 10**6} MB; save it smaller")
        if (folder / name).exists():
            raise DataError(f"two files are called {name!r}; rename one")
        shutil.copyfile(path, folder / name)
    if poses := keypoint_files(folder):
        draw_keypoints(poses, folder, _TILE_PIXELS)


def check(folder: Path, backbone: "Backbone | None", reader: str = "auto", person: int = 1) -> Checked:
    """Look at every file of an exemplar folder and read the limbs of every picture.

    Args:
        folder: As `take` fills it.
        backbone: The model, whose own reader may read.
        reader, person: As the settings of `TwinActConfig`.
    """
    problems = []
    for path in sort_files(folder).pictures:
        try:
            read_picture(path)
        except UnusableError as problem:
            problems.append(f"{path.name} {problem}")
    if problems:
        return Checked(folder, tuple(problems))
    try:
        photographs = read_exemplars(folder)
    except DataError as error:  # what concerns several files: maps, masks, captions
        return Checked(folder, (str(error).replace(str(folder), "of these files"),))
    captions = tuple((path.name, text) for path, text in zip(photographs.paths, photographs.captions, strict=True))
    tiles, notes = _read(photographs, backbone, reader, person)
    missing = photographs.captions.count(default_caption())
    if missing:
        notes = (*notes, f"{missing} of {len(captions)} pictures have no caption")
    return Checked(folder, (), tiles, captions, notes)


def _read(
    photographs: Photographs, backbone: "Backbone | None", reader: str, person: int
) -> tuple[tuple[tuple[Image.Image, str], ...], tuple[str, ...]]:
    """The tiles and notes of `Checked`; without a reader, the pictures as they are."""
    try:
        reading = read_photographs(photographs.images, photographs.paths, reader, backbone, person=person)
    except (MissingDependency, ConfigError, DataError) as error:
        plain = tuple((one.copy(), path.name) for one, path in zip(photographs.images, photographs.paths, strict=True))
        return plain, (f"no limbs are read: {error}",)
    tiles = []
    for i, (picture, path) in enumerate(zip(photographs.images, photographs.paths, strict=True)):
        seen = reading.seen[i]
        who = [f"person {seen.person} of {seen.people}"] if seen.people > 1 else []
        sure = [f"{float(reading.weights[i].mean()):.0%} sure"] if seen.person else []
        tiles.append(
            (with_limbs(picture, reading, i, _TILE_PIXELS), "; ".join([path.name, *sure, *who, *seen.remarks]))
        )
    common = common_pose(reading)
    notes = []
    if common.disagreeing:
        notes.append(f"the pictures differ in {', '.join(common.disagreeing)}, which do not count")
    if common.unseen:
        notes.append(f"no picture shows {', '.join(common.unseen)}, which do not count")
    return tuple(tiles), tuple(notes)


def keep(draft: Path, target: Path, captions: Mapping[str, str]) -> Path:
    """Copy checked exemplars to where a run finds them, with the captions that the page shows.

    Captions that the files have already are left as they are. The folder takes its name only when it is whole.

    Args:
        draft: As `take` filled it.
        target: Must not exist.
        captions: File name → caption; others than these pictures have are left out.

    Raises:
        DataError: Something has the name.
    """
    check_name(target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".taking-", dir=target.parent))
    try:
        inner = temporary / target.name
        shutil.copytree(draft, inner)
        there, files = read_exemplars(inner), sort_files(inner)
        for path, own in zip(there.paths, there.captions, strict=True):
            text = captions.get(path.name, "").strip() or own
            if text != own:
                for other in files.captions:  # two files must not say two things
                    if stem_of(other) == stem_of(path):
                        other.unlink()
                path.with_suffix(".txt").write_text(text, encoding="utf-8")
        if target.exists():
            raise DataError(f"exemplars called {target.name!r} are there already; give another name")
        os.rename(inner, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
