"""Which files of a model's folder are read, what they are known by, and when two ids mean the same model."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from twinact.errors import CheckpointError, DataError
from twinact.storage import atomic_write_bytes, check_regular, read_file

# What decides a picture, in the order of the digits of an id -> how its folders begin.
PARTS = {
    "denoiser": ("unet", "transformer"),
    "autoencoder": ("vae",),
    "text encoders": ("text_encoder",),
    "tokenizers": ("tokenizer",),
    "scheduler": ("scheduler",),
}
_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "chat_template.jinja", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
# Of the index, and of no consequence here.
_UNREAD = ("requires_safety_checker",)
# Notes of the libraries in their configs, which change with every copy.
_NOTES = ("_", "transformers_version", "torch_dtype", "dtype", "architectures", "name_or_path", "auto_map")
_SMALL_BYTES, _CACHE_BYTES = 2**20, 10**8


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


def identity(folder: Path) -> str:
    """What the model in a folder is known by: 8 hex digits for each of `PARTS`, joined by "-".

    Two folders have the same one when the same weights, configs and vocabularies are read from them. Weights are
    hashed whole; the hash of a large file is kept in the user's cache folder until the file changes.

    Raises:
        CheckpointError: The folder has no weights of a denoiser, or a part of it cannot be read.
    """
    variant, index = denoiser_weights(folder)[1], read_config(folder / "model_index.json")
    settings = {key: value for key, value in index.items() if not isinstance(value, list) and key not in _UNREAD}
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}  # such as "is_distilled"
    known = _Hashes()
    digits = []
    try:
        for kind, names in PARTS.items():
            digest = hashlib.sha256()
            if kind == "denoiser" and settings:
                digest.update(f"model_index.json {json.dumps(settings, sort_keys=True)}\n".encode())
            parts = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.startswith(names))
            for part in (path for path in parts if any(index.get(path.name) or ())):  # others lie there unread
                for file in (*sorted(_weights(part, variant)), *(part / name for name in _VOCABULARIES)):
                    if file.exists():
                        digest.update(f"{part.name}/{file.suffix} {known.of(file)}\n".encode())
                for file in sorted(part.glob("*config.json")):
                    digest.update(f"{part.name}/{file.name} {_settings(file)}\n".encode())
                if kind == "scheduler":
                    digest.update(_other_class(part, index[part.name]).encode())
            digits.append(digest.hexdigest()[:8])
    except (OSError, DataError) as error:
        raise CheckpointError(f"model {str(folder)!r} cannot be read ({error}): copy it again") from error
    known.keep()
    return "-".join(digits)


def file_hash(file: Path) -> str:
    """The SHA-256 of a file, in hex; that of a large one is kept in the user's cache folder until the file changes.

    Raises:
        CheckpointError: It cannot be read.
    """
    known = _Hashes()
    try:
        found = known.of(file)
    except (OSError, DataError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read ({error}): copy it again") from error
    known.keep()
    return found


def digits_of(model_id: str) -> dict[str, str]:
    """The digits of each part in a model id, by the part's name; fewer in ids that were not made by `identity`."""
    return dict(zip(PARTS, model_id.rpartition("@")[2].split("-"), strict=False))


def same_model(first: str, second: str) -> bool:
    """Whether two model ids mean the same model, which may lie in folders of different names."""
    return digits_of(first) == digits_of(second)


def same_words(first: str, second: str) -> bool:
    """Whether the models of two ids have the same text encoders and tokenizers: token vectors mean the same to both."""
    one, other = digits_of(first), digits_of(second)
    return all(part in one and one[part] == other.get(part) for part in ("text encoders", "tokenizers"))


def difference(first: str, second: str) -> str:
    """In which parts the models of two ids differ, in words for a message."""
    one, other = digits_of(first), digits_of(second)
    if len(one) != len(other):
        return "the id of one is of another version of twinact"
    return f"they differ in: {', '.join(part for part in one if one[part] != other[part])}"


def files_of(folder: Path, part: str) -> list[Path]:
    """The files of weights of a model's part that are read; errors as `denoiser_weights`."""
    return sorted(_weights(folder / part, denoiser_weights(folder)[1]))


def _weights(part: Path, variant: str | None) -> list[Path]:
    """The files of a part that are read; as `denoiser_weights` says of the denoiser."""
    files = list(part.glob("*.safetensors"))
    return [
        path for path in files if ("." not in path.stem if variant is None else f".{variant}" in path.stem)
    ] or files


def read_config(file: Path) -> dict[str, Any]:
    """What the JSON file of a part says.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_file(file, _SMALL_BYTES))
        if not isinstance(content, dict):
            raise ValueError("an object was expected")
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise CheckpointError(f"{str(file)!r} is not usable JSON ({error}): copy the model again") from error
    return content


def _settings(file: Path) -> str:
    """What a config says, apart from notes, in one spelling."""
    content = read_config(file)
    return json.dumps({key: value for key, value in content.items() if not key.startswith(_NOTES)}, sort_keys=True)


def _other_class(part: Path, entry: list[Any]) -> str:
    """A line about the class that the index names for a part, where the part was saved by another one."""
    file = part / "scheduler_config.json"
    saved = read_config(file).get("_class_name") if file.exists() else None
    return "" if saved == entry[-1] else f"{part.name} {entry[-1]}\n"


class _Hashes:
    """SHA-256 of files; those of large ones are kept, for as long as the system says that the files did not change."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self._path = Path(base, "twinact", "hashes.json")
        self._new = False
        try:
            self._kept: dict[str, Any] = dict(json.loads(read_file(self._path, _CACHE_BYTES)))
        # None yet, or damaged: it can be made again.
        except (OSError, ValueError, TypeError, RecursionError, DataError):
            self._kept = {}

    def of(self, path: Path) -> str:
        """The hash of a file, in hex."""
        check_regular(path)
        facts, name = path.stat(), str(path.resolve())
        # A change that keeps the time of the content still changes that of the entry.
        state = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        known = self._kept.get(name)
        if isinstance(known, list) and known[:-1] == state:
            return str(known[-1])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if facts.st_size > _SMALL_BYTES:
            self._kept[name], self._new = [*state, found], True
        return found

    def keep(self) -> None:
        """Write down what is new; a cache folder that cannot be written costs time and nothing else."""
        if self._new:
            there = {name: known for name, known in self._kept.items() if os.path.exists(name)}
            try:
                atomic_write_bytes(self._path, json.dumps(there).encode())
            except DataError:
                return
