"""What files hold about people, and the same files without it: captions, exemplars, authors, places, cameras, paths.

Of headers and pictures the parts that a reader needs are named and kept; what is not named here is removed.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from twinact.action import Action
from twinact.data.folder import PICTURE_SUFFIXES
from twinact.data.pictures import FORMATS, MAX_FILE_BYTES
from twinact.errors import DataError, first_line
from twinact.export.embeddings import read_tensors
from twinact.export.modelspec import pack
from twinact.storage import atomic_write_bytes, read_file, stored_kind

_OF_EXEMPLARS = ("captions", "exemplars", "imported")  # keys of an action's meta: by caption, hash, file name
# Of a header: what tells a reader how to use the tensors, or what they were made with.
_KEPT = re.compile(
    r"modelspec\.(sai_model_spec|architecture|implementation|title|resolution|trigger_phrase|usage_hint|tags|license|date|"
    r"prediction_type|encoder_layer|timestep_range|is_negative_embedding|hash_sha256)"
    r"|ss_(base_model_version|network_module|network_dim|network_alpha|v2|output_name)"
    r"|twinact\..+|format|lora_adapter_metadata"
)
_DESCRIPTION = "modelspec.description"
"""Free text, except in our own files."""
_ORIENTATION, _GPS = 0x0112, 0x8825


def personal(path: Path) -> list[str]:
    """What a file holds about people or their machines, by the names of its parts; empty where there is nothing.

    Args:
        path: An action, a file of another tool, or a picture.

    Raises:
        TwinactError: It cannot be read.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _of_picture(path)
    if stored_kind(path) == "action":
        return [key for key in _OF_EXEMPLARS if Action.load(path).meta.get(key)]
    if stored_kind(path) is not None:
        return []
    header = read_tensors(path)[1]
    return sorted(key for key in header if not _is_kept(key, header))


def strip(path: Path, out: Path) -> Path:
    """Write a copy of a file that holds nothing about people; tensors are the same bits, pictures the same pixels.

    A JPEG is coded anew with its own tables, which may change a pixel by a few steps of 255.

    Args:
        path: An action, an embedding or LoRA in safetensors, or a picture.
        out: A new file.

    Raises:
        DataError: It is of a kind that holds nothing about people, or cannot do without.
        NameTaken: Something is at `out`.
        TwinactError: It cannot be read or written.
    """
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; a run needs its captions to go on, so give the action file in it")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return atomic_write_bytes(out, bare_picture(path), new=True)
    kind = stored_kind(path)
    if kind == "action":
        return without_exemplars(Action.load(path)).save(out, new=True)
    if kind is not None:
        raise DataError(f"'{path}' is a twinact {kind} file, which holds nothing about people; share it as it is")
    tensors, header = read_tensors(path)
    kept = {key: value for key, value in header.items() if _is_kept(key, header)}
    return atomic_write_bytes(out, pack(tensors, kept), new=True)


def without_exemplars(action: Action) -> Action:
    """An action that says nothing about what it was learned from."""
    return replace(action, meta={key: value for key, value in action.meta.items() if key not in _OF_EXEMPLARS})


def _is_kept(key: str, header: Mapping[str, str]) -> bool:
    return bool(_KEPT.fullmatch(key)) or (key == _DESCRIPTION and "twinact.format_version" in header)


def open_picture(path: Path) -> Image.Image:
    """A picture file that is open and not decoded yet.

    Raises:
        DataError: It cannot be read.
    """
    data = read_file(path, MAX_FILE_BYTES)
    with _told(path):
        return Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what decoders say of damaged data, in errors of every kind, into one that names the file."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of Pillow, about what is damaged and not needed
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError as error:
        raise DataError(f"'{path}' is not a {', '.join(FORMATS)} picture; convert it, or give another file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"picture '{path}' has too many pixels ({first_line(error)}); save it smaller") from error
    except Exception as error:
        raise DataError(f"picture '{path}' cannot be read ({first_line(error)}); save it again") from error


def _of_picture(path: Path) -> list[str]:
    """Text chunks by their names, and what EXIF says beside the orientation."""
    with open_picture(path) as picture, _told(path):
        exif = picture.getexif()
        found = [str(key) for key, value in picture.info.items() if isinstance(value, str)]
        found += [key for key in ("xmp", "comment", "photoshop") if picture.info.get(key)]
        found += ["GPS"] if _GPS in exif else []
        found += ["EXIF"] if set(exif) - {_ORIENTATION, _GPS} else []
    return sorted(set(found))


def bare_picture(path: Path) -> bytes:
    """A picture file with the pixels, colour profile and orientation of the first frame of another, and nothing else.

    Raises:
        DataError: It cannot be read.
    """
    with open_picture(path) as picture, _told(path):
        kind = "JPEG" if picture.format == "MPO" else str(picture.format)
        turned = picture.getexif().get(_ORIENTATION)
        exif = Image.Exif()
        if turned is not None:
            exif[_ORIENTATION] = turned
        options: dict[str, Any] = {"quality": "keep"} if kind == "JPEG" else {}
        if kind == "WEBP":
            options = {"lossless": True}
        profile = picture.info.get("icc_profile")
        picture.load()
        picture.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        buffer = io.BytesIO()
        picture.save(buffer, kind, exif=exif, icc_profile=profile, **options)
    return buffer.getvalue()
