"""What is run: tuning halves, chooses by one criterion, and leaders get more seeds; intervals are over actions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from twinact.bench.contestants import BASELINE, CONTESTANTS, settings_of
from twinact.bench.kinds import TASKS
from twinact.bench.plan import EQUAL, OWN, Run, report_runs, tables, tuning
from twinact.bench.presets import MAIN, PRESETS, Preset
from twinact.bench.scores import FAILED, Result, interval
from twinact.bench.tuning import Chosen, ranges_of, trials_of
from twinact.configs.settings import Span

SMALL = Preset(
    contestants=(BASELINE, "twinact", "textual-inversion", "dti"), tasks={MAIN: 2, "said": 1}, dev=True, pictures=2,
    passes=100, factors=(0.5, 1.0, 2.0), trials=4, rounds=(1, 2), own_actions=1, leaders=1, seeds=3,
)  # fmt: skip


def result(clean: float, passes: int = 100, status: str = "done") -> Result:
    rows = [] if status == FAILED else [{"clean": clean, "near": clean, "leak_place": None}]
    return Result({"status": status, "passes": passes, "pictures": rows})


def carried_out(
    plan: Callable[[dict[str, Result]], Sequence[Run]], scored: Callable[[Run], Result]
) -> tuple[dict[str, Result], list[Run]]:
    """Everything that a plan comes to want, with scores that depend on the run alone, and in which order."""
    results: dict[str, Result] = {}
    order: list[Run] = []
    while missing := [run for run in plan(results) if run.key not in results]:
        results[missing[0].key] = scored(missing[0])
        order.append(missing[0])
    return results, order


@pytest.mark.slow
def test_tuning_halves_by_what_is_right_and_not_leaked_and_keeps_all_trials() -> None:
    trials = trials_of("dti", 4)
    worth = {str(trial): value for trial, value in zip(trials, (0.2, 0.9, 0.8, 0.1), strict=True)}

    def scored(run: Run) -> Result:
        lucky = 0.5 if run.action == TASKS[MAIN].dev[0] and dict(run.settings) == trials[2] else 0.0
        return result(worth.get(str(dict(run.settings)), 0.3) + lucky)

    results, order = carried_out(lambda found: tuning(SMALL, found).wanted, scored)
    tuned = tuning(SMALL, results)
    # On both actions the third has 1.05 and the second 0.9.
    assert tuned.chosen["dti"].settings == trials[2]
    seen = {str(dict(run.settings)): set() for run in order if run.contestant == "dti"}
    for run in order:
        if run.contestant == "dti" and run.passes == 100:
            seen[str(dict(run.settings))].add(run.action)
    assert [len(seen[str(trial)]) for trial in trials] == [1, 2, 2, 1]
    assert [one["actions"] for one in tuned.trials["dti"]] == [1, 2, 2, 1]


def test_where_several_numbers_of_passes_are_as_good_the_fewest_are_chosen() -> None:
    results, _ = carried_out(
        lambda found: tuning(SMALL, found).wanted, lambda run: result(float((run.passes or 0) >= 100), run.passes or 0)
    )
    tuned = tuning(SMALL, results)
    assert {one.factor for one in tuned.chosen.values()} == {1.0}
    assert [point["passes"] for point in tuned.curves["dti"]] == [50, 100, 200]


def test_a_trial_that_failed_is_right_in_nothing_and_stops_nothing() -> None:
    def scored(run: Run) -> Result:
        return result(0.0, status=FAILED) if not run.settings else result(0.1)

    results, _ = carried_out(lambda found: tuning(SMALL, found).wanted, scored)
    tuned = tuning(SMALL, results)
    assert all(one.settings for one in tuned.chosen.values())
    assert all(trials[0]["clean"] == 0 for trials in tuned.trials.values())


def test_leaders_run_with_more_seeds_when_the_main_task_is_finished() -> None:
    ahead = {"twinact": 0.9, "textual-inversion": 0.2, "dti": 0.5}
    results, order = carried_out(
        lambda found: report_runs(SMALL, found), lambda run: result(ahead.get(run.contestant, 0.0))
    )
    more = [run for run in order if run.seed]
    assert {run.contestant for run in more} == {"twinact"} and {run.seed for run in more} == {1, 2}
    assert all(run.task == MAIN for run in more) and len(more) == 4
    assert len(results) == len({run.key for run in order}) == 4 * 2 + 4 * 1 + 4
    words = [run for run in order if run.contestant == BASELINE]
    assert all(run.passes is None for run in words)


def test_tuned_settings_and_passes_are_those_of_the_tables() -> None:
    chosen = {"dti": Chosen({"slots": 1}, 2.0)}
    whole = tables(SMALL, chosen, {})
    of = {table: next(run for run in whole[table][MAIN] if run.contestant == "dti") for table in (EQUAL, OWN)}
    assert of[EQUAL].settings == of[OWN].settings == {"slots": 1}
    assert (of[EQUAL].passes, of[OWN].passes) == (100, 200)
    same = tables(SMALL, {"dti": Chosen({"slots": 1}, 1.0)}, {})
    keys = {table: {run.key for run in same[table][MAIN] if run.contestant == "dti"} for table in (EQUAL, OWN)}
    assert keys[OWN] <= keys[EQUAL]  # the same run is not made twice


def test_other_settings_are_other_runs() -> None:
    run = Run(MAIN, "dev-archer", "dti", {"slots": 1}, 100)
    others = [replace(run, **{name: value}) for name, value in (
        ("settings", {"slots": 3}), ("passes", 200), ("seed", 1), ("action", "dev-hurdle"), ("contestant", "core"),
    )]  # fmt: skip
    assert len({one.key for one in (run, *others)}) == 6
    assert replace(run, settings={"slots": 1}).key == run.key


@pytest.mark.parametrize("name", [name for name, one in CONTESTANTS.items() if one.tunes])
def test_every_method_has_as_many_trials_and_all_can_be_made(name: str) -> None:
    trials = trials_of(name, 12)
    assert trials == trials_of(name, 12) and trials[0] == {} and len({str(trial) for trial in trials}) == 12
    ranges = ranges_of(name)
    for trial in trials[1:]:
        assert trial.keys() == ranges.keys() and settings_of(name, trial)
        for key, value in trial.items():
            span = ranges[key]
            assert span.low * 0.99 <= value <= span.high * 1.01 if isinstance(span, Span) else value in span


def test_presets_name_what_there_is_and_survive_json() -> None:
    for preset in PRESETS.values():
        assert Preset.from_dict(preset.to_dict()) == preset
        assert set(preset.tasks) <= set(TASKS) and set(preset.contestants) <= set(CONTESTANTS)
        assert all(count <= len(TASKS[task].test) for task, count in preset.tasks.items())
        assert preset.own_actions <= preset.tasks[MAIN] and preset.trials >= 1 and MAIN in preset.tasks
    assert all(PRESETS[name].trials == 12 for name in ("standard", "full")) and PRESETS["smoke"].dev


def test_intervals_are_over_actions_and_not_over_pictures() -> None:
    same = interval({str(i): [0.4] for i in range(5)})
    assert same == {"mean": 0.4, "low": 0.4, "high": 0.4, "actions": 5}
    few, many = (interval({str(i): [float(i % 2)] for i in range(count)}) for count in (4, 40))
    assert few is not None and many is not None and few["mean"] == many["mean"] == 0.5
    assert many["high"] - many["low"] < few["high"] - few["low"] <= 1.0
    # Twice the seeds of the same actions tell nothing new about other actions.
    seeds = interval({str(i): [float(i % 2)] * 10 for i in range(4)})
    assert seeds == few
    assert interval({"a": [math.nan]}) is None and interval({}) is None
    assert interval({"a": [math.nan], "b": [0.5]}) == {"mean": 0.5, "low": 0.5, "high": 0.5, "actions": 1}


def test_a_sampled_interval_covers_as_often_as_it_says() -> None:
    """Ten actions with a spread of 0.1 about a mean of 0.5: 95 % intervals hold it most of the time."""
    import numpy as np

    held = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(0.5, 0.1, 10)
        found = interval({str(i): [float(value)] for i, value in enumerate(values)})
        assert found is not None
        held += found["low"] <= 0.5 <= found["high"]
    assert 48 <= held <= 60
