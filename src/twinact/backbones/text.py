"""Prompts with learned vectors inside: token ids around the placeholders, vectors written over their embeddings.

Neither the tokenizer nor the embedding table is touched, so a backbone carries no trace of the actions it has drawn.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from twinact.backbones.base import TokenTable
from twinact.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spliced:
    """Tokenised prompts of one text encoder, and what belongs in the place of placeholders.

    Attributes:
        ids: (b, l) token ids; an ordinary token stands at every learned position.
        mask: (b, l) 1 on tokens, 0 on padding.
        rows, columns: (n,) positions of the learned vectors; their row and column in `ids`.
        values: (n, width) the vectors, or None where no prompt has a placeholder.
    """

    ids: Int64[Tensor, "b l"]
    mask: Int64[Tensor, "b l"]
    rows: Int64[Tensor, " n"]
    columns: Int64[Tensor, " n"]
    values: Float[Tensor, "n width"] | None


def splice(
    table: TokenTable, prompts: Sequence[str], vectors: Mapping[str, Float[Tensor, "_ _"]], max_length: int
) -> Spliced:
    """Tokenises prompts to `max_length` as the stock pipelines do, each placeholder taking as many positions as slots.

    Args:
        table: The text encoder's tokenizer and embeddings.
        prompts: Texts; the part beyond `max_length` is cut with a warning.
        vectors: Placeholder to (slots, width) vectors for this encoder.
        max_length: l, special tokens included.

    Raises:
        DataError: A placeholder would be cut, or its vectors have another width than the encoder.
    """
    for placeholder, value in vectors.items():
        if value.shape[1] != table.width:
            raise DataError(
                f"vectors of {placeholder!r} are {value.shape[1]} wide and {table.name} takes {table.width}: "
                "they were made for another model"
            )
    tokenizer = table.tokenizer
    # The ids of an empty text are exactly the special tokens: begin and end for CLIP, the end alone for T5.
    *begin, end = tokenizer("").input_ids
    room = max_length - len(begin) - 1
    ordinary = _ordinary_id(tokenizer)
    rows_of_ids: list[list[int]] = []
    mask: list[list[int]] = []
    rows: list[int] = []
    columns: list[int] = []
    values: list[Tensor] = []
    for row, prompt in enumerate(prompts):
        ids: list[int] = []
        for part in _parts(prompt, list(vectors)):
            if part not in vectors:
                ids += table.ids(part)
                continue
            value = vectors[part]
            if len(ids) + len(value) > room:
                raise DataError(
                    f"prompt {prompt!r} puts {part} beyond the {room} tokens that {table.name} reads: "
                    "shorten the text before it"
                )
            columns += range(len(begin) + len(ids), len(begin) + len(ids) + len(value))
            rows += [row] * len(value)
            values.append(value)
            ids += [ordinary] * len(value)
        if len(ids) > room:
            log.warning(
                "prompt %r has %d tokens, %s reads %d; cut: %r",
                prompt, len(ids), table.name, room, tokenizer.decode(ids[room:]),
            )  # fmt: skip
        full = [*begin, *ids[:room], end]
        padding = max_length - len(full)
        rows_of_ids.append(full + [tokenizer.pad_token_id] * padding)
        mask.append([1] * len(full) + [0] * padding)
    device = table.weight.device
    return Spliced(
        ids=torch.tensor(rows_of_ids, dtype=torch.long, device=device).reshape(-1, max_length),
        mask=torch.tensor(mask, dtype=torch.long, device=device).reshape(-1, max_length),
        rows=torch.tensor(rows, dtype=torch.long, device=device),
        columns=torch.tensor(columns, dtype=torch.long, device=device),
        values=torch.cat([value.to(table.weight) for value in values]) if values else None,
    )


@contextmanager
def written(embeddings: nn.Module, spliced: Spliced) -> Iterator[None]:
    """While open, `embeddings` returns the learned vectors at their positions; gradients reach them.

    CLIP takes no `inputs_embeds`, and copying its code would tie us to one version of it; a forward hook on the
    module of `get_input_embeddings()` works for every text encoder.
    """
    values = spliced.values
    if values is None:
        yield
        return

    def write(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_put((spliced.rows, spliced.columns), values.to(output.dtype))

    handle = embeddings.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()


def held(prompt: str, placeholders: Sequence[str]) -> list[str]:
    """The placeholders in a prompt, in order, as often as they stand there."""
    return [part for part in _parts(prompt, placeholders) if part in placeholders]


def _parts(prompt: str, placeholders: Sequence[str]) -> list[str]:
    if not placeholders:
        return [prompt]
    # Longest first, so that a placeholder may begin with another.
    longest_first = sorted(placeholders, key=len, reverse=True)
    return re.split("(" + "|".join(map(re.escape, longest_first)) + ")", prompt)


def _ordinary_id(tokenizer: PreTrainedTokenizerBase) -> int:
    # Must not be the end token (CLIP's padding and unknown token are): models look for it to find the pooled position.
    special = set(tokenizer.all_special_ids)
    return next(i for i in range(len(special) + 1) if i not in special)
