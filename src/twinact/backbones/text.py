"""Prompts with learned vectors inside: token ids around the placeholders, vectors written over their embeddings.

Neither the tokenizer nor the embedding table is touched, so a backbone carries no trace of the actions it has drawn.
"""

import logging
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from twinact.backbones.memory import visited_device
from twinact.backbones.prompt_weights import weigh, weighed_parts
from twinact.errors import DataError, TwinactError

if TYPE_CHECKING:
    from twinact.backbones.backbone import TokenTable

log = logging.getLogger(__name__)
_FURTHEST = 100


@dataclass(frozen=True)
class Spliced:
    """Tokenised prompts of one text encoder, and what belongs in the place of placeholders.

    Attributes:
        ids: (b, l) token ids; an ordinary token stands at every learned position.
        mask: (b, l) 1 on tokens, 0 on padding.
        rows, columns: (n,) positions of the learned vectors; their row and column in `ids`.
        values: (n, width) the vectors, on their own device; None where no prompt has a placeholder.
        weights: (b, l) how much each position counts; None where no prompt gives weights.
    """

    ids: Int64[Tensor, "b l"]
    mask: Int64[Tensor, "b l"]
    rows: Int64[Tensor, " n"]
    columns: Int64[Tensor, " n"]
    values: Float[Tensor, "n width"] | None
    weights: Float[Tensor, "b l"] | None = None

    def to(self, device: torch.device) -> "Spliced":
        """The same on a device; differentiable."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Spliced(**{name: part if part is None else part.to(device) for name, part in parts.items()})


def splice(
    table: "TokenTable",
    prompts: Sequence[str],
    vectors: Mapping[str, Float[Tensor, "_ _"]],
    max_length: int,
    *,
    template: tuple[str, str] = ("", ""),
    needed: bool = True,
    weighed: bool = True,
) -> Spliced:
    """Tokenises prompts to `max_length` as the stock pipelines do, each placeholder taking as many positions as slots.

    Where a space belongs to the token after it, a placeholder takes the spaces before it with it, as a word would.

    Args:
        table: The text encoder's tokenizer and embeddings.
        prompts: Texts; the part beyond `max_length` is cut with a warning.
        vectors: Placeholder to (slots, width) vectors for this encoder.
        max_length: l, special tokens included.
        template: What stands before and after every prompt; it is cut like the prompt.
        needed: Whether every placeholder must fit; if not, one that does not is cut with all that follows, as the
            prompt's end is, because another encoder reads on.
        weighed: Whether "(words:1.2)" gives a weight; if not, it is read as it is written.

    Raises:
        DataError: A needed placeholder would be cut, its vectors have another width than the encoder, or a weight is
            out of range.
    """
    for placeholder, value in vectors.items():
        if value.shape[1] != table.width:
            raise DataError(
                f"vectors of {placeholder!r} are {value.shape[1]} wide and {table.name} takes {table.width}: "
                "they were made for another model"
            )
    tokenizer = table.tokenizer
    # The ids of an empty text are exactly the special tokens: begin and end for CLIP, the end for T5, none for Qwen.
    special = tokenizer("").input_ids
    begin, end = special[:-1], special[-1:]
    room = max_length - len(special)
    ordinary = _ordinary_id(tokenizer)
    rows_of_ids: list[list[int]] = []
    mask: list[list[int]] = []
    weights: list[list[float]] = []
    rows: list[int] = []
    columns: list[int] = []
    values: list[Tensor] = []
    for row, prompt in enumerate(prompts):
        ids: list[int] = []
        counts: list[float] = []
        taken: list[int] = []
        for part, weight in _weighed(template[0] + prompt + template[1], vectors, table.space, weighed):
            if part not in vectors:
                ids += table.ids(part, as_written=True)
                counts += [weight] * (len(ids) - len(counts))
                continue
            value = vectors[part]
            if len(ids) + len(value) > room:
                told = f"prompt {prompt!r} puts {part} beyond the {room} tokens that {table.name} reads"
                if needed:
                    raise DataError(f"{told}: shorten the text before it")
                log.warning("%s; cut: %s and what follows", told, part)
                ids = ids[:room]
                break
            taken += range(len(begin) + len(ids), len(begin) + len(ids) + len(value))
            values.append(value)
            ids += [ordinary] * len(value)
            counts += [weight] * len(value)
        if len(ids) > room:
            log.warning(
                "prompt %r has %d tokens, %s reads %d; cut: %r",
                prompt, len(ids), table.name, room, tokenizer.decode(ids[room:]),
            )  # fmt: skip
        full = [*begin, *ids[:room], *end]
        padding = [tokenizer.pad_token_id] * (max_length - len(full))
        left = tokenizer.padding_side == "left"
        rows_of_ids.append(padding + full if left else full + padding)
        words, rest = [1] * len(full), [0] * len(padding)
        mask.append(rest + words if left else words + rest)
        counted, unread = [*[1.0] * len(begin), *counts[:room], *[1.0] * len(end)], [1.0] * len(padding)
        weights.append(unread + counted if left else counted + unread)
        rows += [row] * len(taken)
        columns += [len(padding) * left + place for place in taken]
    device = table.weight.device
    return Spliced(
        ids=torch.tensor(rows_of_ids, dtype=torch.long, device=device).reshape(-1, max_length),
        mask=torch.tensor(mask, dtype=torch.long, device=device).reshape(-1, max_length),
        rows=torch.tensor(rows, dtype=torch.long, device=device),
        columns=torch.tensor(columns, dtype=torch.long, device=device),
        # Where they are: the encoder may be offloaded to the machine's memory while they learn on the device.
        values=torch.cat([v.to(values[0].device, table.weight.dtype) for v in values]) if values else None,
        weights=torch.tensor(weights, device=device) if any(one != 1.0 for own in weights for one in own) else None,
    )


def places_of(
    placeholder: str,
    tables: Sequence["TokenTable"],
    prompts: Sequence[str],
    vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]],
) -> Float[Tensor, "b l"]:
    """1 where the vectors of a placeholder stand in prompts that CLIP text encoders read side by side, else 0.

    Args:
        placeholder: It need not be in the prompts.
        tables: Token tables of the model.
        prompts, vectors: As `Backbone.encode_text` takes them.
    """
    found = []
    for number, table in enumerate(tables):
        # Ones in the place of the vectors that are looked for, zeros in that of others.
        own = {said: torch.full_like(given[number], float(said == placeholder)) for said, given in vectors.items()}
        with silence_cut_warnings():  # they were given when the prompts were encoded
            spliced = splice(table, prompts, own, table.tokenizer.model_max_length)
        places = torch.zeros(spliced.ids.shape, device=spliced.ids.device)
        if spliced.values is not None:
            places[spliced.rows, spliced.columns] = spliced.values[:, 0].to(places)
        found.append(places)
    return torch.stack(found).amax(dim=0)


def check_reach(tables: Sequence["TokenTable"], vectors: Mapping[str, Sequence[Float[Tensor, "*_ _ _"]]]) -> None:
    """Refuses vectors that no text encoder can mean anything by: they overflow in it, and the picture is black.

    Args:
        tables: Token tables of the model.
        vectors: As `Backbone.encode_text` takes them.

    Raises:
        DataError: A number is not finite, or `_FURTHEST` times as large as any in the embeddings of the model's words.
    """
    for placeholder, given in vectors.items():
        for table, value in zip(tables, given, strict=False):
            # Without a copy of the table, which may be gigabytes.
            largest, own = (max(-float(low), float(high)) for low, high in map(torch.aminmax, (value, table.weight)))
            if not largest <= _FURTHEST * own:
                raise DataError(
                    f"vectors of {placeholder!r} hold {largest:.3g} and the words of {table.name} lie within "
                    f"{own:.3g}: at most {_FURTHEST} times that can be drawn; make them again"
                )


def token_embedding(encoder: nn.Module) -> nn.Module:
    """The module with which a text encoder looks its tokens up.

    `get_input_embeddings()` of T5 names another module, which has the same weight and is never called.
    """
    called = getattr(getattr(encoder, "encoder", None), "embed_tokens", None)
    return encoder.get_input_embeddings() if called is None else called


@contextmanager
def written(encoder: nn.Module, spliced: Spliced) -> Iterator[None]:
    """While open, `encoder` reads the learned vectors at their positions; gradients reach them.

    CLIP takes no `inputs_embeds`, and copying its code would tie us to one version of it; a forward hook on the
    embedding works for every text encoder.

    Raises:
        TwinactError: The encoder was run and did not look at the embedding: the vectors would do nothing.
    """
    values = spliced.values
    if values is None:
        yield
        return
    wrote = False

    def write(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal wrote
        wrote = True
        return output.index_put((spliced.rows, spliced.columns), values.to(output.dtype))

    handle = token_embedding(encoder).register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()
    if not wrote:
        raise TwinactError(
            f"learned vectors cannot be put into a {type(encoder).__name__} of this version of transformers: "
            "use the version that twinact was released with"
        )


def encode(encoder: nn.Module, spliced: Spliced, *, masked: bool = False, **options: Any) -> Any:
    """What a text encoder makes of spliced prompts.

    It computes in the precision of its weights, whatever autocast says: T5 keeps some in float32 because their
    products overflow in float16.

    Args:
        encoder: Of transformers.
        spliced: Prompts.
        masked: Whether the padding is masked; the stock pipelines of some families do it, those of others do not.
        options: Further arguments of the encoder.
    """
    device = visited_device(encoder)
    there = spliced.to(spliced.ids.device if device is None else device)
    if masked:
        options["attention_mask"] = there.mask
    if device is None:
        with written(encoder, there), _no_autocast(there.ids.device):
            return encoder(there.ids, **options)

    def visit() -> Any:
        # New tensors: were the encoder's own moved, those that backward keeps would move back under it.
        weights = {name: tensor.to(device) for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]}
        with written(encoder, there), _no_autocast(device):
            return functional_call(encoder, weights, (there.ids,), options)

    # Backward runs the visit again, so that neither weights nor activations stay on the device in between.
    return checkpoint(visit, use_reentrant=False)


def encode_weighed(
    encoder: nn.Module,
    table: "TokenTable",
    spliced: Spliced,
    read: Callable[[Any], Float[Tensor, "b l d"]],
    **options: Any,
) -> tuple[Float[Tensor, "b l d"], Any]:
    """The vectors of all positions, weighed where prompts ask for it, and all outputs of a text encoder.

    Args:
        encoder, spliced, options: As `encode` takes them.
        table: The encoder's tokenizer and embeddings.
        read: Takes the vectors out of the outputs.
    """
    outputs = encode(encoder, spliced, **options)
    hidden = read(outputs)
    if spliced.weights is None:
        return hidden, outputs
    nothing = encode(encoder, splice(table, [""], {}, spliced.ids.shape[1]), **options)
    return weigh(hidden, read(nothing), spliced.weights), outputs


@contextmanager
def silence_cut_warnings() -> Iterator[None]:
    """While open, no warning is given for prompts that are too long; for work that meets the same ones repeatedly."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    log.addFilter(drop)
    try:
        yield
    finally:
        log.removeFilter(drop)


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    known = torch.amp.autocast_mode.is_autocast_available(device.type)  # not where tensors are shapes alone
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def by_encoder(
    vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None, encoders: int, model_id: str
) -> list[dict[str, Float[Tensor, "_ _"]]]:
    """Vectors as `Backbone.encode_text` takes them, sorted into one mapping per text encoder.

    Raises:
        DataError: A placeholder has vectors for more or fewer encoders than the model has.
    """
    own: list[dict[str, Tensor]] = [{} for _ in range(encoders)]
    for placeholder, given in (vectors or {}).items():
        if len(given) != encoders:
            raise DataError(
                f"{placeholder!r} has vectors for {len(given)} text encoders and {model_id} has {encoders}: "
                "they were made for another model"
            )
        for mapping, value in zip(own, given, strict=True):
            mapping[placeholder] = value
    return own


