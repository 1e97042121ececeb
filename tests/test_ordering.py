"""Which components of a space lead, and how much of other words they let in."""

import pytest
import torch

from twinact.backbones.backbone import Backbone
from twinact.errors import ConfigError, DataError
from twinact.phrases import load_other_words, load_phrases
from twinact.space import ActionSpace
from twinact.space.ordering import energy_let_in, reordered, single_tokens

OTHERS = ["robot", "moon", "park", "dog"]  # that some phrases hold, as places are near some actions


@pytest.mark.parametrize("ordering", ["outside", "contrast"])
def test_other_components_lead_and_let_in_less_of_words_that_are_no_actions(
    backbone: Backbone, space: ActionSpace, ordering: str
) -> None:
    tables = backbone.token_tables()
    other = reordered(space, tables, OTHERS, ordering)
    for slot, rank in enumerate(space.slot_ranks):
        assert torch.allclose(other.basis[slot, :rank] @ other.basis[slot, :rank].T, torch.eye(rank), atol=1e-5)
    points = (one.reconstruct(one.phrase_coefficients) for one in (space, other))
    for before, after in zip(*points, strict=True):
        assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))
    (kept, let_in), (kept_after, let_in_after) = (energy_let_in(one, tables, OTHERS) for one in (space, other))
    assert bool((kept_after.diff(dim=1) >= 0).all()) and bool((let_in_after.diff(dim=1) >= 0).all())
    assert torch.allclose(kept[:, -1], kept_after[:, -1], atol=1e-5)
    assert let_in_after[0, 0] < 0.5 * let_in[0, 0] and kept_after[0, 0] < kept[0, 0]


def test_words_that_are_spelled_in_pieces_have_no_vector_of_their_own(backbone: Backbone, space: ActionSpace) -> None:
    tables = backbone.token_tables()
    assert single_tokens(tables, ["robot", "xylophone"]) == ["robot"]
    with pytest.raises(DataError, match="no words"):
        energy_let_in(space, tables, [])
    with pytest.raises(ConfigError, match="did you mean 'outside'"):
        reordered(space, tables, OTHERS, "outsid")


def test_other_words_are_no_action_phrases() -> None:
    words = [word.text for word in load_other_words()]
    assert len(words) > 200 and not set(words) & {phrase.text for phrase in load_phrases()}
