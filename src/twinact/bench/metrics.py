"""Numbers from verdicts, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from twinact.bench.judges import Verdict
from twinact.world.pose import PartialPose

_Z95 = 1.959964


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
        n, p = self.count, self.value
        centre = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

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


@dataclass(frozen=True)
class Asked:
    """What a picture should show.

    Attributes:
        action: The named joint angles.
        actor: Key of `ACTORS`.
        place: Key of `PLACES`.
        leaked_actors: The exemplars' actors, which should not be seen.
    """

    action: PartialPose
    actor: str
    place: str
    leaked_actors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """Judged shares over a set of pictures.

    Attributes:
        action: Every joint angle that the action names lies within its tolerance.
        actor: The asked actor is seen.
        joint: Both of these.
        place: The asked place is seen.
        leak: An exemplar's actor is seen instead of the asked one.
        near: Share of the named joint angles within tolerance, averaged over pictures; a softer measure than `action`.
    """

    action: Share
    actor: Share
    joint: Share
    place: Share
    leak: Share
    near: float


def score(verdicts: Sequence[Verdict], asked: Sequence[Asked]) -> Scores:
    """Compare verdicts with what was asked, picture by picture."""
    action = [a.action.holds(v.pose) for v, a in zip(verdicts, asked, strict=True)]
    actor = [v.actor == a.actor for v, a in zip(verdicts, asked, strict=True)]
    near = [share_within(a.action, v) for v, a in zip(verdicts, asked, strict=True)]
    count = len(verdicts)
    return Scores(
        action=Share(sum(action), count),
        actor=Share(sum(actor), count),
        joint=Share(sum(x and y for x, y in zip(action, actor, strict=True)), count),
        place=Share(sum(v.place == a.place for v, a in zip(verdicts, asked, strict=True)), count),
        leak=Share(sum(v.actor in a.leaked_actors for v, a in zip(verdicts, asked, strict=True)), count),
        near=sum(near) / count if count else math.nan,
    )


def share_within(action: PartialPose, verdict: Verdict) -> float:
    """Share of the named joint angles that lie within their tolerances."""
    errors = action.errors(verdict.pose)
    return sum(error <= action.targets[name].tolerance for name, error in errors.items()) / len(errors)
