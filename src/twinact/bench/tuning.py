"""Draws the settings that are tried of each method: equally many of each, the usual ones among them."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from twinact.bench.contestants import settings_of
from twinact.configs.rivals import PivotalTuningConfig
from twinact.configs.settings import Span, Tuned

# Of the method's own rate, to both sides.
_RATE = 5.0
_SHARED: Tuned = {"batch_size": (1, 2, 4, 8), "noise_bias": (0.0, 0.5, 0.8)}
"""What is tried of all methods alike, with learning rates up to five times as large or small as the method's own unless
its settings name others. At a number of passes that is given, a smaller batch means more steps."""


@dataclass(frozen=True)
class Chosen:
    """What tuning has found for a method.

    Attributes:
        settings: Beside the contestant's own.
        factor: Times the passes of all, at which it does best; where several do, the fewest.
    """

    settings: Mapping[str, Any]
    factor: float


def ranges_of(name: str) -> Tuned:
    """What may be tried of a contestant's settings."""
    config = settings_of(name, {})
    method = config.method
    rate = method.settled(has_pose=True).rate
    own: Tuned = {"learning_rate": _about(rate), **_SHARED, **method.tuned}
    with_lora = config.lora_rank > 0 or isinstance(method, PivotalTuningConfig)
    return {**own, "lora_learning_rate": _about(config.lora_learning_rate)} if with_lora else own


def _about(rate: float) -> Span:
    return Span(rate / _RATE, rate * _RATE)


def trials_of(name: str, count: int) -> list[dict[str, Any]]:
    """Settings to try of a contestant, always the same: none at first, which is the method as it comes.

    Args:
        name: Key of `CONTESTANTS`.
        count: How many.
    """
    digest = hashlib.sha256(name.encode()).digest()
    rng, ranges = np.random.default_rng(list(digest)), ranges_of(name)
    trials: list[dict[str, Any]] = [{}]
    while len(trials) < count:
        trials.append({key: _drawn(values, rng) for key, values in ranges.items()})
    return trials[:count]


def _drawn(values: Span | tuple[Any, ...], rng: np.random.Generator) -> Any:
    if isinstance(values, Span):
        value = math.exp(rng.uniform(math.log(values.low), math.log(values.high)))
        return float(f"{value:.3g}")
    return values[int(rng.integers(len(values)))]
