"""Results of runs, their means, and bootstrap intervals over actions and seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FAILED = "failed"
_LOST = frozenset({"clean", "joint", "action", "actor", "near", "place"})
"""What a run that failed has none of: it counts as 0. What it would have leaked nobody knows."""
_DRAWS = 4000


class Result(dict[str, Any]):
    """The content of a run's file; see `twinact.bench.run.Runner.carry_out`."""

    def mean(self, name: str) -> float:
        """Mean of a number over the pictures that have it; NaN where none has."""
        if self["status"] == FAILED:
            return 0.0 if name in _LOST else float("nan")
        return mean([row[name] for row in self["pictures"] if row.get(name) is not None])


def mean(values: Sequence[float]) -> float:
    """The mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def interval(cells: Mapping[str, Sequence[float]]) -> dict[str, float] | None:
    """A mean over actions with its 95 % bootstrap interval (Davison and Hinkley 1997, section 3.8).

    Actions are what varies, and pictures of one action resemble each other; so actions are drawn with replacement, and
    for each drawn action its seeds.

    Args:
        cells: Action → a value for each seed; NaN where there is none.

    Returns:
        ``mean``, ``low``, ``high`` and ``actions``; None where no action has a value.
    """
    kept = [np.array([v for v in values if not np.isnan(v)]) for values in cells.values()]
    kept = [values for values in kept if len(values)]
    if not kept:
        return None
    rng = np.random.default_rng(0)
    seeds = np.stack([v[rng.integers(len(v), size=(_DRAWS, len(v)))].mean(axis=1) for v in kept])  # (actions, draws)
    chosen = rng.integers(len(kept), size=(len(kept), _DRAWS))
    low, high = np.quantile(seeds[chosen, np.arange(_DRAWS)].mean(axis=0), (0.025, 0.975))
    whole = float(np.mean([values.mean() for values in kept]))
    return {"mean": round(whole, 4), "low": round(float(low), 4), "high": round(float(high), 4), "actions": len(kept)}
