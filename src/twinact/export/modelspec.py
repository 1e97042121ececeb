"""safetensors files with the plain-text metadata that other tools read: ModelSpec 1.0.1 (Stability AI)."""

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor

_ALIGNMENT = 8


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


def spec(architecture: str, implementation: str, title: str, **optional: str) -> dict[str, str]:
    """ModelSpec's keys: the four that every file must have, and optional ones such as ``trigger_phrase``."""
    keys = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture,
        "implementation": implementation,
        "title": title,
        **optional,
    }
    return {f"modelspec.{key}": value for key, value in keys.items()}
