"""Real tokenizers of a few words."""

import string
from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTokenizer,
    Qwen2Tokenizer,
    T5Tokenizer,
)

from twinact.nano.tokenizer import train_tokenizer

WORDS = (
    "a", "an", "the", "in", "on", "with", "of", "photo", "picture", "robot", "cat", "dog", "woman", "man",
    "park", "city", "moon", "red", "dress", "jumping",
)  # fmt: skip


MAX_LENGTH = 24


def tiny_tokenizer(words: Sequence[str] = WORDS) -> CLIPTokenizer:
    """A CLIP tokenizer that knows each of the words as one token and spells everything else in bytes."""
    return train_tokenizer(words, MAX_LENGTH)


def tiny_t5_tokenizer(words: Sequence[str] = WORDS) -> T5Tokenizer:
    """A T5 tokenizer that knows each of the words as one token and spells everything else in letters."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *("▁" + word for word in words), *string.ascii_letters, *".,'!?0123456789"]
    # A word must be likelier than its letters together.
    scores = [0.0 if piece.startswith("<") else -2.0 - (len(piece) == 1) for piece in pieces]
    return T5Tokenizer(vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=512)


# As that of Qwen3, for one user who says one thing.
_CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)


def tiny_qwen_tokenizer(words: Sequence[str] = WORDS) -> Qwen2Tokenizer:
    """A Qwen tokenizer that knows each of the words after a space as one token and spells all else in bytes."""
    tokens = dict.fromkeys(sorted(ByteLevel.alphabet()))
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        known = "Ġ"  # how a space is written
        for letter in word:
            merges[known, letter] = None
            known += letter
            tokens[known] = None
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=list(merges), eos_token="<|im_end|>", unk_token=None, model_max_length=131_072
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer
