"""Text-to-image models behind one small interface; `load` opens one by name or folder."""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinact.backbones.weights import denoiser_weights
from twinact.errors import CheckpointError, ConfigError, DataError, TwinactError

if TYPE_CHECKING:
    import torch

    from twinact.backbones.base import Backbone

# Pipeline class in model_index.json -> module and class of ours.
_FAMILIES = {
    "StableDiffusionPipeline": ("twinact.backbones.sd", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("twinact.backbones.sdxl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("twinact.backbones.sd3", "StableDiffusion3"),
    "FluxPipeline": ("twinact.backbones.flux", "Flux"),
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HASHED_BYTES = 2**20


def load(
    name_or_path: str | Path,
    device: "torch.device | str | None" = None,
    dtype: "torch.dtype | None" = None,
    *,
    resting: bool = False,
) -> "Backbone":
    """Opens a text-to-image model, frozen and in eval mode.

    Args:
        name_or_path: "nano" for the embedded model, a folder in diffusers layout, or a name on the Hugging Face hub.
        device: Where to put it; the first GPU where there is one, otherwise the CPU, if None.
        dtype: Its precision; float32 if None.
        resting: Leave autoencoder and text encoders in the machine's memory; see `Backbone.rest`.

    Raises:
        ConfigError: The model belongs to a family that is not supported.
        DataError: There is no such model, or the folder does not hold one.
        CheckpointError: Its weights are damaged or not in safetensors.
        torch.OutOfMemoryError, MemoryError, RuntimeError: It does not fit; see `twinact.backbones.memory`.
    """
    import torch

    from twinact.backbones.memory import is_out_of_memory

    folder, name = _find(str(name_or_path))
    with quiet():
        module, family = _FAMILIES[_pipeline_class(folder)]
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            backbone: Backbone = getattr(import_module(module), family).from_folder(
                folder, _id(folder, name), torch.device(device), dtype or torch.float32
            )
            if resting:
                backbone.rest()
            else:
                backbone.follow()
            return backbone
        except TwinactError:
            raise
        # Every library below reports a damaged file in its own way (OSError, ValueError, KeyError, SafetensorError).
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"model {str(folder)!r} cannot be read ({_first_line(error)}): save or copy it again"
            ) from error


def family(name_or_path: str | Path) -> str:
    """The pipeline class of a model, as its index names it; arguments and errors as `load`, without its weights."""
    return _pipeline_class(_find(str(name_or_path))[0])


def model_id(name_or_path: str | Path) -> str:
    """The id that `load` gives a model, without opening its weights; arguments and errors as `load`."""
    return _id(*_find(str(name_or_path)))


def _find(name: str) -> tuple[Path, str]:
    """The folder of a model, and the name to call it by."""
    if name == "nano":
        from twinact.nano import model_dir

        return model_dir(), name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if folder.exists() or not _HUB_NAME.fullmatch(name):
        raise DataError(
            f"model {name!r} is not a folder: give 'nano', a folder in diffusers layout (with model_index.json) "
            "or a Hugging Face name such as 'owner/name'"
        )
    return _download(name), name


def _download(name: str) -> Path:
    """The local copy of a model on the hub, fetched when it is not there yet; weights in safetensors only."""
    with quiet(bars=True):  # gigabytes may be on their way
        import diffusers
        from huggingface_hub import hf_hub_download

        try:
            index = Path(hf_hub_download(name, "model_index.json"))  # a few bytes, before gigabytes
            pipeline = getattr(diffusers, _pipeline_class(index.parent))
            # What is given is not fetched; only the family's own class knows all its parts.
            unused = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
            return Path(pipeline.download(name, use_safetensors=True, **unused))
        except TwinactError:
            raise
        # Transport errors are those of the hub's HTTP library, and hf-xet knows RuntimeErrors alone.
        except Exception as error:
            raise DataError(f"model {name!r} {_why_not_here(name, error)}") from error


def _why_not_here(name: str, error: Exception) -> str:
    """Why a model could not be downloaded, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    code, reason = getattr(error, "errno", None), _first_line(error)
    if isinstance(error, GatedRepoError):
        return (
            f"is given to those who agree to its terms: accept its licence at https://huggingface.co/{name}, "
            "then log in with 'hf auth login'"
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return "is not in diffusers layout (it has no model_index.json): choose a copy of it that is"
    if code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in reason:
        return f"does not fit into {constants.HF_HUB_CACHE!r}: free some space, or set HF_HOME to a larger disk"
    if code in (errno.EACCES, errno.EROFS):
        return f"cannot be kept in {constants.HF_HUB_CACHE!r}: set HF_HOME to a folder that can be written"
    if "necessary `safetensors` weights" in reason:  # of diffusers
        return "offers no safetensors: choose a copy of it that does"
    return (
        f"is neither a folder here nor reachable on the Hugging Face hub ({reason}): "
        "check the name and the connection, or give the folder of a downloaded model"
    )


def _first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _pipeline_class(folder: Path) -> str:
    """The family of the model in a folder, as its index names it."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise DataError(
            f"folder {str(folder)!r} has no model_index.json: give the folder that "
            "pipeline.save_pretrained(...) wrote, or convert a single-file checkpoint with diffusers first"
        )
    try:
        config = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{str(index)!r} is not JSON ({error}): copy the model again") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(found, str) or found not in _FAMILIES:  # with code of its own, a folder gives a list
        raise ConfigError(
            f"model {str(folder)!r} is of class {found}, which is not supported: use one of {', '.join(_FAMILIES)}"
        )
    return found


def _id(folder: Path, name: str) -> str:
    """The name, and 8 digits that tell models apart without reading gigabytes: denoiser's first MiB and its size."""
    weights, _ = denoiser_weights(folder)
    with weights.open("rb") as file:
        first = file.read(_HASHED_BYTES)
    return f"{name}@{hashlib.sha256(first + str(weights.stat().st_size).encode()).hexdigest()[:8]}"


def settings(name_or_path: str | Path, part: str) -> dict[str, Any]:
    """What the JSON file of a model's part says ("unet", "scheduler"), {} if it has none; arguments as `family`."""
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = _find(str(name_or_path))[0] / part / file
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def parameters(name_or_path: str | Path) -> int:
    """Numbers in all networks of a model, as the heads of its files tell; arguments and errors as `load`."""
    from safetensors import SafetensorError, safe_open

    folder = _find(str(name_or_path))[0]
    total = 0
    for part in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        sizes: dict[str, int] = {}  # a folder may hold the same network in several precisions
        for path in (folder / part).glob("*.safetensors"):
            variant = re.sub(r"-\d+-of-\d+", "", path.name)
            try:
                with safe_open(path, "np") as file:
                    numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{str(path)!r} cannot be read ({error}): save or copy it again") from error
            sizes[variant] = sizes.get(variant, 0) + numbers
        total += max(sizes.values(), default=0)
    return total


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Keeps the libraries' remarks and, unless told, bars off the terminal, and leaves their settings as they were."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = []
    for logging in (diffusers_logging, transformers_logging):
        before.append((logging, logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.set_verbosity_error()
        if not bars:
            logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, verbosity, bar in before:
            logging.set_verbosity(verbosity)
            if bar and not bars:
                logging.enable_progress_bar()
