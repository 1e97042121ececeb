"""Where commands may write: nothing that is there is replaced, and pictures go only into folders of their own."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinact.errors import DataError
from twinact.files import atomic_write_bytes

if TYPE_CHECKING:
    from PIL import Image

RECORD = "pictures.jsonl"


def new_file(path: Path) -> Path:
    """`path`, after making sure that nothing is there.

    Raises:
        DataError: Something is.
    """
    if path.exists():
        raise DataError(f"output '{path}' already exists and is not replaced; give another name or remove it")
    return path


def new_folder(path: Path) -> Path:
    """`path`, after making sure that it is no file and holds nothing.

    Raises:
        DataError: It is, or it does.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file"
        raise DataError(f"output folder '{path}' {what}; give a new or empty folder")
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

        info = PngInfo()
        info.add_text("parameters", parameters)
        info.add_text("twinact", json.dumps(facts))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", pnginfo=info)
        path = self.path / f"{name}_{self._next:05d}_{facts['seed']}.png"
        atomic_write_bytes(path, buffer.getvalue())
        self._next += 1
        with open(self._record, "a", encoding="utf-8") as record:
            record.write(json.dumps({"file": path.name, **facts}) + "\n")
        return path
