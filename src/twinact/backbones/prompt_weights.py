"""Weights of words in prompts, as in "a (red:1.3) cat", which A1111 and ComfyUI have made usual.

Only what names a number is a weight: "(red)" and "[red]" are read as they are written, as stock pipelines read them.
Libraries for this, such as `compel`, run tokenizers and text encoders themselves; here learned vectors stand between
the tokens, which no tokenizer knows, so that the small parser is our own.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.configs.settings import Bounds
from twinact.errors import DataError

WEIGHTS = Bounds(0.0, 10.0)
"""Of words in a prompt; 1 changes nothing, 0 takes their meaning out."""
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_LETTER = re.compile(r"[^\W\d_]")


def weighed_parts(prompt: str) -> list[tuple[str, float]]:
    """A prompt in parts of one weight each, without parentheses and numbers of weights; one part where there are none.

    The weights of nested parts are multiplied. What holds no letter is no word that could have a weight: "(4:3)".

    Args:
        prompt: May hold placeholders, inside and outside of what is weighed.

    Raises:
        DataError: A weight is out of range.
    """
    groups = _groups(prompt)
    ends = {colon: end for colon, end, _ in groups.values()}
    parts, at, weights = [], 0, [1.0]
    for place in sorted([*groups, *ends]):
        parts.append((prompt[at:place], weights[-1]))
        if place in groups:
            weights.append(weights[-1] * groups[place][2])
            at = place + 1
        else:
            weights.pop()
            at = ends[place] + 1
    parts.append((prompt[at:], weights[-1]))
    return [(text, weight) for text, weight in parts if text] or [("", 1.0)]


def has_weights(prompt: str) -> bool:
    """Whether a prompt gives a weight to some of its words; errors as `weighed_parts`."""
    return bool(_groups(prompt))


def weigh(
    hidden: Float[Tensor, "b l d"], nothing: Float[Tensor, "1 l d"], weights: Float[Tensor, "b l"]
) -> Float[Tensor, "b l d"]:
    """What a text encoder says of prompts, moved away from what it says of an empty one, or towards it.

    That is what ComfyUI does (`ClipTokenWeightEncoder` in its comfy/sd1_clip.py). Where the weight is 1, bits are kept.
    """
    strength = weights.to(hidden)[..., None]  # b l 1
    return torch.where(strength == 1, hidden, nothing.to(hidden) + strength * (hidden - nothing.to(hidden)))


def _groups(prompt: str) -> dict[int, tuple[int, int, float]]:
    """Where what is weighed begins → where its colon is, where it ends, and its weight."""
    found, begun = {}, []
    for place, letter in enumerate(prompt):
        if letter == "(":
            begun.append(place)
        elif letter == ")" and begun:
            start = begun.pop()
            inside = prompt[start + 1 : place]
            number = _NUMBER.search(inside)
            if number is None or not _LETTER.search(inside[: number.start()]):
                continue
            weight = float(number[1])
            if not WEIGHTS.hold(weight):
                raise DataError(
                    f"prompt {prompt!r} gives {inside[: number.start()]!r} the weight {number[1]}: use a number in "
                    f"{WEIGHTS}, or leave the parentheses out"
                )
            found[start] = (start + 1 + number.start(), place, weight)
    return found
