"""What each text encoder makes of prompts, position by position, apart from how a model puts it together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twinact.backbones.backbone import Backbone
from twinact.backbones.qwen import language_model
from twinact.backbones.text import by_encoder, encode, splice

# T5 and language models read hundreds of tokens; captions have far fewer.
_LONGEST = 77


@dataclass(frozen=True)
class TextOutput:
    """The output of one text encoder.

    Attributes:
        hidden: Its last hidden state, after the last normalisation; float32.
        words: Where the prompt's own tokens stand: no padding, no learned vector.
        learned: Where learned vectors stand.
    """

    hidden: Float[Tensor, "b l w"]
    words: Bool[Tensor, "b l"]
    learned: Bool[Tensor, "b l"]


def text_outputs(
    backbone: Backbone, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
) -> list[TextOutput]:
    """The outputs of all text encoders, in the order of the token tables.

    Args:
        backbone: The model.
        prompts, vectors: As `Backbone.encode_text` takes them; differentiable in the vectors.

    Raises:
        DataError: As `Backbone.encode_text`.
    """
    tables, pipeline = backbone.token_tables(), backbone.pipeline()
    found = []
    for table, own in zip(tables, by_encoder(vectors, len(tables), backbone.model_id), strict=True):
        spliced = splice(table, prompts, own, min(_LONGEST, table.tokenizer.model_max_length))
        hidden = encode(language_model(getattr(pipeline, table.name)), spliced).last_hidden_state.float()
        learned = torch.zeros_like(spliced.mask, dtype=torch.bool)
        learned[spliced.rows, spliced.columns] = True
        words = spliced.mask.bool() & ~learned
        found.append(TextOutput(hidden, words.to(hidden.device), learned.to(hidden.device)))
    return found
