"""What a model cannot know: words that it never met, and pictures unlike any that it draws. It learns from them, and
what it learns is about something else; so they are told by name."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

from twinact.backbones.backbone import Backbone
from twinact.backbones.prompt_weights import has_weights
from twinact.data.exemplars import Photographs
from twinact.errors import ConfigError
from twinact.readers import ActionEncoder, LatentActionEncoder
from twinact.readers.own import LatentPoseReader

# CLIP has 49,408 tokens and T5 32,100, from which they spell any word; a model made from a list of words has few.
_WORD_LIST = 10_000
# How sure a reader is of the segments of a body: 0.7 or more on what nano draws, 0.4 or less on photographs, noise and
# empty pages.
_SEES = 0.5
_REMEDY = "give --model a model that was trained on photographs and any words"


def unknown_words(backbone: Backbone, texts: Iterable[str]) -> list[str]:
    """Words that none of a model's text encoders has met as such, in order; none for models that spell any word."""
    tables = backbone.token_tables()
    if any(len(table.tokenizer) > _WORD_LIST for table in tables):
        return []
    words = dict.fromkeys(word for text in texts for word in re.findall(r"[^\W\d_]+", re.sub(r"<[\w-]+>", " ", text)))
    return [word for word in words if all(len(table.ids(word)) > 1 for table in tables)]


def tell_unknown_words(backbone: Backbone, texts: Iterable[str], tell: Callable[[str], None]) -> None:
    """Tell which words of captions or prompts a model does not know, if there are any."""
    words = unknown_words(backbone, texts)
    if words:
        known = max(len(table.tokenizer) for table in backbone.token_tables())
        tell(f"words that this model does not know ({known} tokens are all that it has): {', '.join(words)}; {_REMEDY}")


def tell_unread_weights(backbone: Backbone, texts: Iterable[str], tell: Callable[[str], None]) -> None:
    """Tell once which prompts have weights although the model's family, as Qwen3's, has no use for them."""
    weighing = [text for text in texts if not backbone.weighs_prompts and has_weights(text)]
    if weighing:
        tell(
            f"this family of models reads weights as they are written ({', '.join(map(repr, weighing))}); "
            "'twinact adjust' makes an action stronger or weaker"
        )


def check_start(start: str, backbone: Backbone, phrases: Sequence[str]) -> None:
    """Refuses a starting phrase of words that a model does not know.

    Raises:
        ConfigError: The message suggests the nearest phrase of the space.
    """
    words = unknown_words(backbone, [start])
    if words:
        close = difflib.get_close_matches(start, phrases, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose other words, such as {phrases[0]!r}"
        raise ConfigError(f"start {start!r} has words that this model does not know ({', '.join(words)}); {hint}")


def tell_strange_pictures(
    backbone: Backbone, encoder: ActionEncoder | None, photographs: Photographs, tell: Callable[[str], None]
) -> None:
    """Tell in which exemplars a model's own pose reader sees nobody, if it has one: they are unlike what it draws."""
    if not isinstance(encoder, LatentActionEncoder):
        return
    sure = LatentPoseReader(encoder, backbone).read(photographs.images).weights.mean(dim=1).tolist()
    names = [path.name for path, seen in zip(photographs.paths, sure, strict=True) if seen < _SEES]
    if names:
        tell(
            f"pictures unlike any that this model draws ({len(names)} of {len(sure)}), in which its pose reader sees "
            f"nobody: {', '.join(names)}; {_REMEDY}"
        )
