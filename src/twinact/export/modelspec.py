"""safetensors files with the plain-text metadata that other tools read: ModelSpec 1.0.1 (Stability AI)."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from torch import Tensor

from twinact import __version__
from twinact.action import Action
from twinact.files import tensor_hash

_ALIGNMENT = 8
_FORMAT_VERSION = "1"  # of our own keys


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone, with the hash of its tensors in the metadata.

    The library writes metadata in random order. ModelSpec's hash is over the bytes after the header, which stay where
    they are when the header changes.

    Args:
        tensors: Name to tensor, on any device.
        metadata: Text to text, without ``modelspec.hash_sha256``.
    """
    from safetensors.torch import save

    data = save({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})
    length = int.from_bytes(data[:8], "little")
    table, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    full = {**metadata, "modelspec.hash_sha256": f"0x{hashlib.sha256(body).hexdigest()}"}
    header = json.dumps({"__metadata__": dict(sorted(full.items())), **table}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + body


def trigger(name: str) -> str:
    """The word to type for an action in other tools: its name, with ``twa-`` before it.

    A name may be a word that the model knows, which diffusers refuses as a token and A1111 would replace in every
    prompt. No tokenizer knows a word that begins so.
    """
    return f"twa-{name.removeprefix('twa-')}"


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
        own |= {key: str(config[key]) for key in ("seed", "steps")}
    return {f"modelspec.{key}": value for key, value in specified.items()} | {
        f"twinact.{key}": value for key, value in own.items()
    }
