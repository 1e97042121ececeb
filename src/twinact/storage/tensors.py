"""safetensors files with a JSON header.

Every file carries its kind and format version in the safetensors metadata, so that a space is never read as an
action, and a file of a later twinact is refused instead of half understood. A checksum over header and tensors finds
damage that the format itself would not notice. Nothing here unpickles anything.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from twinact.errors import CheckpointError, DataError, OutOfMemory, first_line, lacks_memory
from twinact.storage.files import atomic_write_bytes, check_regular
from twinact.storage.schema import Schema, misfit

if TYPE_CHECKING:
    from torch import Tensor

# safetensors caps its whole header (names, shapes and metadata) at 100 MB; a tenth of it is far above what any
# twinact file needs, and leaves room for the tensor table.
MAX_HEADER_BYTES = 10_000_000
_HEADER_KEY = "twinact"
_CHECKSUM_KEY = "sha256"


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], header: Mapping[str, Any], *, new: bool = False
) -> Path:
    """Write tensors and a JSON header as one safetensors file, atomically.

    Args:
        path: file to write or replace.
        tensors: name to tensor, any device and strides; stored as they are, by name order.
        header: strict JSON (no NaN, string keys); must hold `kind` (str) and `version` (int >= 1).
        new: whether the name must be free; see `atomic_write_bytes`.

    Raises:
        CheckpointError: the header is not strict JSON, lacks kind or version, or is too long.
        DataError: the file cannot be written.
    """
    path = Path(path)
    kind, version = header.get("kind"), header.get("version")
    if not isinstance(kind, str) or not kind or not _is_version(version):
        raise CheckpointError(f"header of {path} needs kind (text) and version (int >= 1), got {kind!r}, {version!r}")
    if _CHECKSUM_KEY in header:
        raise CheckpointError(
            f"header of {path} has a key {_CHECKSUM_KEY!r}, which is kept for the checksum; rename it"
        )
    from safetensors.torch import save

    # Copies, because safetensors refuses tensors that share memory or are not contiguous.
    copies = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    try:
        _check_keys(header)
        # Inside the one metadata entry: safetensors writes several in random order, and equal files should be equal.
        text = _dump({**header, _CHECKSUM_KEY: _checksum(header, copies)})
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError as well
        raise CheckpointError(f"header of {path} is not strict JSON: {error}") from error
    if size > MAX_HEADER_BYTES:
        raise CheckpointError(f"header of {path} has {size} bytes, at most {MAX_HEADER_BYTES} may be; store less")
    return atomic_write_bytes(path, save(copies, metadata={_HEADER_KEY: text}), new=new)


def read_safetensors(
    path: str | os.PathLike[str], kind: str, version: int = 1, schema: Schema | None = None
) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read a file written by `write_safetensors`: (tensors on the CPU, header).

    Args:
        path: file to read.
        kind: the kind that the caller can use; another kind is refused.
        version: the newest format version that the caller understands; 1 up to it are accepted.
        schema: types of what the header must hold.

    Raises:
        CheckpointError: the file is missing, is no safetensors file, is corrupt, or has another kind or version,
            or its header does not fit the schema.
    """
    path = Path(path)
    header, checksum = _read_header(path, kind, version)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        if lacks_memory(error):
            raise OutOfMemory(f"{path} does not fit into memory; close what else uses it") from error
        raise CheckpointError(f"{path} is corrupt: {error}; copy or make it again") from error
    if checksum != _checksum(header, tensors):
        raise CheckpointError(f"{path} is corrupt: its checksum does not match its content; copy or make it again")
    wrong = misfit(header, schema or {})
    if wrong is not None:
        raise CheckpointError(f"{path} is not a usable {kind}: {wrong} in its header; make it again")
    return tensors, header


def stored_kind(path: str | os.PathLike[str]) -> str | None:
    """The kind of a file that `write_safetensors` wrote; None for a safetensors file of another program.

    Raises:
        CheckpointError: As `read_safetensors`, for what is no safetensors file at all.
    """
    text = _metadata(Path(path), "safetensors").get(_HEADER_KEY)
    return None if text is None else str(_parse(text, f"header of {path}").get("kind"))


def tensor_hash(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 in hex over names, types, shapes and values; the order of the names and the device do not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(_byte_type()).numpy()))
    return digest.hexdigest()


def _read_header(path: Path, kind: str, version: int) -> tuple[dict[str, Any], object]:
    """The header, its kind and version checked, and the checksum that was stored with it."""
    text = _metadata(path, kind).get(_HEADER_KEY)
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file of another program, not a twinact {kind} file")
    header = _parse(text, f"header of {path}")
    if header.get("kind") != kind:
        raise CheckpointError(f"{path} is a twinact {header.get('kind')!r} file, expected {kind!r}")
    found = header.get("version")
    if not _is_version(found) or found > version:
        raise CheckpointError(
            f"{path} has {kind} format version {found!r}, this twinact reads 1 to {version}; update twinact"
        )
    return header, header.pop(_CHECKSUM_KEY, None)


def _dump(header: Mapping[str, Any]) -> str:
    return json.dumps(dict(header), ensure_ascii=False, allow_nan=False, sort_keys=True)


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, "Tensor"]) -> str:
    return hashlib.sha256(f"{_dump(header)}\0{tensor_hash(tensors)}".encode()).hexdigest()


def _byte_type() -> Any:
    import torch  # here, so that reading a header needs no torch

    return torch.uint8


def _metadata(path: Path, kind: str) -> dict[str, str]:
    """The text entries of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected a twinact {kind} file") from error
    except (OSError, DataError) as error:
        told = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot read {path}: {told}; expected a twinact {kind} file") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file or is cut short ({first_line(error)}); expected a twinact {kind} file "
            "(pickles and other formats are not read)"
        ) from error


def _parse(text: str, what: str) -> dict[str, Any]:
    """A strict JSON object: repeated keys and non-finite numbers are errors."""
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is corrupt: {error}; copy or make the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is corrupt: a JSON object was expected; copy or make the file again")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text} is out of range")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"number {text[:20]}… is out of range")
    return value


def _is_version(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_keys(value: object) -> None:
    """Refuse keys that JSON would silently turn into text (1 -> "1"), so that what is read equals what was written."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not text")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
