"""Captions: an actor, one or two action phrases, usually a place, in varied wording."""

from collections.abc import Sequence

import numpy as np

MEDIA = ("a picture of", "a photo of", "an illustration of", "a drawing of", "an image of")
EVAL_TEMPLATE = "{actor} {action} {place}"


def with_article(noun: str) -> str:
    """``"robot"`` → ``"a robot"``, ``"astronaut"`` → ``"an astronaut"``."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def follows_directly(phrase: str) -> bool:
    """Whether a phrase follows its actor as it is ("waving", "in a squat"), or needs a "with" ("arms crossed")."""
    first, *rest = phrase.split()
    return first.endswith("ing") or first in _STARTS or (first in _SPORTS and rest[0].endswith("ing"))


_STARTS = frozenset("in on down turned curled flipped upside".split())
_SPORTS = frozenset("disco side speed slam sumo flamenco tango tuck".split())


def caption(
    actor: str, phrases: Sequence[str], place: str | None, rng: np.random.Generator, *, placeholder: bool = False
) -> str:
    """A caption in one of the wordings that nano is trained on.

    Args:
        actor: Noun phrase without an article, a key of `ACTORS`.
        phrases: Zero to two action phrases, in the order in which they are said.
        place: Text of a place such as "in a park", or None to leave it unsaid.
        rng: Chooses the wording.
        placeholder: The single phrase is a placeholder token, which follows its actor directly.
    """
    who = with_article(actor)
    if rng.random() < 0.4:
        who = f"{MEDIA[rng.integers(len(MEDIA))]} {who}"
    doing = _join(list(phrases), rng, placeholder)
    if not place:
        return f"{who}{doing}"
    wording = rng.random()
    if wording < 0.6:
        return f"{who}{doing} {place}"
    if wording < 0.8:
        return f"{who} {place}{doing}"
    return f"{place}, {who}{doing}"


def _join(phrases: list[str], rng: np.random.Generator, placeholder: bool) -> str:
    if not phrases:
        return ""
    first = phrases[0]
    direct = placeholder or follows_directly(first)
    text = f" {first}" if direct else (f" with {first}" if rng.random() < 0.7 else f", {first}")
    if direct and first.split()[0].endswith("ing") and rng.random() < 0.2:
        text = f" who is {first}"
    for phrase in phrases[1:]:
        if follows_directly(phrase):
            link = (" and ", " while ", ", ")[rng.integers(3)] if direct else ", "
        else:
            link = (" with ", ", ", " and ")[rng.integers(2 if direct else 3)]
        text += link + phrase
    return text
