"""Fresh processes that begin with everything imported: forked from a server that imported it once."""

import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

_FORKS = get_context("forkserver")
# Not those of this folder: the server does not look here.
_FORKS.set_forkserver_preload(
    ["accelerate.utils", "pytest", "twinact.jobs.run", "twinact.nano.tokenizer"]
    + [f"twinact.backbones.{family}" for family in ("flux", "sd", "sd3", "sdxl")]
)


def start(
    target: Callable[..., None], *arguments: Any, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """A process that runs an importable function, with further environment variables."""
    process = _FORKS.Process(target=_run, args=(target, arguments, dict(environment or {})))
    process.start()
    return process


def launch(count: int, target: Callable[..., None], *arguments: Any) -> list[ForkServerProcess]:
    """Processes of one run, told of each other as ``accelerate launch --cpu`` tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    common |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return [
        start(target, *arguments, environment={**common, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(count)
    ]


def _run(target: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    target(*arguments)