def pool_at_end(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes a CLIP text encoder pool at the first end token, also where it is saved and loaded again.

    Published configs say that the end is token 2, which CLIP reads as "at the largest id". That is the end token
    until somebody adds tokens, whose ids are larger.
    """
    inner = getattr(encoder, "text_model", encoder)
    for place in (inner, inner.config, encoder.config):
        place.eos_token_id = tokenizer.eos_token_id


def placeholders_in(prompt: str, placeholders: Sequence[str]) -> list[str]:
    """The placeholders in a prompt, in order, as often as they stand there."""
    return [part for part in _parts(prompt, placeholders) if part in placeholders]


def _parts(prompt: str, placeholders: Sequence[str]) -> list[str]:
    if not placeholders:
        return [prompt]
    # Longest first, so that a placeholder may begin with another.
    longest_first = sorted(placeholders, key=len, reverse=True)
    return re.split("(" + "|".join(map(re.escape, longest_first)) + ")", prompt)


def _weighed(
    prompt: str, vectors: Mapping[str, Float[Tensor, "_ _"]], space: str, weighed: bool
) -> list[tuple[str, float]]:
    """Text and placeholders of a prompt in order, each with its weight."""
    told = weighed_parts(prompt) if weighed else [(prompt, 1.0)]
    return [(part, weight) for text, weight in told for part in _spaced(_parts(text, list(vectors)), vectors, space)]


def _spaced(parts: Sequence[str], vectors: Container[str], space: str) -> list[str]:
    """Parts of a prompt with spaces where `space` belongs to the word after it: none before vectors, one after."""
    if not space:
        return list(parts)
    spaced = list(parts)
    for index, part in enumerate(parts):
        if part in vectors:
            spaced[index - 1] = spaced[index - 1].rstrip(space)
            if parts[index + 1][:1].isalnum():
                spaced[index + 1] = space + spaced[index + 1]
    return spaced


def _ordinary_id(tokenizer: PreTrainedTokenizerBase) -> int:
    # Must not be the end token (CLIP's padding and unknown token are): models look for it to find the pooled position.
    special = set(tokenizer.all_special_ids)
    return next(i for i in range(len(special) + 1) if i not in special)
