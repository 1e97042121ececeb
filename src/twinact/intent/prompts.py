"""Prompts in which others than the exemplars' actors do an action: what holds for them is the action alone."""

from collections.abc import Sequence

import torch

from twinact import PLACEHOLDER

# Words that every model knows, the embedded one among them.
ACTORS = (
    "a woman in a red dress", "a ballerina", "an astronaut", "a chef", "a firefighter", "a ninja", "a pirate",
    "a panda", "a fox", "a frog", "a rabbit", "a tiger", "a penguin", "a robot", "an alien", "a skeleton",
)  # fmt: skip
PLACES = (
    "in a park", "on a beach", "on a snowy mountain", "in a desert", "on a stage", "on the moon", "under water",
    "in front of a castle",
)  # fmt: skip


def other_prompts(
    generator: torch.Generator, count: int, told: Sequence[str] = (), who: str | None = None
) -> list[str]:
    """Prompts with the placeholder, each with some actor in some place.

    Args:
        generator: On the CPU; chooses.
        count: How many.
        told: Captions of the exemplars; actors that they name are left out, as long as others remain.
        who: Words for one actor, who is in all prompts instead.
    """
    named = [actor for actor in ACTORS if not any(actor.partition(" ")[2] in text for text in told)]
    others = (named or ACTORS) if who is None else (who,)
    who = torch.randint(len(others), (count,), generator=generator).tolist()
    where = torch.randint(len(PLACES), (count,), generator=generator).tolist()
    return [f"{others[i]} {PLACEHOLDER} {PLACES[j]}" for i, j in zip(who, where, strict=True)]
