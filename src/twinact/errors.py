"""Every error a user can cause, under one root."""


class TwinactError(Exception):
    """Root of all errors that twinact raises on purpose; the command line prints them as one line."""


class ConfigError(TwinactError):
    """An option or argument has a value that cannot work."""


class DataError(TwinactError):
    """Exemplars, prompts or files from the user are unusable."""


class CheckpointError(TwinactError):
    """A saved space, action or run does not fit what it is loaded into, or is damaged."""


class MissingDependency(TwinactError):
    """An optional package is needed and not installed."""


class OutOfMemory(TwinactError):
    """Something did not fit into the memory of the device or the machine."""
