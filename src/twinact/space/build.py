"""Builds the action space of the shipped phrases, or of others, for a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from twinact.errors import CheckpointError
from twinact.phrases import load_phrases
from twinact.space.action_space import ActionSpace
from twinact.storage import SPACE_SUFFIX

if TYPE_CHECKING:
    from twinact.backbones.backbone import Backbone
    from twinact.backbones.words import Words

SPACE_FILE = f"phrases{SPACE_SUFFIX}"


def build_space(
    backbone: "Backbone | Words", rank: int | None = None, *, slots: int = 3, phrases: Sequence[str] | None = None
) -> ActionSpace:
    """Build an action space; equal arguments give the same bits on one machine.

    Args:
        backbone: Whose token embeddings span it; its words are enough.
        rank: Components to keep in every slot; None keeps all.
        slots: Token vectors per action.
        phrases: What spans it; None takes the shipped list.

    Raises:
        ConfigError, DataError: As `ActionSpace.build`.
    """
    texts = [phrase.text for phrase in load_phrases()] if phrases is None else phrases
    threads = torch.get_num_threads()
    # Sums over several threads differ in the last bits with their number, and with them the hash of the space.
    torch.set_num_threads(1)
    try:
        return ActionSpace.build(
            backbone.token_tables(),
            texts,
            slots=slots,
            rank=rank,
            model_id=backbone.model_id,
            tokenizer_hash=backbone.tokenizer_hash,
        )
    finally:
        torch.set_num_threads(threads)


def space_beside(path: Path, space_hash: str) -> Path | None:
    """The file of a space, beside another file, by its hash; damaged ones are passed over.

    Args:
        path: File in whose folder it is looked for.
        space_hash: As `ActionSpace.hash`; "" for none.
    """
    for candidate in sorted(path.parent.glob(f"*{SPACE_SUFFIX}")) if space_hash else ():
        try:
            if ActionSpace.load(candidate).hash == space_hash:
                return candidate
        except CheckpointError:  # it may be of another action
            continue
    return None
