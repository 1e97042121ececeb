"""Measures which token vectors of an action decide what the text encoders say.

In an encoder that reads in one direction, as those of CLIP and of language models do, a later slot has read the earlier
ones, and may carry most of an action. So it is measured for every model, not assumed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.space.action_space import ActionSpace

_LEAST = 4  # phrases; fewer say little of others
_PROMPT = f"a person {PLACEHOLDER}"


@torch.no_grad()
def slot_shares(backbone: Backbone, space: ActionSpace, count: int = 32) -> Float[Tensor, " s"] | None:
    """How much of a phrase's meaning hangs on each slot: what changes in the text when it is the mean of all phrases.

    Args:
        backbone: The model.
        space: Its space.
        count: How many phrases are looked at, spread over those that have all slots.

    Returns:
        Shares of the squared changes, which add up to 1, in the mean over the phrases; None where too few phrases have
        all slots.
    """
    whole = space.phrase_mask.all(dim=1).nonzero().flatten()
    if len(whole) < _LEAST:
        return None
    space = space.to(backbone.device)
    shares = []
    for number in whole[:: max(1, len(whole) // count)][:count].tolist():
        u, mask = space.phrase_coefficients[number], space.phrase_mask[number]
        variants = [
            u,
            *(u * (torch.arange(space.slots, device=u.device) != slot)[:, None] for slot in range(space.slots)),
        ]
        vectors = {f"<slot {k}>": space.vectors(one[None], mask[None]) for k, one in enumerate(variants)}
        prompts = [_PROMPT.replace(PLACEHOLDER, name) for name in vectors]
        hidden = backbone.encode_text(prompts, vectors).hidden.float()
        changes = (hidden[1:] - hidden[0]).square().sum(dim=(1, 2)).cpu()
        shares.append(changes / changes.sum().clamp_min(1e-12))
    return torch.stack(shares).mean(dim=0)
