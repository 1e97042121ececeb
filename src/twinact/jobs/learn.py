"""Learning in one call, for people who write Python."""

from pathlib import Path
from typing import Any

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.jobs.job import Job
from twinact.jobs.run import run_job


def learn(
    exemplars: str | Path, *, name: str, backbone: Backbone, run_dir: str | Path | None = None, **settings: Any
) -> Action:
    """Learn the action that pictures show, or go on with a run that was stopped, or read the result of one.

    Args:
        exemplars: Folder of pictures, with captions and keypoint files if any; see
            `twinact.data.exemplars.read_exemplars`.
        name: Of the action.
        backbone: The model; see `twinact.jobs.models.open_model`.
        run_dir: The run's own folder; None takes ``runs/<name>``.
        settings: Of `LearnConfig` and of the method, by their names on the command line with underscores, as in
            ``steps=100``.

    Raises:
        TwinactError: As `twinact.jobs.run.run_job`.
        KeyboardInterrupt: The run was stopped; the same call goes on with it.
    """
    config = LearnConfig.from_dict({**settings, "name": name})
    folder = Path("runs") / name if run_dir is None else Path(run_dir)
    return run_job(Job(exemplars=Path(exemplars), config=config, run_dir=folder), backbone=backbone).action
