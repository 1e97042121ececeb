"""Reads and writes what is known about one model; the file lies in its folder, beside its space and its pose reader."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twinact.configs import EARLY_STEPS, GUIDANCES
from twinact.configs.settings import Bounds
from twinact.errors import CheckpointError, DataError
from twinact.storage import atomic_write_bytes, misfit, read_file

FACTS_FILE = "twinact.json"
_VERSION = 1
_MAX_BYTES = 100_000
_SCHEMA = {
    "guidance": float | None, "steps": int | None, "intent_steps": int | None, "ground": float | None,
    "square": bool | None,
}  # fmt: skip
_BOUNDS = {"guidance": GUIDANCES, "steps": Bounds(1, 1000), "intent_steps": EARLY_STEPS, "ground": Bounds(0.0, 1.0)}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The content of ``twinact.json`` beside ``model_index.json``; without the file nothing is known.

    Attributes:
        guidance: Classifier-free guidance that the model draws best with; None takes its family's usual one.
        steps: Denoising steps that the model draws well in; None takes its family's usual ones.
        intent_steps: Denoising steps from pure noise after which the pose reader in the folder sees the pose that the
            model means by a prompt; None where nobody has measured it.
        ground: Where the lowest joint of a figure lies that stands on the ground, from 0 at the top of the picture to 1
            at its bottom; None where the camera is not always the same.
        square: Whether the model was made from squares alone, so that exemplars are fitted into these; None and False:
            they are learned in shapes of their own.
    """

    guidance: float | None = None
    steps: int | None = None
    intent_steps: int | None = None
    ground: float | None = None
    square: bool | None = None

    @classmethod
    def read(cls, folder: Path) -> "ModelFacts":
        """The facts of the model in a folder.

        Raises:
            CheckpointError: The file is damaged, or of a later version.
        """
        path = folder / FACTS_FILE
        if not os.path.lexists(path):
            return cls()
        try:
            content: dict[str, Any] = json.loads(read_file(path, _MAX_BYTES))
            if content.pop("version") != _VERSION:
                raise ValueError(f"only version {_VERSION} is read")
            wrong = misfit(content, _SCHEMA)
            if wrong is not None:
                raise ValueError(wrong)
            facts = cls(**content)
            for name, bounds in _BOUNDS.items():
                value = getattr(facts, name)
                if value is not None and not bounds.hold(value):
                    raise ValueError(f"{name} is {value!r}, expected a number in {bounds}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError) as error:
            raise CheckpointError(f"{path} cannot be used ({error}): copy it again, or update twinact") from error
        return facts

    def write(self, folder: Path) -> None:
        """Write the file into a model's folder.

        Raises:
            DataError: The folder cannot be written.
        """
        content = {"version": _VERSION, **{name: value for name, value in asdict(self).items() if value is not None}}
        atomic_write_bytes(folder / FACTS_FILE, (json.dumps(content, indent=2) + "\n").encode())
