"""Puts action phrases into sentences as people write them."""

from twinact import PLACEHOLDER


def follows_directly(phrase: str) -> bool:
    """Whether a phrase follows its actor as it is ("waving", "in a squat"), or needs a "with" ("arms crossed")."""
    first, *rest = phrase.split()
    return first.endswith("ing") or first in _STARTS or (first in _SPORTS and rest[0].endswith("ing"))


_STARTS = frozenset("in on down turned curled flipped upside".split())
_SPORTS = frozenset("disco side speed slam sumo flamenco tango tuck".split())


def said(prompt: str, phrase: str) -> str:
    """A prompt with a phrase in the place of the action: "jumping", but "with arms crossed"; "" leaves it out."""
    if not phrase:
        return " ".join(prompt.replace(PLACEHOLDER, "").split())
    return prompt.replace(PLACEHOLDER, phrase if follows_directly(phrase) else f"with {phrase}")
