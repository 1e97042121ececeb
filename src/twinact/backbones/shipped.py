"""Finds the weights of the embedded model and of its judges; they are data, so finding them imports nothing."""

from pathlib import Path

from twinact.errors import CheckpointError

_WEIGHTS = Path(__file__).parents[1] / "nano" / "weights"


def model_dir() -> Path:
    """Folder of the embedded model in the ordinary diffusers layout.

    Raises:
        CheckpointError: The installation has no weights.
    """
    if not (_WEIGHTS / "model_index.json").exists():
        raise CheckpointError(
            f"the embedded model is missing from {_WEIGHTS}; reinstall twinact or run twinact nano train"
        )
    return _WEIGHTS


def judges_dir() -> Path:
    """Folder of the judges that belong to the embedded model; see `model_dir` for errors."""
    return model_dir() / "judges"
