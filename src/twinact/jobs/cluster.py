"""Learns many actions on a Ray cluster: each is a task, on a GPU of its own where there are any."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from twinact.errors import MissingDependency
from twinact.jobs.job import Job, Outcome
from twinact.jobs.many import attempt


@contextmanager
def on_ray() -> Iterator[Any]:
    """The Ray cluster that this process belongs to, on the one that RAY_ADDRESS or ``ray start`` made, or else one of
    this machine's cores and GPUs that lasts as long as the ``with``; yields the module.

    Raises:
        MissingDependency: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray tells its makers about clusters unless told not to
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependency("cluster 'ray' needs the package ray; pip install 'twinact[cluster]'") from error
    own = not ray.is_initialized()
    if own:
        ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def learn_on_ray(jobs: Sequence[Job], retries: int, *, report: Callable[[Outcome], None]) -> list[Outcome]:
    """Carry out jobs on the cluster of `on_ray`.

    All machines must see the same folders under the same paths, and have twinact installed.

    Args:
        jobs: In order of start; paths must be absolute.
        retries: Further tries of a job whose worker died or lacked memory; each goes on from the last checkpoint.
        report: Receives every outcome as it comes.

    Returns:
        The outcomes in order of the jobs.

    Raises:
        MissingDependency: Ray is not installed.
    """
    with on_ray() as ray:
        # Failures are outcomes and tries are counted here, so Ray itself need not try again.
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        task = ray.remote(attempt).options(num_cpus=1, num_gpus=gpus, max_retries=0)
        tries = [1] * len(jobs)
        running: dict[Any, int] = {task.remote(job, 1): index for index, job in enumerate(jobs)}
        outcomes: dict[int, Outcome] = {}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ready)
            try:
                outcome: Outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                told = f"its worker died ({type(error).__name__})"
                outcome = Outcome(jobs[index].config.name, "failed", tries[index], 0.0, problem=told, may_pass=True)
            if outcome.may_pass and tries[index] <= retries:
                tries[index] += 1
                running[task.remote(jobs[index], tries[index])] = index
                continue
            outcomes[index] = replace(outcome, tries=tries[index])
            report(outcomes[index])
        return [outcomes[index] for index in range(len(jobs))]
