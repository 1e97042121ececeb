"""The CLIP tokenizer of nano, trained on the words of the world's captions."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from twinact.phrases import load_phrases
from twinact.world.bodies import ACTORS
from twinact.world.captions import GENERIC, MEDIA
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.things import THINGS

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_EXTRA_WORDS = "a an the and while with who is are of in on at doing posing action , ."


def build_tokenizer(max_tokens: int) -> CLIPTokenizer:
    """The tokenizer of nano: every word of the world's captions is one token.

    Args:
        max_tokens: Context length, with the two special tokens.
    """
    texts = [phrase.text for phrase in load_phrases()] + list(ACTORS) + [place.text for place in PLACES.values()]
    texts += [words for kind in (THINGS, LIGHTS) for one in kind.values() for words in one.words]
    texts += [*GENERIC, *MEDIA, _EXTRA_WORDS]
    return train_tokenizer({word for text in texts for word in text.split()}, max_tokens)


def train_tokenizer(words: Iterable[str], max_tokens: int) -> CLIPTokenizer:
    """A CLIP tokenizer that knows each of `words` as one token; all others are spelled out in bytes.

    Equal words give equal token ids in every process.

    Args:
        words: Lower case, letters only or a single punctuation mark.
        max_tokens: Context length, with the two special tokens.
    """
    alphabet = sorted(ByteLevel.alphabet())
    model = Tokenizer(BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = Whitespace()
    model.train_from_iterator(
        sorted(words),
        BpeTrainer(
            vocab_size=100_000,
            min_frequency=1,
            end_of_word_suffix="</w>",
            show_progress=False,
            # The trainer numbers these in hash order otherwise, and merges that tie would differ from run to run.
            special_tokens=[letter + "</w>" for letter in alphabet],
        ),
    )
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *(letter + "</w>" for letter in alphabet)])
    tokens |= dict.fromkeys(left + right for left, right in merges)
    vocab = {token: index for index, token in enumerate([*tokens, _BOS, _EOS])}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_EOS,
        pad_token=_EOS,
        model_max_length=max_tokens,
    )
