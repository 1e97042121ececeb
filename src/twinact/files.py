"""Files of the project: safetensors with a JSON header, written whole or not at all.

Every file carries its kind and format version in the safetensors metadata, so that a space is never read as an
action, and a file of a later twinact is refused instead of half understood. A checksum over header and tensors finds
damage that the format itself would not notice. Nothing here unpickles anything.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from twinact.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from torch import Tensor

# safetensors caps its whole header (names, shapes and metadata) at 100 MB; a tenth of it is far above what any
# twinact file needs, and leaves room for the tensor table.
MAX_HEADER_BYTES = 10_000_000
# The longest header the format allows; a longer length field means that the file is something else.
_MAX_FORMAT_HEADER_BYTES = 100_000_000
_HEADER_KEY = "twinact"
_CHECKSUM_KEY = "sha256"


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    The bytes go to a new file in the same folder, are flushed to the disk, and take the name in one step. The mode
    is 0o666 less the umask, as for any new file. Missing parent folders are made.

    Raises:
        DataError: the folder cannot be written, the disk is full, or `path` is a folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL with 0o666 lets the kernel apply the umask; tempfile would force 0o600.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink()
            raise
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({len(data)} bytes): {error.strerror or error}; "
            "free some space or choose a folder that can be written"
        ) from error
    _sync_folder(path.parent)
    return path


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], header: Mapping[str, Any]) -> Path:
    """Write tensors and a JSON header as one safetensors file, atomically.

    Args:
        path: file to write or replace.
        tensors: name to tensor, any device and strides; stored as they are, by name order.
        header: strict JSON (no NaN, string keys); must hold `kind` (str) and `version` (int >= 1).

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
    return atomic_write_bytes(path, save(copies, metadata={_HEADER_KEY: text}))


def read_safetensors(
    path: str | os.PathLike[str], kind: str, version: int = 1
) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read a file written by `write_safetensors`: (tensors on the CPU, header).

    Args:
        path: file to read.
        kind: the kind that the caller can use; another kind is refused.
        version: the newest format version that the caller understands; 1 up to it are accepted.

    Raises:
        CheckpointError: the file is missing, is no safetensors file, is corrupt, or has another kind or version.
    """
    path = Path(path)
    header, checksum = _read_header(path, kind, version)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt: {error}; copy or make it again") from error
    if checksum != _checksum(header, tensors):
        raise CheckpointError(f"{path} is corrupt: its checksum does not match its content; copy or make it again")
    return tensors, header


def tensor_hash(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 in hex over names, types, shapes and values; the order of the names and the device do not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(_byte_type()).numpy()))
    return digest.hexdigest()


def read_header(path: str | os.PathLike[str], kind: str, version: int = 1) -> dict[str, Any]:
    """Read only the JSON header of a twinact file, without torch; arguments and errors as `read_safetensors`."""
    return _read_header(Path(path), kind, version)[0]


def _read_header(path: Path, kind: str, version: int) -> tuple[dict[str, Any], object]:
    """The header, its kind and version checked, and the checksum that was stored with it."""
    table = _read_table(path, kind)
    metadata = table.get("__metadata__")
    text = metadata.get(_HEADER_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
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


def _read_table(path: Path, kind: str) -> dict[str, Any]:
    """The leading JSON table of a safetensors file: an 8-byte little-endian length, then that many bytes."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            size = os.fstat(file.fileno()).st_size
            if len(start) < 8 or not 2 <= length <= min(_MAX_FORMAT_HEADER_BYTES, size - 8):
                raise CheckpointError(
                    f"{path} is not a safetensors file or is cut short; expected a twinact {kind} file "
                    "(pickles and other formats are not read)"
                )
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected a twinact {kind} file") from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}; expected a twinact {kind} file"
        ) from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a safetensors file; expected a twinact {kind} file") from error
    return _parse(text, f"tensor table of {path}")


def _parse(text: str, what: str) -> dict[str, Any]:
    """A strict JSON object: repeated keys and non-finite numbers are errors."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
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


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut where the system can; Windows cannot open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
