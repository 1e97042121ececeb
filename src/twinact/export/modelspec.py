"""Writes safetensors files with the plain-text metadata that other tools read: ModelSpec 1.0.1 (Stability AI)."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from twinact import __version__
from twinact.action import Action
from twinact.errors import ConfigError
from twinact.storage import tensor_hash

OF_LORAS = ("-lora", "-bundle")
"""How the stems of LoRA files end, alone and with the word inside."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LONGEST_WORD = 32
_ALIGNMENT = 8
_FORMAT_VERSION = "2"  # of our own keys; 1 had no hash of the content
_VERSION_KEY, _CONTENT_KEY = "twinact.format_version", "twinact.content_sha256"


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone, with hashes of it in the metadata.

    The library writes metadata in random order. ModelSpec's hash is over the bytes after the header, which stay where
    they are when the header changes; our own also covers what the header decides, see `is_whole`.

    Args:
        tensors: Name to tensor, on any device.
        metadata: Text to text, without the hashes.
    """
    from safetensors.torch import save

    data = save({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})
    length = int.from_bytes(data[:8], "little")
    table, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    own_hash = hashlib.sha256(body).hexdigest()
    full = {**metadata, "modelspec.hash_sha256": f"0x{own_hash}"}
    full[_CONTENT_KEY] = _content_hash(full, table, own_hash)
    header = json.dumps({"__metadata__": dict(sorted(full.items())), **table}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + body


def is_whole(path: Path) -> bool:
    """Whether the hash in a file that `pack` wrote is that of its content; True for files of other tools.

    Other tools keep ModelSpec's hash when they change the tensors, and may add what they like to the header.

    Args:
        path: A readable safetensors file.

    Raises:
        OSError, ValueError: It cannot be read.
    """
    with path.open("rb") as file:
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        metadata = table.pop("__metadata__", {})
        if _VERSION_KEY not in metadata:
            return True
        body = hashlib.file_digest(file, "sha256").hexdigest()
    if metadata[_VERSION_KEY] == "1":
        return bool(metadata.get("modelspec.hash_sha256") == f"0x{body}")
    return bool(metadata.get(_CONTENT_KEY) == _content_hash(metadata, table, body))


def _content_hash(metadata: Mapping[str, str], table: Mapping[str, object], body: str) -> str:
    """SHA-256 in hex over all that decides what a reader makes of a file: tensors, their names, and what the header
    says beside them, such as the alpha of a LoRA. People may change the words that describe it."""
    described = {key for key in metadata if key.startswith("modelspec.") and key != "modelspec.architecture"}
    deciding = {key: value for key, value in metadata.items() if key not in described and key != _CONTENT_KEY}
    return hashlib.sha256(json.dumps([deciding, table, body], sort_keys=True).encode()).hexdigest()


def trigger(name: str) -> str:
    """The word to type for an action in other tools: its name, with ``twa-`` before it.

    A name may be a word that the model knows, which diffusers refuses as a token and A1111 would replace in every
    prompt. No tokenizer knows a word that begins so. Digits are spelled out, "leap-2" as "twa-leap-two", because
    diffusers calls the second vector of "leap" by "leap_1", and where no embedding is found digits are read one by one.

    Raises:
        ConfigError: The word would be the name of the LoRA file of another action: ComfyUI looks for names in all
            folders below its own, and takes whichever comes first. Or it would have more than 32 letters.
    """
    spelled = "".join(f"-{_DIGITS[int(letter)]}-" if letter.isdigit() else letter for letter in name)
    word = re.sub("[_-]+", "-", f"twa-{spelled.removeprefix('twa-')}").strip("-")
    if word.endswith(OF_LORAS):
        raise ConfigError(f"action {name!r} cannot be exported: so end the files of LoRAs; copy it to another name")
    if len(word) > _LONGEST_WORD and spelled != name:  # older files may have longer names
        raise ConfigError(
            f"action {name!r} cannot be exported: with its digits spelled out, its word {word!r} has more than "
            f"{_LONGEST_WORD} letters; copy it to a shorter name"
        )
    return word


def about(action: Action, architecture: str, implementation: str, usage_hint: str) -> dict[str, str]:
    """An action's header: ModelSpec's keys, and where the action comes from under keys of our own.

    Args:
        action: What the file holds.
        architecture: ModelSpec's name of the model, and after a slash that of the kind of file.
        implementation: Where the layout of the keys comes from.
        usage_hint: How to use the file.
    """
    word = trigger(action.name)
    specified = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture,
        "implementation": implementation,
        "title": word,
        "description": f"The action {action.name}, learned from pictures. Type {word} where the prompt says what "
        "somebody does.",
        "date": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "trigger_phrase": word,
        "usage_hint": usage_hint,
        "tags": "action",
    }
    own = {
        "format_version": _FORMAT_VERSION,
        "library_version": __version__,
        "action": action.name,
        "base": action.model_id,
        "n_vectors": str(len(action.vectors[0])),
    }
    if action.coefficients is not None:
        own["coefficients_sha256"] = tensor_hash({"coefficients": action.coefficients})
        own["basis_id"] = action.space_hash
    config = action.meta.get("config")
    if config is not None:  # it was learned here
        own["config_sha256"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        own |= {key: str(config[key]) for key in ("seed", "steps") if key in config}
    return {f"modelspec.{key}": value for key, value in specified.items()} | {
        f"twinact.{key}": value for key, value in own.items()
    }
