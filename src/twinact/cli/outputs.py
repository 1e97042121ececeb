"""Decides where commands may write: no file is replaced, and pictures go only into folders of their own."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinact.data.folder import PICTURE_SUFFIXES
from twinact.errors import DataError, NameTaken
from twinact.storage import append_line, atomic_write_bytes, check_folder

if TYPE_CHECKING:
    from PIL import Image

RECORD = "pictures.jsonl"


def new_file(path: Path) -> Path:
    """`path`, after making sure that it can be written: nothing is there, and its folder is or can be one.

    This is told before work begins. The name is taken when it is written, with ``new=True``.

    Raises:
        DataError: It cannot.
    """
    if os.path.lexists(path):
        raise NameTaken(f"output '{path}' already exists and is not replaced; give another name or remove it")
    check_folder(path.parent, path.name)
    return path


def new_folder(path: Path) -> Path:
    """`path`, after making sure that it is no file and holds nothing.

    Raises:
        DataError: It is, or it does.
    """
    check_folder(path.parent, path.name)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file"
        raise DataError(f"output folder '{path}' {what}; give a new or empty folder")
    if path.suffix.lower() in PICTURE_SUFFIXES and not path.exists():
        raise DataError(f"output folder '{path}' has the name of a picture; give that of a folder to draw into")
    check_folder(path)
    return path


def make_folder(path: Path) -> Path:
    """Make a folder that nobody else has, in one step; its parents are made where they are missing.

    Raises:
        NameTaken: Something has the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        raise NameTaken(f"output folder '{path}' already exists; give a new or empty folder") from None
    return path


class PictureFolder:
    """A folder of pictures that twinact drew, with a line about each in ``pictures.jsonl``. Pictures are only added.

    Nothing is written before the first picture.

    Raises:
        DataError: The folder holds something else, or is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record = path / RECORD
        if not self._record.is_file():
            new_folder(path)
        # Names are <name>_<number>_<seed>.png, and a name may hold underscores itself.
        numbers = [part for file in path.glob("*_*_*.png") if (part := file.stem.split("_")[-2]).isdecimal()]
        self._next = 1 + max(map(int, numbers), default=-1)

    def add(self, image: "Image.Image", name: str, facts: Mapping[str, Any], parameters: str) -> Path:
        """Save a picture as PNG and note it down.

        Args:
            image: The picture.
            name: Beginning of its file name.
            facts: Strict JSON with a "seed", without paths of the user: chunk ``twinact`` of the PNG and, with the
                file's name, a line of the record.
            parameters: Chunk ``parameters``, the text that other tools show.

        Raises:
            DataError: The folder cannot be written.
        """
        from PIL.PngImagePlugin import PngInfo

        from twinact.sheets import png_bytes

        info = PngInfo()
        info.add_text("parameters", parameters)
        info.add_text("twinact", json.dumps(facts, allow_nan=False))
        data = png_bytes(image, pnginfo=info)
        if not self._record.exists():  # before the first picture: whoever is killed behind it leaves a folder of ours
            with suppress(NameTaken):
                atomic_write_bytes(self._record, b"", new=True)
        while True:
            path = self.path / f"{name}_{self._next:05d}_{facts['seed']}.png"
            self._next += 1
            try:
                atomic_write_bytes(path, data, new=True)
            except NameTaken:  # by another process that draws into this folder
                continue
            try:
                append_line(self._record, json.dumps({"file": path.name, **facts}, allow_nan=False))
            except OSError as error:
                path.unlink()  # one that nobody noted down would be of unknown origin
                raise DataError(
                    f"cannot write {self._record}: {error.strerror or error}; free some space or give another folder"
                ) from error
            return path
