"""All errors that a user can cause; they share one root."""

import errno
import os


class TwinactError(Exception):
    """Root of all errors that twinact raises on purpose; the command line prints them as one line."""


class ConfigError(TwinactError):
    """An option or argument has a value that cannot work."""


class DataError(TwinactError):
    """Exemplars, prompts or files from the user are unusable."""


class NameTaken(DataError):
    """A file was to be new and something has its name."""


class FolderInUse(DataError):
    """Another process has a folder for itself."""


class CheckpointError(TwinactError):
    """A saved space, action or run does not fit what it is loaded into, or is damaged."""


class MissingDependency(TwinactError):
    """An optional package is needed and not installed."""


class OutOfMemory(TwinactError):
    """Something did not fit into the memory of the device or the machine."""


def lacks_memory(error: BaseException) -> bool:
    """Whether a library failed because the machine has too little memory, however it says so."""
    said = getattr(error, "errno", None) == errno.ENOMEM or os.strerror(errno.ENOMEM).lower() in str(error).lower()
    return isinstance(error, MemoryError) or said


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
