"""Turns phrases into token groups, and computes the PCA of the groups that share a slot.

Letters in shapes: d distinct groups, r components, e text encoders, w the sum of their widths.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.errors import ConfigError, DataError

if TYPE_CHECKING:
    from twinact.backbones.backbone import TokenTable

# Directions whose singular value is below this share of the largest one are rounding, not phrases: token vectors are
# float32 at best (6e-8), and leaving such a direction out changes no vector by more than that noise.
_SMALLEST_SINGULAR_VALUE = 1e-6


@dataclass(frozen=True)
class TokenGroup:
    """What a phrase puts into one slot.

    Attributes:
        ids: The token ids of every encoder; groups with equal ids are the same.
        vector: Mean embedding of each encoder's tokens, encoders side by side; float64.
    """

    ids: tuple[tuple[int, ...], ...]
    vector: Float[Tensor, " w"]


def group_tokens(text: str, tables: Sequence["TokenTable"], slots: int) -> list[TokenGroup]:
    """Spreads the tokens of a text over slots, in order.

    A text with fewer tokens than slots gets fewer groups: absent slots are absent. With more tokens, slots take
    consecutive chunks by the rule of `numpy.array_split` (sizes differ by at most one, longer ones first). Where
    encoders tokenise differently, the one with the fewest tokens sets the number of groups, so that every slot is
    present in all encoders and no token of any is lost.

    Returns:
        One to `slots` groups.

    Raises:
        DataError: An encoder finds no token in the text.
    """
    ids = [table.ids(text) for table in tables]
    present = min(slots, *map(len, ids))
    if present == 0:
        raise DataError(f"phrase {text!r} has no tokens; write words that the tokenizer knows")
    chunks = [torch.tensor(row).tensor_split(present) for row in ids]  # [encoder][slot]
    embedded = [table.embed(text).detach().cpu().double().tensor_split(present) for table in tables]
    return [
        TokenGroup(
            ids=tuple(tuple(row[slot].tolist()) for row in chunks),
            vector=torch.cat([row[slot].mean(dim=0) for row in embedded]),
        )
        for slot in range(present)
    ]


def group_phrases(phrases: Sequence[str], tables: Sequence["TokenTable"], slots: int) -> list[list[TokenGroup]]:
    """The groups of every phrase, by `group_tokens`.

    Raises:
        ConfigError: There are no tables, two have one name, or `slots` is not 1 to 16.
        DataError: There are fewer than two phrases, one is given twice, or one has no tokens.
    """
    names = [table.name for table in tables]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"token tables are {names}: at least one is needed, each with its own name")
    if not 1 <= slots <= 16:
        raise ConfigError(f"slots is {slots}, it must be 1 to 16")
    for text, count in Counter(phrases).items():
        if count > 1:
            raise DataError(f"phrase {text!r} is given {count} times: keep one")
    if len(phrases) < 2:
        raise DataError(f"number of phrases is {len(phrases)}: give at least 2, better some hundreds")
    return [group_tokens(text, tables, slots) for text in phrases]


@dataclass(frozen=True)
class SlotFit:
    """PCA of one slot in float64.

    Attributes:
        mean: Mean of the distinct groups, in the encoders' own units.
        scale: RMS length of the centred groups in each encoder; 1 for an encoder that does not vary.
        basis: Orthonormal rows in scaled units, largest first; as many as the groups really span.
        sigma: Standard deviation of the groups along each row.
        variance: Total variance in scaled units.
        distinct: Number of distinct groups.
    """

    mean: Float[Tensor, " w"]
    scale: Float[Tensor, " e"]
    basis: Float[Tensor, "r w"]
    sigma: Float[Tensor, " r"]
    variance: float
    distinct: int


def fit_slot(slot: int, groups: Sequence[TokenGroup], widths: tuple[int, ...]) -> SlotFit:
    """PCA over the distinct groups of a slot, each encoder scaled to the same variance."""
    unique = {group.ids: group.vector for group in groups}  # a word that many phrases share counts once
    if not unique:
        raise DataError(f"no phrase has enough tokens for slot {slot} (counted from 0): build with slots={slot}")
    vectors = torch.stack(list(unique.values()))  # (d, w)
    freedom = max(len(unique) - 1, 1)
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    # RMS of the groups' length, not of single numbers: else a wide encoder outweighs a narrow one by its width.
    scale = torch.stack([(block.square().sum() / freedom).sqrt() for block in centred.split(widths, dim=1)])
    scale = torch.where(scale > 1e-12 * vectors.abs().max(), scale, 1.0)  # an encoder that does not vary at all
    scaled = centred / scale.repeat_interleave(torch.tensor(widths))
    _, singular, basis = torch.linalg.svd(scaled, full_matrices=False)
    largest = float(singular[0])
    limit = min(len(unique) - 1, int((singular > _SMALLEST_SINGULAR_VALUE * largest).sum()))
    basis, singular = basis[:limit], singular[:limit]
    # The sign of a singular vector is arbitrary; with the largest entry positive a component means the same everywhere.
    peaks = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
    return SlotFit(
        mean=mean,
        scale=scale,
        basis=basis * peaks.sign(),
        sigma=singular / math.sqrt(freedom),
        variance=float(scaled.square().sum()) / freedom if limit else 0.0,
        distinct=len(unique),
    )
