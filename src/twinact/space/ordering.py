"""Which components of an action space come first, and how much of words that are no actions the first ones let in.

Learning in the leading components of a space keeps out whatever they do not span. Components by variance, as in a PCA,
span the phrases soonest; but the embeddings of places and things lie in the same directions in part.

Letters in shapes: s slots, r components, w the sum of the encoders' widths, m words.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.configs import ORDERINGS
from twinact.configs.settings import check_choice
from twinact.errors import DataError
from twinact.phrases import load_other_words
from twinact.space.action_space import ActionSpace
from twinact.space.groups import group_tokens

if TYPE_CHECKING:
    from twinact.backbones.backbone import TokenTable

# How much of the other words' energy the directions hold that "outside" puts last.
_HELD = 0.9
# What is added to the other words' energy in every direction, so that a ratio is finite; a share of their mean energy.
_FLOOR = 0.1


def single_tokens(tables: Sequence["TokenTable"], words: Sequence[str]) -> list[str]:
    """The words that every encoder knows as one token; one that is spelled in pieces has no vector of its own."""
    return [word for word in words if all(len(table.ids(word)) == 1 for table in tables)]


def shipped_words(tables: Sequence["TokenTable"]) -> list[str]:
    """The `single_tokens` of the shipped words that are no actions."""
    return single_tokens(tables, [word.text for word in load_other_words()])


def energy_let_in(
    space: ActionSpace, tables: Sequence["TokenTable"], words: Sequence[str]
) -> tuple[Float[Tensor, "s r"], Float[Tensor, "s r"]]:
    """How much the first 1, 2, ... components of every slot hold: of the phrases, and of other words.

    Args:
        space: With components in any order.
        tables: Token tables of its backbone.
        words: That are no actions; each one token of every encoder.

    Returns:
        Shares of the phrases' variance, and of the mean squared length of the words' deviations from the slot's mean,
        in [0, 1], growing. Words far outside of the space count in full, so the second may stay well below 1.

    Raises:
        DataError: There are no words.
    """
    deviations = _deviations(space, tables, words)  # (s, m, w)
    along = torch.einsum("smw,srw->smr", deviations, space.basis.double())
    others = along.square().mean(dim=1).cumsum(dim=1) / deviations.square().sum(dim=2).mean(dim=1, keepdim=True)
    kept = space.sigma.double().square().cumsum(dim=1) / space.variance.double().unsqueeze(1)
    return kept.clamp(max=1).float(), others.clamp(max=1).float()


def reordered(space: ActionSpace, tables: Sequence["TokenTable"], words: Sequence[str], ordering: str) -> ActionSpace:
    """The same space with other axes: the same points, and a phrase keeps its vectors, but other components lead.

    Args:
        space: With all components of every slot.
        tables: Token tables of its backbone.
        words: That are no actions; each one token of every encoder.
        ordering: One of `ORDERINGS`.

    Raises:
        ConfigError: There is no such ordering.
        DataError: There are no words.
    """
    check_choice("ordering", ordering, ORDERINGS)
    if ordering == "variance":
        return space
    deviations = _deviations(space, tables, words)
    basis, sigma = space.basis.double().clone(), space.sigma.double().clone()
    coefficients = space.phrase_coefficients.double().clone()
    for slot, rank in enumerate(space.slot_ranks):
        own = basis[slot, :rank]
        phrases = sigma[slot, :rank].square().diag()  # covariances in the coordinates of the basis
        along = deviations[slot] @ own.T
        others = along.T @ along / len(along)
        turn = _outside(phrases, others) if ordering == "outside" else _contrast(phrases, others)  # columns lead
        spread = (turn * (phrases @ turn)).sum(dim=0).clamp(min=1e-12).sqrt()
        coefficients[:, slot, :rank] = (coefficients[:, slot, :rank] * sigma[slot, :rank]) @ turn / spread
        basis[slot, :rank], sigma[slot, :rank] = turn.T @ own, spread
    return replace(space, basis=basis.float(), sigma=sigma.float(), phrase_coefficients=coefficients.float())


def _deviations(space: ActionSpace, tables: Sequence["TokenTable"], words: Sequence[str]) -> Float[Tensor, "s m w"]:
    if not words:
        raise DataError("there are no words that the text encoders know as one token; give other words")
    vectors = torch.stack([group_tokens(word, tables, 1)[0].vector for word in words])  # (m, w)
    scale = space.scale.double().repeat_interleave(torch.tensor(space.widths), dim=1)
    return (vectors - space.mean.double().unsqueeze(1)) / scale.unsqueeze(1)


def _outside(phrases: Float[Tensor, "r r"], others: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    energy, axes = torch.linalg.eigh(others)  # rising
    held = energy.flip(0).cumsum(0) / energy.sum()
    count = min(int((held < _HELD).sum()) + 1, len(axes) - 1)
    return torch.cat([_by_variance(phrases, axes[:, :-count]), _by_variance(phrases, axes[:, -count:])], dim=1)


def _by_variance(phrases: Float[Tensor, "r r"], axes: Float[Tensor, "r k"]) -> Float[Tensor, "r k"]:
    """Axes of the same span, of falling variance of the phrases."""
    return axes @ torch.linalg.eigh(axes.T @ phrases @ axes)[1].flip(1)


def _contrast(phrases: Float[Tensor, "r r"], others: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    """The first k columns span the k directions in which phrases differ most for what other words differ there."""
    floor = _FLOOR * others.diagonal().mean() * torch.eye(len(others), dtype=others.dtype)
    lower = torch.linalg.cholesky(others + floor)
    inverse = torch.linalg.inv(lower)
    axes = inverse.T @ torch.linalg.eigh(inverse @ phrases @ inverse.T)[1].flip(1)
    return torch.linalg.qr(axes)[0]
