"""The two stages of a benchmark, tuning and the runs of the report, here or on a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twinact.bench.contestants import CONTESTANTS
from twinact.bench.folder import Bench
from twinact.bench.kinds import TASKS
from twinact.bench.plan import Results, Run, report_runs, tuning
from twinact.bench.presets import Preset
from twinact.bench.run import Runner
from twinact.configs import RunConfig
from twinact.configs.settings import check_choice
from twinact.console import say
from twinact.errors import CheckpointError
from twinact.jobs.cluster import on_ray
from twinact.jobs.models import open_with_message
from twinact.jobs.resources import choose_resources
from twinact.world.judges.judges import Judges


def _tuning_runs(preset: Preset, results: Results) -> Sequence[Run]:
    return tuning(preset, results).wanted


STAGES: dict[str, Callable[[Preset, Results], Sequence[Run]]] = {"tune": _tuning_runs, "run": report_runs}
"""Name → what it wants to be run."""


def fill(
    folder: Path,
    preset: Preset,
    stage: str,
    *,
    model: str = "nano",
    precision: str | None = None,
    tasks: Sequence[str] = (),
    contestants: Sequence[str] = (),
    tell: Callable[[str], None] = say,
) -> Bench:
    """Carry out the runs of a stage that nobody has carried out yet, beside any other processes that do.

    Args:
        folder: Of the benchmark; see `twinact.bench.folder`.
        preset: How much is run.
        stage: Key of `STAGES`.
        model: "nano", or a folder of a model of its world, with its judges.
        precision: As `twinact.jobs.resources.choose_resources` takes it.
        tasks, contestants: Only these; none means all.
        tell: Receives a line about every run.

    Raises:
        ConfigError: A name is unknown, or the folder was begun with other settings.
        DataError: The folder holds something else, or cannot be written.
        CheckpointError: The model has no judges.
    """
    for name in tasks:
        check_choice("task", name, preset.tasks)
    for name in contestants:
        check_choice("method", name, preset.contestants)
    run = RunConfig(precision=choose_resources(model, precision).precision)
    backbone = open_with_message(model, run.precision)
    if backbone.folder is None or not (backbone.folder / "judges").is_dir():
        raise CheckpointError(
            f"model {model!r} has no judges of its world; give nano, or a folder that nano train made"
        )
    runner = Runner(backbone, Judges.load(backbone.folder / "judges"), run)
    bench = Bench(folder, preset, runner.settings())

    def plan(results: Results) -> list[Run]:
        wanted = STAGES[stage](bench.preset, results)
        return [
            one for one in wanted if one.task in (tasks or TASKS) and one.contestant in (contestants or CONTESTANTS)
        ]

    bench.fill(plan, lambda one: runner.carry_out(bench, one), tell)
    return bench


def fill_on_ray(folder: Path, preset: Preset, stage: str, **how: Any) -> None:
    """As `fill`, by one worker for each GPU of a Ray cluster, or for each core if it has no GPU.

    All machines must see the folder under the same path, and have twinact installed. A worker that dies leaves its run
    to the others, and Ray starts another.

    Raises:
        MissingDependency: Ray is not installed.
        TwinactError: As `fill`.
    """
    with on_ray() as ray:
        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0))
        work = ray.remote(_worker).options(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=3)
        workers = gpus or max(1, int(found.get("CPU", 1)))
        ray.get([work.remote(folder.resolve(), preset, stage, how) for _ in range(workers)])


def _worker(folder: Path, preset: Preset, stage: str, how: dict[str, Any]) -> None:
    fill(folder, preset, stage, **how)
