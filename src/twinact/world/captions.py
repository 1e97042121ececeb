"""Captions: an actor, one or two action phrases, usually a place, in varied wording."""

from collections.abc import Sequence

import numpy as np

MEDIA = ("a picture of", "a photo of", "an illustration of", "a drawing of", "an image of")
EVAL_TEMPLATE = "{actor} {action} {place}"


def with_article(noun: str) -> str:
    """``"robot"`` → ``"a robot"``, ``"astronaut"`` → ``"an astronaut"``."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def is_participle(phrase: str) -> bool:
    """Whether a phrase is a verb in -ing form ("waving the left hand") and not an absolute one ("arms crossed")."""
    return phrase.split()[0].endswith("ing")


def caption(
    actor: str, phrases: Sequence[str], place: str | None, rng: np.random.Generator, *, placeholder: bool = False
) -> str:
    """A caption in one of the wordings that nano is trained on.

    Args:
        actor: Noun phrase without an article, a key of `ACTORS`.
        phrases: Zero to two action phrases, in the order in which they are said.
        place: Text of a place such as "in a park", or None to leave it unsaid.
        rng: Chooses the wording.
        placeholder: The single phrase is a placeholder token, which reads like a participle.
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
    participle = placeholder or is_participle(first)
    text = f" {first}" if participle else (f" with {first}" if rng.random() < 0.7 else f", {first}")
    if participle and rng.random() < 0.2:
        text = f" who is {first}"
    for phrase in phrases[1:]:
        if is_participle(phrase):
            link = (" and ", " while ", ", ")[rng.integers(3)] if participle else ", "
        else:
            link = (" with ", ", ", " and ")[rng.integers(2 if participle else 3)]
        text += link + phrase
    return text
