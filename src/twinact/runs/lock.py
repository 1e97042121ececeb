"""Lets one process at a time into a folder; a process that is killed leaves the folder free.

Not the package filelock: its file does not hold the process id, and people are told which process to wait for or stop.
"""

import os
from pathlib import Path
from typing import IO

from twinact.errors import DataError, FolderInUse

NAME = ".lock"


def lock(folder: Path) -> IO[str]:
    """Takes a folder for this process until the returned file is closed or the process ends, however it ends.

    The file stays: were it deleted, two processes could hold two files of the same name. It holds the process id.
    Systems and network disks without such locks go without.

    Raises:
        FolderInUse: Another process has it.
        DataError: It cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not through a symbolic link, whose target would be emptied.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        file = open(descriptor, "a+", encoding="utf-8")  # noqa: SIM115 - stays open until the caller closes it
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose a folder that can be written"
        ) from error
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = path.read_text(encoding="utf-8").strip()
        file.close()
        raise FolderInUse(
            f"folder '{folder}' is in use by process {owner or 'unknown'}; wait for it, stop it or give another folder"
        ) from error
    except OSError:  # a disk without locks
        return file
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError as error:
        file.close()
        raise DataError(f"cannot write {path}: {error.strerror or error}; free some space") from error
    return file
