"""Which of the weights in a model's folder are read, and when two ids mean the same weights."""

from pathlib import Path
from typing import Any

import torch

from twinact.errors import CheckpointError


def denoiser_weights(folder: Path) -> tuple[Path, str | None]:
    """The first file of the denoiser's weights that is read, and its variant as diffusers calls it.

    Published folders hold several kinds side by side, and many copies of them only the half precision one: weights
    without a variant come first, then "fp16".

    Raises:
        CheckpointError: There are neither.
    """
    files = sorted(path for part in ("unet", "transformer") for path in (folder / part).glob("*.safetensors"))
    for path in files:
        if "." not in path.stem:
            return path, None
    for path in files:
        if ".fp16" in path.stem:
            return path, "fp16"
    raise CheckpointError(
        f"model {str(folder)!r} has no denoiser weights in safetensors: "
        "save it with pipeline.save_pretrained(..., safe_serialization=True)"
    )


def reading(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` for every family: safetensors of this folder, without what only images need.

    Raises:
        CheckpointError: As `denoiser_weights`.
    """
    return {
        "dtype": dtype, "variant": denoiser_weights(folder)[1], "use_safetensors": True, "local_files_only": True,
        "feature_extractor": None, "image_encoder": None,
    }  # fmt: skip


def same_model(first: str, second: str) -> bool:
    """Whether two model ids mean the same weights, which may lie in folders of different names."""
    return first.rpartition("@")[2] == second.rpartition("@")[2]
