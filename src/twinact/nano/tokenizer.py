"""The CLIP tokenizer of nano, trained on the words of the world's captions."""

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from twinact.phrases import load_phrases
from twinact.world.bodies import ACTORS
from twinact.world.captions import MEDIA
from twinact.world.places import PLACES

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_EXTRA_WORDS = "a an the and while with who is are of in on at someone person figure doing posing action , ."


def build_tokenizer(max_tokens: int) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the 832 phrases, the actors and the places is one token.

    Other words still work: they are spelled out in bytes, as in any byte-level BPE.

    Args:
        max_tokens: Context length, with the two special tokens.
    """
    texts = [phrase.text for phrase in load_phrases()] + list(ACTORS) + [place.text for place in PLACES.values()]
    words = sorted({word for text in (*texts, *MEDIA, _EXTRA_WORDS) for word in text.split()})
    model = Tokenizer(BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = Whitespace()
    model.train_from_iterator(
        # Twice each, so that no merge falls below the trainer's smallest frequency.
        [word for word in words for _ in range(2)],
        BpeTrainer(vocab_size=50_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False),
    )
    trained = _merges(model)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(letter + "</w>" for letter in alphabet)])
    tokens |= dict.fromkeys(left + right for left, right in trained)
    vocab = {token: index for index, token in enumerate([*tokens, _BOS, _EOS])}
    return CLIPTokenizer(
        vocab=vocab, merges=trained, bos_token=_BOS, eos_token=_EOS, unk_token=_EOS, pad_token=_EOS,
        model_max_length=max_tokens,
    )  # fmt: skip


def _merges(model: Tokenizer) -> list[tuple[str, str]]:
    import json

    merges = json.loads(model.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]
