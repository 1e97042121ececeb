"""What an action is in its file: tensors by name, and the types of what the header says."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from twinact.backbones.token_lora import TokenLora
from twinact.errors import ConfigError

FORMAT_VERSION = 2
_VECTORS, _LORA, _TOKEN_LORA = "vectors.", "lora.", "token_lora."
_NAMES = (None, list[str])
_POSE = {"directions": list[list[float]], "weights": list[float], "disagreeing": _NAMES, "unseen": _NAMES}
_META = {
    "history": (None, list[dict[str, Any]]),
    "captions": _NAMES,
    "exemplars": _NAMES,
    "imported": str | None,
    "config": dict | None,
    "precision": str | None,
    "versions": (None, dict[str, str]),
    "plain": (None, list[int]),
    "pose": (None, _POSE),
}
HEADER = {"name": str, "model_id": str, "space_hash": str, "meta": _META}
"""Types of what the header says."""


def tensors_of(
    vectors: Sequence[Tensor], coefficients: Tensor | None, mask: Tensor | None, lora: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of an action's file; arguments as the attributes of `twinact.Action`."""
    tensors = {f"{_VECTORS}{index}": one for index, one in enumerate(vectors)}
    prefix = _TOKEN_LORA if isinstance(lora, TokenLora) else _LORA
    tensors |= {prefix + name: weight for name, weight in lora.items()}
    point = {"coefficients": coefficients, "mask": mask}
    return tensors | {name: tensor for name, tensor in point.items() if tensor is not None}


def parts_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Inverse of `tensors_of`: attributes of an action by name; ValueError or KeyError when they are none."""
    encoders = sum(name.startswith(_VECTORS) for name in tensors)
    lora, own = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in (_LORA, _TOKEN_LORA)
    )
    if lora and own:
        raise ValueError("it holds two LoRAs")
    return {
        "vectors": tuple(tensors[f"{_VECTORS}{index}"] for index in range(encoders)),
        "coefficients": _clauses(tensors.get("coefficients"), 3),
        "mask": _clauses(tensors.get("mask"), 2),
        "lora": TokenLora(own) if own else lora,
    }


def _clauses(tensor: Tensor | None, dimensions: int) -> Tensor | None:
    """A tensor of a file; earlier versions wrote one clause without the dimension that counts clauses."""
    return tensor.unsqueeze(0) if tensor is not None and tensor.ndim == dimensions - 1 else tensor


def check_vectors(name: str, vectors: Sequence[Tensor], *, free: bool, bare: bool) -> None:
    """Makes sure that token vectors are those of one action.

    Args:
        name: Of the action.
        vectors: One tensor per text encoder.
        free: Whether it lies in no space, so that encoders may differ, and layers and times may have their own.
        bare: Whether it is a LoRA alone.

    Raises:
        ConfigError: They are not.
    """
    rows = {one.shape[-2] for one in vectors if one.ndim >= 2}
    leading = {one.shape[:-2] for one in vectors}
    allowed = {2, 3, 4} if free else {2}
    if (
        (len(rows) > 1 and not free)
        or (not rows and not (bare and free))
        or len(leading) > 1
        or any(one.ndim not in allowed or 0 in one.shape for one in vectors)
    ):
        shapes = [tuple(one.shape) for one in vectors]
        raise ConfigError(f"vectors of action {name!r} have shapes {shapes}: need equal (slots, width) each")
