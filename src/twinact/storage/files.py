"""Bytes on disk: written whole or not at all, under names that are ours to take, and read from ordinary files only."""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from twinact.errors import DataError, NameTaken

ACTION_SUFFIX, SPACE_SUFFIX = ".action.safetensors", ".space.safetensors"
"""How the names of files of actions and of action spaces end."""
# Of this process and of nobody else, so that another run may know and delete what a killed one left.
_TEMPORARY = re.compile(r"\.twinact-\d+-[0-9a-f]{16}\.tmp")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_LONGEST_NAME = 255  # in all usual file systems


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes, *, new: bool = False) -> Path:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    The bytes go to a new file in the same folder, are flushed to the disk, and take the name in one step. The mode
    is 0o666 less the umask, as for any new file. Missing parent folders are made.

    Args:
        path: File to write.
        data: Its whole content.
        new: Whether the name must be free. It is taken in one step too: of two that write at once, one is refused.

    Raises:
        NameTaken: `new`, and something has the name.
        DataError: the folder cannot be written, the disk is full, or `path` is a folder.
    """
    path = Path(path)
    temporary = path.with_name(f".twinact-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL with 0o666 lets the kernel apply the umask; tempfile would force 0o600.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if new:
                _take(temporary, path)
            else:
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink()
            raise
    except FileExistsError as error:
        if not new or not os.path.lexists(path):  # a file where a parent folder should be
            raise DataError(f"cannot write {path}: {error.strerror}; choose another folder") from error
        raise NameTaken(f"output '{path}' already exists and is not replaced; give another name or remove it") from None
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({len(data)} bytes): {error.strerror or error}; "
            "free some space or choose a folder that can be written"
        ) from error
    _sync_folder(path.parent)
    return path


def write_all_new(contents: Mapping[Path, bytes]) -> list[Path]:
    """Write several files under names that must be free: all of them, or none; errors as `atomic_write_bytes`."""
    written: list[Path] = []
    try:
        for path, data in contents.items():
            written.append(atomic_write_bytes(path, data, new=True))
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


def append_line(path: Path, line: str) -> None:
    """Append one line of UTF-8 in one write, so that lines of several processes do not mix; all of it or nothing.

    Raises:
        OSError: It cannot be written, or is a symbolic link, whose target may be anybody's.
    """
    data = f"{line}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW | _BINARY, 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        before = os.fstat(descriptor).st_size
        written = file.write(data)
        if written != len(data):  # the disk is full now, and half a line would spoil the next one
            if os.fstat(descriptor).st_size == before + written:  # nobody has written behind it
                os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def check_folder(path: Path, name: str = "") -> None:
    """Make sure that files, `name` for one, can be written into a folder, or that it can be made; nothing is written.

    Raises:
        DataError: They cannot.
    """
    long = next((part for part in (*path.parts, name) if len(os.fsencode(part)) > _LONGEST_NAME), None)
    if long is not None:
        raise DataError(f"name '{long[:40]}…' has {len(os.fsencode(long))} bytes, at most {_LONGEST_NAME}; shorten it")
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir() or not os.access(
        there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        what = "cannot be written: Permission denied" if there.is_dir() else "is no folder"
        raise DataError(f"folder '{path}' cannot be used: '{there}' {what}; choose a folder that can be written")


def check_regular(path: Path, most_bytes: int | None = None) -> None:
    """Make sure that reading ends: a pipe never does, a device never stops, and a file may be too large to be meant.

    Raises:
        DataError: `path` is there and is no ordinary file, or has more than `most_bytes`.
        OSError: There is none, or it cannot be looked at.
    """
    facts = path.stat()
    if stat.S_ISDIR(facts.st_mode):
        raise DataError(f"'{path}' is a folder; give a file, such as one in it")
    if not stat.S_ISREG(facts.st_mode):
        raise DataError(f"'{path}' is not a regular file; replace it by one")
    if most_bytes is not None and facts.st_size > most_bytes:
        raise DataError(f"'{path}' has {facts.st_size} bytes, at most {most_bytes} are read; give a smaller file")


def read_file(path: Path, most_bytes: int) -> bytes:
    """All bytes of an ordinary file; errors as `check_regular`."""
    check_regular(path, most_bytes)
    return path.read_bytes()


def sweep(folder: Path) -> None:
    """Delete what writes of this user left in a folder when they were killed; nobody may be writing there."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            facts = entry.stat(follow_symlinks=False)
            user = getattr(os, "getuid", lambda owner=facts.st_uid: owner)()
            if _TEMPORARY.fullmatch(entry.name) and stat.S_ISREG(facts.st_mode) and facts.st_uid == user:
                os.unlink(entry.path)


def _take(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless something has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links: an empty file holds the name for a moment
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)
    else:
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut where the system can; Windows cannot open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
