"""Shows a run's numbers in TensorBoard or Weights & Biases, through the trackers of accelerate.

What is sent are settings and the numbers of each step; no captions, paths or pictures, and nothing about the machine.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinact.console import say
from twinact.errors import MissingDependency, first_line

FOLDER = "tracker"
"""Folder in a run's own that holds the events of TensorBoard, and what Weights & Biases keeps on this machine."""
_PROJECT = "twinact"


class Tracker:
    """Receives the numbers of a run; when that fails once, a message says so, and the run goes on without.

    Args:
        kind: "tensorboard" or "wandb".
        run_dir: The run's folder.
        settings: Names and values, as `twinact.configs.LearnConfig.to_dict` gives them.

    Raises:
        MissingDependency: The library is not installed.
    """

    def __init__(self, kind: str, run_dir: Path, settings: Mapping[str, Any]) -> None:
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        check_installed(kind)
        PartialState()  # accelerate's own messages ask for it
        self._begun = self._failed = False
        self._plain = {key: value for key, value in settings.items() if isinstance(value, bool | str | int | float)}
        logging.getLogger(kind).setLevel(logging.ERROR)
        place = run_dir / FOLDER
        if kind == "tensorboard":
            self._tracker: Any = TensorBoardTracker(_PROJECT, place)
        else:
            import wandb

            private = wandb.Settings(
                disable_git=True, disable_code=True, console="off", silent=True, x_disable_stats=True,
                x_disable_meta=True, x_disable_machine_info=True,
            )  # fmt: skip
            own = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]  # a run that goes on is one run
            self._tracker = WandBTracker(
                _PROJECT, dir=str(place), id=own, resume="allow", name=str(settings["name"]), settings=private
            )
        self._place = place

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step; before the first one nothing is begun, as the folder must be empty until then."""
        if not self._begun:
            self._begun = True
            self._try(self._begin)
        self._try(lambda: self._tracker.log(dict(values), step=step))

    def close(self) -> None:
        """Send what is left."""
        if self._begun:
            self._try(self._tracker.finish)

    def _begin(self) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        self._tracker.start()
        self._tracker.store_init_configuration(self._plain)

    def _try(self, work: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            work()
        except Exception as error:  # a picture of a run is no reason to lose it
            self._failed = True
            say(f"no more tracking: {first_line(error)}")


def check_installed(kind: str) -> None:
    """Refuses a tracker whose library is not installed; "none" needs none.

    Raises:
        MissingDependency: It is not.
    """
    if kind == "none":
        return
    from accelerate.utils import is_tensorboard_available, is_wandb_available

    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    if kind in available and not available[kind]():
        raise MissingDependency(f"tracker {kind!r} is not installed; run pip install 'twinact[track]'")


@contextmanager
def tracking(kind: str, run_dir: Path, settings: Mapping[str, Any]) -> Iterator[Tracker | None]:
    """A tracker while open; None for "none"."""
    tracker = None if kind == "none" else Tracker(kind, run_dir, settings)
    try:
        yield tracker
    finally:
        if tracker is not None:
            tracker.close()
