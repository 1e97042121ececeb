"""Puts an action's vectors into what a CLIP of ComfyUI makes of a prompt, before it is encoded.

ComfyUI's tokens are ``{encoder: [[(token, weight), ...], ...]}``, and a token may be a vector of the encoder's width in
place of a number. The text is tokenised with ordinary words where the action goes, and these are replaced: so chunks,
padding, weights, and all that ComfyUI does with conditioning are its own.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

PLACEHOLDER = "<act>"
# In the order in which twinact keeps the vectors of a model's text encoders.
ENCODERS = ("l", "h", "g", "t5xxl", "qwen3_4b", "qwen3_8b")
# Words that are one token each to every text encoder; the first that a prompt does not hold stands for the action.
WORDS = ("park", "moon", "robot", "dog", "cat", "city", "woman", "man", "person", "table", "river", "window")
Tokens = dict[str, list[list[tuple[Any, ...]]]]


def spliced(tokenize: Callable[[str], Tokens], text: str, vectors: Sequence[Any]) -> Tokens:
    """The tokens of a prompt with the vectors of an action where it says ``<act>``.

    Args:
        tokenize: ``clip.tokenize``.
        text: The prompt; may hold the placeholder several times, and weights as ComfyUI reads them.
        vectors: One (k, width) tensor for each text encoder.

    Raises:
        ValueError: The prompt has no placeholder, or the CLIP has other text encoders than the action.
    """
    if PLACEHOLDER not in text:
        raise ValueError(f"prompt {text!r} does not say where the action goes: put {PLACEHOLDER} in it")
    plain = tokenize("")
    encoders = [one for one in ENCODERS if one in plain]
    if len(encoders) != len(vectors) or set(encoders) != set(plain):
        raise ValueError(
            f"this CLIP has the text encoders {', '.join(plain)}, and the action has vectors for {len(vectors)}: it "
            "was learned on a model of another family"
        )
    for word in WORDS:
        marks = {name: _mark(tokenize, plain, word, name) for name in encoders}
        if word not in text.lower() and None not in marks.values():
            break
    else:
        raise ValueError(f"prompt {text!r} holds all of {', '.join(WORDS)}; leave one out")
    # One space before each word, as language models read a word without one otherwise.
    tokens = tokenize(re.sub(f" *{PLACEHOLDER}", f" {word}" * len(vectors[0]), text))
    found: Tokens = {}
    for name, block in zip(encoders, vectors, strict=True):
        seen, chunks = 0, []
        for chunk in tokens[name]:
            put = []
            for token, *rest in chunk:
                if not hasattr(token, "shape") and token == marks[name]:
                    token, seen = block[seen % len(block)], seen + 1
                put.append((token, *rest))
            chunks.append(put)
        if seen != len(block) * text.count(PLACEHOLDER):
            raise ValueError(f"text encoder {name!r} reads {seen} of the action's vectors; shorten the prompt")
        found[name] = chunks
    return found


def _mark(tokenize: Callable[[str], Tokens], plain: Tokens, word: str, name: str) -> int | None:
    """The token that an encoder reads for a word; None where the word is several tokens to it."""

    def numbers(tokens: Tokens) -> list[int]:
        return [token for chunk in tokens[name] for token, *_ in chunk if not hasattr(token, "shape")]

    padding = set(numbers(plain))
    # After another word, since language models read a word at the beginning otherwise.
    added = [token for token in numbers(tokenize(f"a {word} {word}")) if token not in padding]
    return added[-1] if added[-2:] == added[-1:] * 2 else None
