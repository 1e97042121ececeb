"""Captions in a folder of exemplars: beside the pictures, or all in one file. None is lost in silence."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from twinact import PLACEHOLDER
from twinact.configs import NOBODY
from twinact.data.folder import Files, composed, stem_of
from twinact.data.pictures import UnusableError, read_bytes

# Text encoders read a few hundred letters.
_MAX_CAPTION_BYTES, _MAX_TABLE_BYTES = 20_000, 10_000_000

# Words that name nobody, and those that say what kind of picture it is.
_NO_ACTOR = frozenset(
    f"a an the of {NOBODY} somebody person figure photo picture image illustration drawing painting".split()
)


def default_caption(actor: str = NOBODY) -> str:
    """The caption of a picture that has none: it says who, as in "a woman", and nothing of the place."""
    return f"a photo of {actor} {PLACEHOLDER}"


def unsaid(captions: Sequence[str]) -> dict[str, int]:
    """How many captions leave the "actor" unsaid, and how many the "place", which are then learned with the action.

    Before the placeholder captions name the actor, and after it, or before a comma, the place.
    """
    parts = [caption.partition(PLACEHOLDER)[::2] for caption in captions]
    return {
        "actor": sum(set(re.findall(r"\w+", before.rpartition(",")[2].lower())) <= _NO_ACTOR for before, _ in parts),
        "place": sum(not re.search(r"\w", after) and "," not in before for before, after in parts),
    }


def read_captions(files: Files, captions: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """File name → caption for all pictures that have one; later sources go before earlier ones.

    Args:
        files: Of the folder.
        captions: File name → caption, before those in the folder.
        problems: Receives a line for every caption that would be lost or is unusable.
    """
    names = {composed(path.name): path.name for path in files.pictures}
    given: dict[str, str] = {}

    def take(name: str, text: object, source: str, before: dict[str, tuple[str, str]]) -> None:
        try:
            caption = _checked(text)
        except UnusableError as problem:
            problems.append(f"{source}: {problem}")
            return
        known, other = before.setdefault(name, (caption, source))
        if known != caption:
            also = "once before" if other == source else f"in {other}"
            problems.append(f"{source}: says something else of {name} than is said {also}; keep one of the two")
        given[name] = caption

    def take_named(name: str, text: object, source: str, remedy: str, before: dict[str, tuple[str, str]]) -> None:
        own = names.get(composed(name.removeprefix("./")))
        if own is None:
            problems.append(f"{source} names no picture in the folder; {remedy}")
        else:
            take(own, text, source, before)

    in_tables: dict[str, tuple[str, str]] = {}
    for path in files.tables:
        for name, text in _entries(path, problems):
            take_named(name, text, f"{path.name}: {name!r}", "correct or delete the entry", in_tables)
    beside: dict[str, tuple[str, str]] = {}
    for path in files.captions:
        owners = [picture.name for picture in files.pictures if stem_of(picture) == stem_of(path)]
        if not owners:
            problems.append(f"{path.name}: no picture is called {path.stem!r}; rename or delete the caption")
            continue
        try:
            text = read_bytes(path, _MAX_CAPTION_BYTES).decode("utf-8-sig")
        except UnusableError as error:
            problems.append(f"{path.name}: {error}")
            continue
        except UnicodeDecodeError as error:
            problems.append(f"{path.name}: cannot be read as UTF-8 text ({error}); save it as UTF-8")
            continue
        for name in owners:
            take(name, text, path.name, beside)
    for name, text in captions.items():
        take_named(name, text, f"caption given for {name!r}:", "correct the name", {})
    return given


def _entries(path: Path, problems: list[str]) -> Iterator[tuple[str, object]]:
    """(file name, caption) of every entry of a table, whatever its type."""
    parse = _PARSERS[path.suffix.lower()]
    try:
        yield from parse(read_bytes(path, _MAX_TABLE_BYTES).decode("utf-8-sig"))
    except UnusableError as error:
        problems.append(f"{path.name}: {error}")
    except (ValueError, RecursionError, csv.Error) as error:
        kind = path.suffix[1:5].upper()
        problems.append(f"{path.name}: is not readable {kind} ({error}); correct it")


def _object(text: str) -> list[tuple[str, object]]:
    table = json.loads(text, object_pairs_hook=_Pairs)
    if not isinstance(table, _Pairs):
        raise UnusableError(f'must be an object of file name to caption, like {{"a.png": "{default_caption()}"}}')
    return table


class _Pairs(list[tuple[str, object]]):
    """An object of JSON with all of its entries, also those that have one name."""


def _lines(text: str) -> list[tuple[str, object]]:
    """As data sets of Hugging Face have it: an object a line."""
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]  # other line ends may stand inside of texts
    if not all(isinstance(row, dict) and isinstance(row.get("file_name"), str) and _WORDS & row.keys() for row in rows):
        raise UnusableError(f'each line must be like {{"file_name": "a.png", "text": "{default_caption()}"}}')
    return [(row["file_name"], row.get("text", row.get("caption"))) for row in rows]


def _columns(text: str) -> list[tuple[str, object]]:
    """The same as a table with a heading."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if "file_name" not in (rows.fieldnames or ()) or not _WORDS & set(rows.fieldnames or ()):
        raise UnusableError("must have a first line with the headings file_name and text")
    return [(row["file_name"] or "", row.get("text", row.get("caption"))) for row in rows]


_WORDS = {"text", "caption"}
_PARSERS: dict[str, Callable[[str], list[tuple[str, object]]]] = {
    ".json": _object, ".jsonl": _lines, ".csv": _columns
}  # fmt: skip


def _checked(text: object) -> str:
    """The caption on one line; raises `UnusableError` when the placeholder is not in it exactly once."""
    if not isinstance(text, str):
        raise UnusableError(f"caption {text!r} is not text")
    caption = " ".join(text.split())
    if len(caption) > _MAX_CAPTION_BYTES:
        raise UnusableError(f"caption has {len(caption)} letters; at most {_MAX_CAPTION_BYTES} are read, shorten it")
    if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise UnusableError(f"caption {caption[:80]!r} holds half a character; write it anew")
    count = caption.count(PLACEHOLDER)
    if count != 1:
        raise UnusableError(
            f"caption {caption[:80]!r} holds {PLACEHOLDER} {count} times; write it once, where the action goes, "
            f"e.g. 'a woman {PLACEHOLDER} in a park'"
        )
    return caption
