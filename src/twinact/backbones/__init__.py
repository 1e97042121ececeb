"""Opens text-to-image models by name or folder; all of them have the same small interface."""

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinact.backbones.facts import ModelFacts
from twinact.backbones.shipped import model_dir
from twinact.backbones.weights import identity, read_config
from twinact.errors import CheckpointError, ConfigError, DataError, TwinactError, first_line
from twinact.storage import check_regular

if TYPE_CHECKING:
    import torch

    from twinact.backbones.backbone import Backbone
    from twinact.backbones.words import Words

# Pipeline class in model_index.json -> module and class of ours.
_FAMILIES = {
    "StableDiffusionPipeline": ("twinact.backbones.sd", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("twinact.backbones.sdxl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("twinact.backbones.sd3", "StableDiffusion3"),
    "FluxPipeline": ("twinact.backbones.flux", "Flux"),
    "Flux2KleinPipeline": ("twinact.backbones.flux2", "Flux2Klein"),
    "ZImagePipeline": ("twinact.backbones.z_image", "ZImage"),
    "ChromaPipeline": ("twinact.backbones.chroma", "Chroma"),
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load(
    name_or_path: str | Path,
    device: "torch.device | str | None" = None,
    dtype: "torch.dtype | None" = None,
    *,
    quantised: str | None = None,
    offload: bool = False,
) -> "Backbone":
    """Opens a text-to-image model, frozen and in eval mode.

    Args:
        name_or_path: "nano" for the embedded model, a folder in diffusers layout, a file that holds a whole model (see
            `twinact.backbones.single_file`), or a name on the Hugging Face hub.
        device: Where to put it; the first GPU where there is one, otherwise the CPU, if None.
        dtype: Its precision; float32 if None.
        quantised: "int8" or "nf4" rounds the weights of linear layers; see `twinact.backbones.quantised`.
        offload: Leave autoencoder and text encoders in the machine's memory; see `Backbone.offload`.

    Raises:
        ConfigError: The model belongs to a family that is not supported.
        DataError: There is no such model, or the folder does not hold one.
        CheckpointError: Its weights are damaged or not in safetensors.
        torch.OutOfMemoryError, MemoryError, RuntimeError: It does not fit; see `twinact.backbones.memory`.
    """
    import torch

    from twinact.backbones.memory import is_out_of_memory
    from twinact.backbones.whole import check_not_rounded

    folder, name = _find(str(name_or_path))
    with quiet():
        module, family = _FAMILIES[_pipeline_class(folder)]
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            check_not_rounded(folder)
            backbone: Backbone = getattr(import_module(module), family).from_folder(
                folder, _id(folder, name), torch.device(device), dtype or torch.float32, quantised
            )
            facts = ModelFacts.read(folder)
            backbone.folder, backbone.intent_steps, backbone.ground = folder, facts.intent_steps, facts.ground
            backbone.square = bool(facts.square)
            backbone.guidance = backbone.guidance if facts.guidance is None else facts.guidance
            backbone.steps = facts.steps or backbone.steps
            if offload:
                backbone.offload()
            else:
                backbone.onload()
            return backbone
        except TwinactError:
            raise
        # Every library below reports a damaged file in its own way (OSError, ValueError, KeyError, SafetensorError).
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _unreadable(folder, error) from error


def load_words(name_or_path: str | Path) -> "Words":
    """The words of a model, without its networks; arguments and errors as `load`."""
    folder, name = _find(str(name_or_path))
    _pipeline_class(folder)
    with quiet():
        from twinact.backbones.words import Words

        try:
            return Words.from_folder(folder, _id(folder, name))
        except TwinactError:
            raise
        except Exception as error:  # each library reports a damaged file in its own way
            raise _unreadable(folder, error) from error


def measured_steps(name_or_path: str | Path) -> int | None:
    """After how many steps a model shows the pose that it means, if that has been measured; without its weights.

    Arguments and errors as `load`.
    """
    return ModelFacts.read(_find(str(name_or_path))[0]).intent_steps


def family(name_or_path: str | Path) -> str:
    """The pipeline class of a model, as its index names it; arguments and errors as `load`, without its weights."""
    return _pipeline_class(_find(str(name_or_path))[0])


def model_id(name_or_path: str | Path) -> str:
    """The id that `load` gives a model, without opening its weights; arguments and errors as `load`."""
    return _id(*_find(str(name_or_path)))


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    from twinact.backbones.whole import cause

    return CheckpointError(f"model {str(folder)!r} cannot be read ({cause(error)}): save or copy it again")


def as_folder(name: str) -> Path:
    """The path that a model's name is if it is one, ~ expanded; nothing is looked at."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # of nobody: ~nobody/sd
        return Path(name)


def _find(name: str) -> tuple[Path, str]:
    """The folder of a model, and the name to call it by."""
    if name == "nano":
        return model_dir(), name
    folder = as_folder(name)
    if folder.is_dir():
        return folder, folder.resolve().name
    if folder.is_file() and folder.suffix == ".safetensors":
        with quiet():
            from twinact.backbones.single_file import folder_of

            return folder_of(folder), folder.stem
    if folder.is_file() and folder.suffix in (".ckpt", ".pt", ".bin", ".gguf"):
        raise DataError(
            f"model {name!r} is not in safetensors: such files may run code or hold rounded weights; look for the same "
            "model as .safetensors"
        )
    if folder.exists() or not _HUB_NAME.fullmatch(name):
        raise DataError(
            f"model {name!r} is not a folder: give 'nano', a folder in diffusers layout (with model_index.json), "
            "a .safetensors file of a whole model, or a Hugging Face name such as 'owner/name'"
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

    code, reason = getattr(error, "errno", None), first_line(error)
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


def _pipeline_class(folder: Path) -> str:
    """The family of the model in a folder, as its index names it."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise DataError(
            f"folder {str(folder)!r} has no model_index.json: give the folder that "
            "pipeline.save_pretrained(...) wrote, or a .safetensors file of a whole model"
        )
    found = read_config(index).get("_class_name")
    if not isinstance(found, str) or found not in _FAMILIES:  # with code of its own, a folder gives a list
        raise ConfigError(
            f"model {str(folder)!r} is of class {found}, which is not supported: use one of {', '.join(_FAMILIES)}"
        )
    return found


def _id(folder: Path, name: str) -> str:
    return f"{name}@{identity(folder)}"


def settings(name_or_path: str | Path, part: str) -> dict[str, Any]:
    """What the JSON file of a model's part says ("unet", "scheduler"; "" is the index), {} if there is none.

    Arguments and errors as `family`.
    """
    file = {"scheduler": "scheduler_config.json", "": "model_index.json"}.get(part, "config.json")
    path = _find(str(name_or_path))[0] / part / file
    return read_config(path) if path.is_file() else {}


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
                check_regular(path)
                with safe_open(path, "np") as file:
                    numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
            except (OSError, SafetensorError, DataError) as error:
                raise CheckpointError(f"{str(path)!r} cannot be read ({error}): save or copy it again") from error
            sizes[variant] = sizes.get(variant, 0) + numbers
        total += max(sizes.values(), default=0)
    return total


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Keeps messages of the libraries off the terminal, and their bars unless asked for; restores their settings."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = []
    for logging in (diffusers_logging, transformers_logging):
        before.append((logging, logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.set_verbosity(CRITICAL)  # their errors are raised as well
        if not bars:
            logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, verbosity, bar in before:
            logging.set_verbosity(verbosity)
            if bar and not bars:
                logging.enable_progress_bar()
