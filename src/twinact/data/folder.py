"""What each file in a folder of exemplars is for: picture, mask, caption, or nothing that matters here."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MASK_SUFFIX = ".mask.png"
# How masks are called here, by OneTrainer, and by many others.
_MASK_ENDS = (".mask", "-masklabel", "_mask")
_CAPTION_SUFFIXES = (".txt", ".caption")
CAPTIONS_FILE = "captions.json"
TABLES = (CAPTIONS_FILE, "metadata.jsonl", "metadata.csv")
"""Files with the captions of many pictures, in lower case."""
# Left by file managers, network disks and kohya's scripts, and never meant.
_OF_SYSTEMS = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin", "lost+found", "__macosx",
    "system volume information", "zbthumbnail.info", "license",
)  # fmt: skip
_PASSED_OVER = (
    ".json", ".jsonl", ".npz", ".npy", ".pt", ".safetensors", ".toml", ".yaml", ".yml", ".md", ".ini", ".db", ".lnk",
    ".url", ".webloc", ".aae", ".xmp", ".log", ".tmp", ".bak",
)  # fmt: skip
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Files:
    """Files of a folder of exemplars, in order of name.

    Attributes:
        pictures: All that is not something else.
        masks: Picture's stem, as `stem_of` gives it → its masks; one is right.
        captions: Text files, each for the picture of its stem.
        tables: Those of `TABLES` that are there.
    """

    pictures: tuple[Path, ...]
    masks: dict[str, list[Path]]
    captions: tuple[Path, ...]
    tables: tuple[Path, ...]


def visible(folder: Path) -> Iterator[Path]:
    """What a person has put into a folder, in order of name."""
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if not name.startswith((".", "~$")) and not name.endswith("~") and name not in _OF_SYSTEMS:
            yield path


def holds_pictures(folder: Path) -> bool:
    """Whether files in a folder are called as pictures are."""
    return any(path.suffix.lower() in PICTURE_SUFFIXES and not path.is_dir() for path in visible(folder))


def sort_files(folder: Path) -> Files:
    """The files of a folder by what they are for; nothing is read."""
    files = [path for path in visible(folder) if not path.is_dir()]
    captions = tuple(path for path in files if path.suffix.lower() in _CAPTION_SUFFIXES)
    tables = tuple(path for path in files if path.name.lower() in TABLES)
    passed_over = (*_PASSED_OVER, *_CAPTION_SUFFIXES)
    others = [path for path in files if path.suffix.lower() not in passed_over and path not in tables]
    stems = {stem_of(path) for path in others}
    masks: dict[str, list[Path]] = {}
    for path in others:
        owner = mask_of(path)
        # A picture may be called "face_mask", if there is none called "face".
        if path.suffix.lower() == ".png" and owner is not None and (owner in stems or not path.stem.endswith("_mask")):
            masks.setdefault(owner, []).append(path)
    taken = {path for paths in masks.values() for path in paths}
    return Files(tuple(path for path in others if path not in taken), masks, captions, tables)


def stem_of(path: Path) -> str:
    """A file's name without its ending, composed: macOS takes letters apart, and other systems do not."""
    return composed(path.stem)


def composed(name: str) -> str:
    """A name as it is compared with others."""
    return unicodedata.normalize("NFC", name)


def mask_of(path: Path) -> str | None:
    """The stem of the picture that a file is called a mask of, None for other names."""
    stem = stem_of(path)
    end = next((end for end in _MASK_ENDS if stem.lower().endswith(end)), None)
    return stem[: -len(end)] if end else None
