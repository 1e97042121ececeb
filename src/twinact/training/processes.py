"""Knows the processes of one run: one, or those that ``accelerate launch`` started on GPUs, nodes or CPUs."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.errors import ConfigError, TwinactError

# The others wait while the first looks for the starting phrase, longer than the minutes that NCCL grants.
_PATIENCE = timedelta(hours=6)

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all of its run.

    Attributes:
        index: From 0; 0 is the main one, which alone writes.
        count: Number of processes of the run.
        device: That this one is to use; None leaves the choice to `twinact.backbones.load`.
    """

    index: int
    count: int
    device: torch.device | None

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.index == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the main process, in all of them; called by all at the same point.

        Raises:
            TwinactError: `work` failed. In the main process, its own error of any kind.
        """
        if self.count == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        outcome: list[tuple[T | None, str | None]] = [(None, None)]
        own: BaseException | None = None
        if self.is_main:
            try:
                outcome = [(work(), None)]
            except BaseException as error:
                own, outcome = error, [(None, str(error))]
        value, problem = broadcast_object_list(outcome)[0]
        if own is not None:
            raise own
        if problem is not None:
            raise TwinactError(f"the main process failed: {problem}")
        return value

    def gather(self, row: Float[Tensor, " n"]) -> Float[Tensor, "processes n"]:
        """The rows of all processes, in order of their index."""
        if self.count == 1:
            return row[None]
        from accelerate.utils import gather

        return gather(row.to(self.device)[None]).to(row.device)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return flag if self.count == 1 else bool(self.gather(torch.tensor([float(flag)])).any())


def this_process() -> Processes:
    """Where this process stands; joins the others at the first call."""
    # One process needs no accelerate: making its state fails on machines with several GPUs that cannot talk.
    if _whole("WORLD_SIZE", 1) == 1:
        return Processes(0, 1, None)
    for name in ("RANK", "LOCAL_RANK"):
        _whole(name, 0)
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    if not torch.distributed.is_initialized():
        atexit.register(_leave)
    # Without a device and without being told so, accelerate would take every process for the only one.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, state.device)


def _whole(name: str, smallest: int) -> int:
    """A number that `accelerate launch` has put into the environment."""
    text = os.environ.get(name, str(smallest))
    if not (text.isascii() and text.isdigit()) or int(text) < smallest:
        raise ConfigError(
            f"environment variable {name} is {text!r}, a whole number from {smallest} is allowed; unset it, or start "
            "with accelerate launch"
        )
    return int(text)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
