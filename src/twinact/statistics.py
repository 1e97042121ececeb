"""Counts shares of pictures and gives their confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A share of pictures with its Wilson 95 % interval (Wilson 1927).

    Attributes:
        successes: Pictures that have the property.
        count: Pictures in all.
    """

    successes: int
    count: int

    @property
    def value(self) -> float:
        return self.successes / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound, in [0, 1]."""
        if not self.count:
            return 0.0, 1.0
        from scipy.stats import binomtest  # slow to import, and the report of a run has no shares

        bounds = binomtest(self.successes, self.count).proportion_ci(method="wilson")
        return float(bounds.low), float(bounds.high)

    def as_json(self) -> dict[str, float | None]:
        """Share, bounds and count for a results file; the share of no pictures is null."""
        low, high = self.interval
        value = round(self.value, 4) if self.count else None
        return {"share": value, "low": round(low, 4), "high": round(high, 4), "count": self.count}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def share(hits: Sequence[bool]) -> dict[str, float | None]:
    """A share with its Wilson interval, for JSON."""
    return Share(sum(hits), len(hits)).as_json()
