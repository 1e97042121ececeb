"""The action phrases from which an action space is built, and words that are no actions."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

from twinact.errors import DataError


@dataclass(frozen=True)
class Phrase:
    """One action in a few words.

    Attributes:
        text: The phrase as it stands in a prompt, as in "arms crossed".
        heading: The part of the body that it is about: Head, Hand, Foot or Body in the shipped list.
    """

    text: str
    heading: str


@cache
def load_phrases() -> tuple[Phrase, ...]:
    """The shipped phrases in the order of the file.

    Raises:
        DataError: The file is missing, malformed or names a phrase twice.
    """
    return _shipped("actions.txt")


def headings() -> dict[str, str]:
    """The heading of each shipped phrase."""
    return {phrase.text: phrase.heading for phrase in load_phrases()}


@cache
def load_other_words() -> tuple[Phrase, ...]:
    """Words that are no actions: actors, places, things, light and styles, which an action space should keep out.

    Raises:
        DataError: As `load_phrases`.
    """
    return _shipped("others.txt")


def _shipped(name: str) -> tuple[Phrase, ...]:
    source = resources.files(__name__) / name
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the phrase list {source}: {error}; install twinact again") from error
    return parse_phrases(text, str(source))


def parse_phrases(text: str, source: str) -> tuple[Phrase, ...]:
    """Reads a phrase list: `# Heading` lines, each followed by one phrase per line; empty lines are skipped.

    Args:
        text: Content of the list.
        source: Where it comes from, for messages.

    Raises:
        DataError: A phrase stands before the first heading, holds odd characters or spaces, or stands there twice
            (upper and lower case count as the same); a heading is empty or has no phrase; there are no phrases.
    """
    phrases: list[Phrase] = []
    first_lines: dict[str, int] = {}
    counts: dict[str, int] = {}  # heading -> number of phrases
    heading = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        if line.startswith("#"):
            heading = line[1:].strip()
            if not heading or heading in counts:
                raise DataError(f"{where}: heading {line!r} is {'empty' if not heading else 'given twice'}")
            counts[heading] = 0
            continue
        if not heading:
            raise DataError(f"{where}: phrase {line!r} has no heading; put a line such as '# Head' before it")
        # Angle brackets are for placeholders such as <act>, which are no words.
        if line != " ".join(line.split()) or not line.isprintable() or any(mark in line for mark in "#<>"):
            raise DataError(f"{where}: phrase {line!r} must be plain words with single spaces and none of # < >")
        first = first_lines.setdefault(line.casefold(), number)
        if first != number:
            raise DataError(f"{where}: phrase {line!r} was already given in line {first}; remove one")
        phrases.append(Phrase(line, heading))
        counts[heading] += 1
    empty = [name for name, count in counts.items() if count == 0]
    if empty or not phrases:
        raise DataError(f"{source}: no phrases under {', '.join(empty) or 'any heading'}; write one phrase per line")
    return tuple(phrases)
