"""Models in one file, as Civitai and the folders of ComfyUI hold them: each is made a folder in diffusers layout, once.

Such a file has weights alone. Configs and tokenizers, and where it holds no more than the denoiser the other networks,
come from a folder of the same family: the one beside the file that is called as it, without the ending, or one in the
cache of the Hugging Face hub. The network is never asked. Converting is done by diffusers' own loaders.
"""

import hashlib
import math
import os
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from twinact.backbones.kinds_of_files import WHOLE, Holds, family_of, repositories
from twinact.backbones.weights import file_hash, read_config
from twinact.backbones.whole import cause
from twinact.console import say
from twinact.errors import CheckpointError, ConfigError, DataError, TwinactError

_INDEX = "model_index.json"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def folder_of(file: Path) -> Path:
    """The folder that a single-file checkpoint makes; it lies in the user's cache folder and is made when it is not.

    Args:
        file: Safetensors of Stable Diffusion 1 or 2 or SDXL, or of the transformer of FLUX.1, FLUX.2 klein, Z-Image or
            Chroma.

    Raises:
        DataError: It is no model, or what it lacks is not here, or the cache folder cannot be written.
        ConfigError: Its family is not supported.
        CheckpointError: It is damaged, or does not fit what is taken from elsewhere.
    """
    holds = _read(file)
    family = family_of(file, holds)
    source = _source(file, family, holds)
    digest = hashlib.sha256(f"{file_hash(file)} {source.resolve()}".encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "twinact", "models")
    made = base / f"{file.stem}-{digest}"
    if _complete(made):
        return made
    say(f"making a folder of '{file}' in '{made}', once; configs are those of '{source}'")
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=base) as place:
            new = Path(place, "model")
            _convert(file, family, source, holds.dtype, new)
            if made.is_dir():  # incomplete: what it linked to is gone
                shutil.rmtree(made)
            new.rename(made)
    except TwinactError:
        raise
    except OSError as error:
        if _complete(made):  # another process was quicker
            return made
        raise DataError(
            f"model '{file}' cannot be made a folder in '{base}' ({error.strerror or error}): free some space, or set "
            "XDG_CACHE_HOME to a folder on a larger disk"
        ) from error
    return made


def _read(file: Path) -> Holds:
    """The shapes of a file's tensors by name, and the precision of most of its numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    numbers: Counter[str] = Counter()
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                shapes[name] = tuple(part.get_shape())
                numbers[part.get_dtype()] += math.prod(shapes[name])
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"model '{file}' cannot be read ({error}): download or copy it again") from error
    most = numbers.most_common(1)[0][0] if numbers else ""
    return Holds(shapes, _DTYPES.get(most, torch.bfloat16))


def _source(file: Path, family: str, holds: Holds) -> Path:
    """The folder that gives what the file lacks."""
    from huggingface_hub import constants, try_to_load_from_cache

    beside = file.with_suffix("")
    if beside.is_dir():
        index = beside / _INDEX
        found = read_config(index).get("_class_name") if index.is_file() else None
        if found != family:
            raise ConfigError(
                f"folder '{beside}' beside model '{file}' is of class {found} and the file is a {family}: put a folder "
                "of that class there, or give it another name"
            )
        return beside
    names = repositories(file, family, holds)
    for name in names:
        cached = try_to_load_from_cache(name, _INDEX, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(cached, str):
            return Path(cached).parent
    small = " --include '*.json' '*.txt'" if family in WHOLE else ""
    lacks = "configs and tokenizers" if family in WHOLE else "its text encoder, autoencoder and configs"
    raise DataError(
        f"model '{file}' is a {family} in one file, without {lacks}: get them once with hf download {names[0]}{small}, "
        f"or put a folder of such a model beside the file, called '{beside.name}'"
    )


def _convert(file: Path, family: str, source: Path, dtype: torch.dtype, new: Path) -> None:
    """Writes the folder of a model, in the precision of its file."""
    import diffusers

    options: dict[str, Any] = {"config": str(source), "local_files_only": True, "torch_dtype": dtype}
    stock = getattr(diffusers, family)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converters' own making
            if family in WHOLE:
                unused = {"safety_checker": None, "requires_safety_checker": False}
                more = unused if family == "StableDiffusionPipeline" else {"add_watermarker": False}
                pipeline = stock.from_single_file(str(file), **options, **more)
                pipeline.save_pretrained(new)
                _as_they_were(source, new)
                return
            kind = getattr(diffusers, read_config(source / _INDEX)["transformer"][1])
            denoiser = kind.from_single_file(_denoiser_weights(file), subfolder="transformer", **options)
    except (TwinactError, OSError):
        raise
    # Every converter reports what it cannot use in its own way (KeyError, ValueError, RuntimeError, and more).
    except Exception as error:
        # Networks are made without memory, and what the file has not filled cannot be put into its precision.
        why = "tensors are missing" if "meta tensor" in str(error) else cause(error)
        raise CheckpointError(
            f"model '{file}' does not fit '{source}', whose class it has ({why}): put the folder of its own "
            f"kind beside it, called '{file.stem}', or download it again"
        ) from error
    denoiser.save_pretrained(new / "transformer")
    for part in _parts(source):
        if part != "transformer":
            _link(source / part, new / part)
    shutil.copyfile(source / _INDEX, new / _INDEX)


def _denoiser_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a denoiser by their own names; files that hold other networks too put a word before them."""
    from safetensors.torch import load_file

    weights = load_file(file)
    word = "model.diffusion_model."
    own = {name.removeprefix(word): tensor for name, tensor in weights.items() if name.startswith(word)}
    return own or weights


def _parts(folder: Path) -> list[str]:
    """Folders of a model that its index names; those of parts that are left out are not there."""
    index = read_config(folder / _INDEX)
    return [name for name, entry in index.items() if isinstance(entry, list) and any(entry)]


def _complete(folder: Path) -> bool:
    """Whether a folder holds all that its index names."""
    index = folder / _INDEX
    if not index.is_file():
        return False
    return all((folder / part).is_dir() for part in _parts(folder))


def _as_they_were(source: Path, new: Path) -> None:
    """Put tokenizers and settings of text encoders in the place of what libraries have written of them.

    They are what a model's words are known by, and libraries write other files, or more settings, than they have read.
    """
    for part in _parts(new):
        if part.startswith("tokenizer"):
            shutil.rmtree(new / part)
            shutil.copytree(source / part, new / part)
        elif part.startswith("text_encoder"):
            shutil.copyfile(source / part / "config.json", new / part / "config.json")


def _link(source: Path, new: Path) -> None:
    """The same folder at another place, without its gigabytes where the system has links."""
    try:
        new.symlink_to(source.resolve(), target_is_directory=True)
    except OSError:
        shutil.copytree(source, new)
