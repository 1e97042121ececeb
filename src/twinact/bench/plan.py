"""What is to be run: the runs of a preset, given the results that are there.

A plan is asked again after every run. So a stopped benchmark goes on, and several processes share one, without any
state but the results: who is halved away in tuning and who leads follows from them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from twinact.bench.contestants import CONTESTANTS
from twinact.bench.kinds import TASKS
from twinact.bench.presets import MAIN, Preset
from twinact.bench.scores import Result, mean
from twinact.bench.tuning import Chosen, trials_of

EQUAL, OWN = "equal passes", "own best number of passes"
"""The two tables of a report."""
Results = Mapping[str, Result]
"""Key of a run → its result."""


@dataclass(frozen=True)
class Run:
    """One contestant on one action.

    Attributes:
        task: Key of `TASKS`.
        action: One of its actions.
        contestant: Key of `CONTESTANTS`.
        settings: Beside the contestant's own.
        passes: As `Preset.passes`; None where the settings say the steps, or nothing is learned.
        seed: Of learning. Pictures have their own, the same for all.
    """

    task: str
    action: str
    contestant: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    passes: int | None = None
    seed: int = 0

    @property
    def key(self) -> str:
        """Its folder; other settings make another one."""
        how = json.dumps([dict(self.settings), self.passes], sort_keys=True).encode()
        digits = hashlib.sha256(how).hexdigest()[:8]
        name = self.contestant.replace(",", "").replace(" ", "-")
        return f"{self.task}/{name}/{digits}/{self.action.replace(',', '').replace(' ', '-')}_{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {**asdict(self), "settings": dict(self.settings)}


@dataclass(frozen=True)
class Tuned:
    """How far tuning has come.

    Attributes:
        wanted: Runs that it needs next, those that are there among them.
        chosen: Contestant → what was chosen, for those that are finished.
        trials: Contestant → settings and mean scores of every trial that has run.
        curves: Contestant → passes that it took and how much was right and not leaked, for every number of passes.
    """

    wanted: tuple[Run, ...]
    chosen: Mapping[str, Chosen]
    trials: Mapping[str, list[dict[str, Any]]]
    curves: Mapping[str, list[dict[str, float]]]


def tuning(preset: Preset, results: Results) -> Tuned:
    """Successive halving (Jamieson and Talwalkar 2016) over settings, then the best number of passes, for each method.

    All trials run on the first few dev actions, the better half on more of them, and so on; the best has most right and
    not leaked. It then runs with other numbers of passes, on as many actions as the second round has.
    """
    wanted: list[Run] = []
    chosen: dict[str, Chosen] = {}
    told: dict[str, list[dict[str, Any]]] = {}
    curves: dict[str, list[dict[str, float]]] = {}
    for name in _tuned(preset):
        trials = trials_of(name, preset.trials)
        alive, finished = list(range(len(trials))), True
        for actions in preset.rounds:
            runs = {i: _dev_runs(name, trials[i], preset.passes, actions) for i in alive}
            wanted += [run for each in runs.values() for run in each]
            if not all(run.key in results for each in runs.values() for run in each):
                finished = False
                break
            scores = {i: _score(each, results) for i, each in runs.items()}
            ranked = sorted(alive, key=lambda i: (*(-value for value in scores[i]), i))
            alive = sorted(ranked[: -(-len(alive) // 2)])
            best = ranked[0]
        told[name] = [_told(name, trials[i], preset, results) for i in range(len(trials))]
        if not finished:
            continue
        actions = preset.rounds[min(1, len(preset.rounds) - 1)]
        points = {factor: _dev_runs(name, trials[best], round(preset.passes * factor), actions)
                  for factor in preset.factors}  # fmt: skip
        wanted += [run for each in points.values() for run in each]
        if all(run.key in results for each in points.values() for run in each):
            factor = max(points, key=lambda one: (*_score(points[one], results), -one))
            chosen[name] = Chosen(trials[best], factor)
            curves[name] = [
                {
                    "passes": mean([results[run.key]["passes"] for run in each]),
                    "clean": _score(each, results)[0],
                    "near": _score(each, results)[1],
                }
                for each in points.values()
            ]  # fmt: skip
    return Tuned(tuple(wanted), chosen, told, curves)


def tables(preset: Preset, chosen: Mapping[str, Chosen], results: Results) -> dict[str, dict[str, list[Run]]]:
    """Table → task → the runs that a report wants: at equal passes, and the main task at each method's own best number.

    When the main task is finished at equal passes, further seeds of those that lead are wanted, too.
    """
    equal = {task: _equal(preset, chosen, task) for task in preset.tasks}
    if all(run.key in results for run in equal[MAIN]):
        leading = leaders(preset, equal[MAIN], results)
        led = [run for run in equal[MAIN] if run.contestant in leading]
        equal[MAIN] += [replace(run, seed=seed) for run in led for seed in range(1, preset.seeds)]
    return {EQUAL: equal, OWN: {MAIN: _own(preset, chosen)}}


def report_runs(preset: Preset, results: Results) -> list[Run]:
    """All runs of `tables`, for the settings that tuning has found so far."""
    whole = tables(preset, tuning(preset, results).chosen, results)
    return [run for tasks in whole.values() for runs in tasks.values() for run in runs]


def _equal(preset: Preset, chosen: Mapping[str, Chosen], task: str) -> list[Run]:
    runs = []
    for action in actions_of(preset, task):
        for name in preset.contestants:
            if not _takes_part(name, task):
                continue
            settings = chosen[name].settings if name in chosen else {}
            runs.append(Run(task, action, name, settings, preset.passes if CONTESTANTS[name].tunes else None))
    return runs


def _own(preset: Preset, chosen: Mapping[str, Chosen]) -> list[Run]:
    runs = []
    for action in actions_of(preset, MAIN)[: preset.own_actions]:
        for name in preset.contestants:
            if CONTESTANTS[name].judged:
                continue
            settings, factor = (chosen[name].settings, chosen[name].factor) if name in chosen else ({}, 1.0)
            passes = round(preset.passes * factor) if CONTESTANTS[name].tunes else None
            runs.append(Run(MAIN, action, name, settings, passes))
    return runs


def leaders(preset: Preset, runs: Sequence[Run], results: Results) -> list[str]:
    """The learning methods that have most right and not leaked in some runs, best first."""
    names = [name for name in preset.contestants if CONTESTANTS[name].learns]
    scores = {name: _score([run for run in runs if run.contestant == name], results) for name in names}
    return sorted(names, key=lambda name: tuple(-value for value in scores[name]))[: preset.leaders]


def actions_of(preset: Preset, task: str) -> tuple[str, ...]:
    """The actions of a task that a preset runs."""
    kind = TASKS[task]
    return (kind.dev if preset.dev else kind.test)[: preset.tasks[task]]


def _tuned(preset: Preset) -> list[str]:
    return [name for name in preset.contestants if CONTESTANTS[name].tunes]


def _takes_part(name: str, task: str) -> bool:
    """Poses of photographs have no truth from which words could be chosen or pictures drawn."""
    return CONTESTANTS[name].learns or task != "photographs"


def _dev_runs(name: str, settings: Mapping[str, Any], passes: int, actions: int) -> list[Run]:
    return [Run(MAIN, action, name, settings, passes) for action in TASKS[MAIN].dev[:actions]]


def _score(runs: Sequence[Run], results: Results) -> tuple[float, float]:
    """How much is right and not leaked, and how near to right, over those of the runs that are there."""
    found = [results[run.key] for run in runs if run.key in results]
    return (mean([one.mean("clean") for one in found]), mean([one.mean("near") for one in found])) if found else (0, 0)


def _told(name: str, settings: Mapping[str, Any], preset: Preset, results: Results) -> dict[str, Any]:
    runs = [run for run in _dev_runs(name, settings, preset.passes, preset.rounds[-1]) if run.key in results]
    clean, near = _score(runs, results)
    return {"settings": dict(settings), "actions": len(runs), "clean": round(clean, 4), "near": round(near, 4)}
