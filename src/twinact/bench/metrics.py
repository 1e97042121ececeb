"""Compares verdicts of the judges with what was asked for, and counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from twinact.statistics import Share
from twinact.world.judges.judges import Verdict
from twinact.world.pose import PartialPose
from twinact.world.splits import Shared

SOMEONE = "someone"
"""The actor of a prompt that leaves the actor unsaid."""


@dataclass(frozen=True)
class Asked:
    """What a picture should show.

    Attributes:
        action: The named joint angles.
        actor: Key of `ACTORS`; `SOMEONE` where the prompt leaves it unsaid.
        place: Key of `PLACES`; None where the prompt leaves it unsaid.
        leaked_actors: The exemplars' actors, which should not be seen.
        shared: What all exemplars show and no caption or prompt says; it should be seen no more often than under words.
    """

    action: PartialPose
    actor: str
    place: str | None
    leaked_actors: tuple[str, ...] = ()
    shared: Shared | None = None


@dataclass(frozen=True)
class Scores:
    """Judged shares over a set of pictures.

    Attributes:
        action: Every joint angle that the action names lies within its tolerance.
        actor: The asked actor is seen.
        joint: Both of these.
        place: The asked place is seen, where one is asked for.
        leak: An exemplar's actor is seen instead of the asked one.
        shared_place, shared_thing, shared_light: What the exemplars share is seen although it is unsaid; of places,
            where none is asked for.
        clean: Action and actor are right, and nothing of the exemplars is seen that is unsaid.
        near: Share of the named joint angles within tolerance, averaged over pictures; a softer measure than `action`.
    """

    action: Share
    actor: Share
    joint: Share
    place: Share
    leak: Share
    shared_place: Share
    shared_thing: Share
    shared_light: Share
    clean: Share
    near: float


def score(verdicts: Sequence[Verdict], asked: Sequence[Asked]) -> Scores:
    """Compare verdicts with what was asked, picture by picture, and count."""
    rows = [judged(v, a) for v, a in zip(verdicts, asked, strict=True)]

    def share(name: str) -> Share:
        hits = [row[name] for row in rows if row[name] is not None]
        return Share(sum(map(bool, hits)), len(hits))

    near = [share_within(a.action, v) for v, a in zip(verdicts, asked, strict=True)]
    return Scores(
        action=share("action"),
        actor=share("actor"),
        joint=share("joint"),
        place=share("place"),
        leak=share("leak_actor"),
        shared_place=share("leak_place"),
        shared_thing=share("leak_thing"),
        shared_light=share("leak_light"),
        clean=share("clean"),
        near=sum(near) / len(near) if near else math.nan,
    )


def judged(verdict: Verdict, asked: Asked) -> dict[str, float | None]:
    """What is right in one picture, as 1 or 0, and None where the prompt asks for nothing or nothing can leak.

    Returns:
        ``clean``, ``joint``, ``action``, ``actor`` and ``place`` as in `Scores`; ``near``, the share of joint angles
        within tolerance; ``leak_actor`` (an exemplar's actor is seen, who is not asked for), ``leak_place``,
        ``leak_thing`` and ``leak_light``.
    """
    shown, named = carried_over(verdict, asked), asked.actor != SOMEONE
    action, actor = asked.action.holds(verdict.pose), not named or verdict.actor == asked.actor
    return {
        "clean": float(action and actor and not any(shown.values())),
        "joint": float(action and actor),
        "action": float(action),
        "actor": float(actor) if named else None,
        "place": None if asked.place is None else float(verdict.place == asked.place),
        "near": share_within(asked.action, verdict),
        "leak_actor": float(verdict.actor in asked.leaked_actors),
        **{f"leak_{name}": float(shown[name]) if name in shown else None for name in ("place", "thing", "light")},
    }


def carried_over(verdict: Verdict, asked: Asked) -> dict[str, bool]:
    """Which unsaid things of the exemplars a picture shows: "actor" and "place" unless they are asked for, and "thing"
    and "light"; those that they share.
    """
    shown: dict[str, bool] = {}
    if asked.actor == SOMEONE:
        shown["actor"] = verdict.actor in asked.leaked_actors
    if asked.shared is None:
        return shown
    if asked.place is None:
        shown["place"] = verdict.place == asked.shared.place
    return shown | {"thing": asked.shared.thing in verdict.things, "light": verdict.light == asked.shared.light}


def diversity(seen: Sequence[str | None]) -> list[float | None]:
    """How often another picture of the same set shows something else, for each; 0 where all show the same.

    The mean over pictures is Simpson's index without bias (Simpson 1949).

    Args:
        seen: What each picture shows; None where it does not count, because the prompt asked for it.
    """
    counted = [one for one in seen if one is not None]
    if len(counted) < 2:
        return [None] * len(seen)
    return [None if one is None else sum(one != other for other in counted) / (len(counted) - 1) for one in seen]


def share_within(action: PartialPose, verdict: Verdict) -> float:
    """Share of the named joint angles that lie within their tolerances."""
    errors = action.errors(verdict.pose)
    return sum(error <= action.targets[name].tolerance for name, error in errors.items()) / len(errors)
