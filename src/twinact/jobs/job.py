"""The record of a job, and the record of its outcome."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinact.configs import LearnConfig

Advance = Callable[[int, int, str], None]
"""Receives progress as (part, whole, stage)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One action to learn, such that any machine that sees the folders can learn it.

    Attributes:
        exemplars: Folder of pictures with captions; see `twinact.data.exemplars.read_exemplars`.
        config: What is learned, and how.
        run_dir: The run's own folder.
        model: "nano", a folder in diffusers layout or a Hugging Face name; see `twinact.backbones.load`.
        space: File of the action space; None takes the one in the run folder, else the model's own.
        run: Settings of `RunConfig` that somebody has given; the others are chosen, see `twinact.jobs.resources`.
    """

    exemplars: Path
    config: LearnConfig
    run_dir: Path
    model: str = "nano"
    space: Path | None = None
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a job; a row of the table of results.

    Attributes:
        name: Name of the action.
        state: "learned", "already done" or "failed".
        tries: How often it was begun.
        seconds: Seconds of the last try.
        loss: Loss of the last step, None without one.
        action: File of the action, None when the job failed.
        problem: Why it failed, in one line.
        may_pass: Whether another try could succeed: its process died or lacked memory, nothing is wrong with the job.
    """

    name: str
    state: str
    tries: int
    seconds: float
    loss: float | None = None
    action: Path | None = None
    problem: str | None = None
    may_pass: bool = False
