"""Which token vectors decide what the text encoders say."""

from dataclasses import replace

import pytest
import torch

from families import CORE, backbone_of
from small import small_space
from twinact.space.slot_shares import slot_shares


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE)
def test_what_hangs_on_one_slot_is_found_there(name: str) -> None:
    backbone = backbone_of(name)
    space = small_space(backbone)
    whole = torch.ones(4, space.slots, dtype=torch.bool)
    u = torch.zeros(4, space.slots, space.rank)
    u[:, 1] = space.phrase_coefficients[:4, 0] + 1
    alone = replace(space, phrases=space.phrases[:4], phrase_coefficients=u, phrase_mask=whole)
    found = slot_shares(backbone, alone)
    assert found is not None
    torch.testing.assert_close(found, torch.eye(space.slots)[1])
    u[:, 0] = u[:, 1]
    both = slot_shares(backbone, replace(alone, phrase_coefficients=u))
    assert both is not None and 0 < both[0] < 1 and float(both.sum()) == pytest.approx(1)


def test_too_few_phrases_with_all_slots_say_nothing() -> None:
    backbone = backbone_of("sd")
    space = small_space(backbone)
    none = torch.zeros_like(space.phrase_mask)
    none[:, 0] = True
    assert slot_shares(backbone, replace(space, phrase_mask=none)) is None
