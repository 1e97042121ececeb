"""Action encoders: what an image's action is, told apart from who does it and where."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from twinact.readers.latent import LatentActionEncoder

FOLDER = "action_encoder"


@runtime_checkable
class ActionEncoder(Protocol):
    """Reads the action off clean latents."""

    def encode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features of unit norm, differentiable in `latents`, blind to actor and place."""
        ...


def load_action_encoder(backbone_folder: str | Path) -> LatentActionEncoder | None:
    """The encoder stored beside a backbone in ``action_encoder/``, frozen, on the CPU; None when there is none.

    Raises:
        CheckpointError: There is one, and it is damaged.
    """
    folder = Path(backbone_folder) / FOLDER
    return LatentActionEncoder.load(folder).requires_grad_(False).eval() if folder.is_dir() else None


__all__ = ["ActionEncoder", "LatentActionEncoder", "load_action_encoder"]
