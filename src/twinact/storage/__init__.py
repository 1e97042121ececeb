"""Files of the project: written whole or not at all, never over somebody else's, and checked when they are read."""

from twinact.storage.files import (
    ACTION_SUFFIX,
    SPACE_SUFFIX,
    append_line,
    atomic_write_bytes,
    check_folder,
    check_regular,
    read_file,
    sweep,
    write_all_new,
)
from twinact.storage.schema import Schema, misfit
from twinact.storage.tensors import MAX_HEADER_BYTES, read_safetensors, stored_kind, tensor_hash, write_safetensors

__all__ = [
    "ACTION_SUFFIX",
    "MAX_HEADER_BYTES",
    "SPACE_SUFFIX",
    "Schema",
    "append_line",
    "atomic_write_bytes",
    "check_folder",
    "check_regular",
    "misfit",
    "read_file",
    "read_safetensors",
    "stored_kind",
    "sweep",
    "tensor_hash",
    "write_all_new",
    "write_safetensors",
]
