"""Captions: an actor, up to four action phrases, a place, things and light, in varied wording; some of it unsaid."""

from collections.abc import Sequence

import numpy as np

from twinact.phrases.wording import follows_directly

MEDIA = ("a picture of", "a photo of", "an illustration of", "a drawing of", "an image of")
GENERIC = ("someone", "person", "figure")
"""What a caption may call any actor."""


def with_article(noun: str) -> str:
    """``"robot"`` → ``"a robot"``, ``"astronaut"`` → ``"an astronaut"``; "someone" needs none."""
    if noun == "someone":
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def caption(
    actor: str, phrases: Sequence[str], place: str | None, rng: np.random.Generator, *, things: Sequence[str] = (),
    light: str | None = None, placeholder: bool = False,
) -> str:  # fmt: skip
    """A caption in one of the wordings that nano is trained on.

    Args:
        actor: Noun phrase without an article: a key of `ACTORS`, or one of `GENERIC`.
        phrases: Zero to four action phrases, in the order in which they are said.
        place: Text of a place such as "in a park", or None to leave it unsaid.
        rng: Chooses the wording.
        things: Texts of things such as "in a top hat", in the order in which they are said.
        light: Text of the light such as "at night", or None to leave it unsaid.
        placeholder: The single phrase is a placeholder token, which follows its actor directly.
    """
    who = with_article(actor)
    if rng.random() < 0.4:
        who = f"{MEDIA[rng.integers(len(MEDIA))]} {who}"
    doing = _join(list(phrases), rng, placeholder)
    worn = "".join(f" {text}" for text in things)
    if worn and doing and rng.random() < 0.3:
        doing = f"{doing},{worn}"
    else:
        who += worn
    where = " ".join(text for text in (place, light) if text)
    if place and light and rng.random() < 0.2:
        return f"{light}, {who}{doing} {place}"
    if not where:
        return f"{who}{doing}"
    wording = rng.random()
    if wording < 0.6:
        return f"{who}{doing} {where}"
    if wording < 0.8:
        return f"{who} {where}{doing}"
    return f"{where}, {who}{doing}"


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
