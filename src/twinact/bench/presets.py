"""How much is run: presets of the benchmark, smallest first.

Sizes of "standard" are made for 24 hours on two cores. A run of 1,400 passes takes 20 to 50 seconds of one core, its
pictures and their judging included; 40 are reckoned with. So tuning takes 20 methods × 56 runs, 12 hours of one core,
and the search for the best number of passes 5; the test takes 11 for 48 actions at equal passes, 5 at the best number,
10 for the other tasks, and 5 for two further seeds of the five that lead: the 48 hours that two cores have in a day.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from twinact.bench.contestants import CONTESTANTS, REFERENCE
from twinact.bench.world import WORDS

MAIN = "unsaid"
"""The task on which settings are chosen and leaders found."""
_ALL = tuple(CONTESTANTS)
_JUDGED = tuple(name for name, one in CONTESTANTS.items() if one.judged)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of a benchmark.

    Attributes:
        contestants: Keys of `CONTESTANTS`.
        tasks: Key of `TASKS` → how many actions.
        dev: Whether the actions are those that settings are chosen on, and no test.
        pictures: Of each action, with another actor each.
        sampler_steps: Of every picture.
        passes: Pictures that the denoiser may see while a method learns, those with a gradient counted three times.
        factors: Times `passes` that are tried to find a method's own best number.
        trials: Settings that are tried of each method.
        rounds: Dev actions that trials have seen after each halving.
        own_actions: Actions on which methods run at their own best number of passes.
        leaders, seeds: How many methods run with how many seeds of learning; the others run with one.
    """

    contestants: tuple[str, ...] = _ALL
    tasks: Mapping[str, int]
    dev: bool = False
    pictures: int
    sampler_steps: int = 9
    passes: int
    factors: tuple[float, ...]
    trials: int = 12
    rounds: tuple[int, ...]
    own_actions: int
    leaders: int = 5
    seeds: int = 3

    def to_dict(self) -> dict[str, Any]:
        """All sizes, ready for JSON."""
        return {**asdict(self), "tasks": dict(self.tasks)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preset":
        """Inverse of `to_dict`, after JSON has made lists of tuples."""
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**given)


_OTHER_TASKS = ("said", "unsaid-1", "unsaid-3", "unsaid-10", "someone", "empty")

PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        contestants=(
            *WORDS,
            "seen phrase",
            "twinact-instant",
            REFERENCE,
            "textual-inversion",
            "textual-inversion-seen",
            "pivotal-tuning",
            *_JUDGED,
        ),
        tasks={MAIN: 2, "someone": 1, "photographs": 1},
        dev=True,
        pictures=3,
        passes=720,
        factors=(0.75, 1.0),
        trials=2,
        rounds=(1,),
        own_actions=1,
        leaders=1,
        seeds=2,
    ),
    "dev": Preset(
        tasks={MAIN: 16},
        dev=True,
        pictures=10,
        passes=1400,
        factors=(0.25, 0.5, 1.0, 2.0, 4.0),
        rounds=(2, 4, 8, 16),
        own_actions=16,
        leaders=0,
        seeds=1,
    ),
    "standard": Preset(
        tasks={MAIN: 48, **dict.fromkeys(_OTHER_TASKS, 6), "photographs": 6},
        pictures=5,
        passes=1400,
        factors=(0.25, 0.5, 1.0, 2.0, 4.0),
        rounds=(2, 4, 8, 12),
        own_actions=10,
    ),
    "full": Preset(
        tasks={MAIN: 48, **dict.fromkeys(_OTHER_TASKS, 48), "photographs": 13},
        pictures=10,
        passes=1400,
        factors=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        rounds=(2, 4, 8, 16),
        own_actions=48,
        leaders=len(_ALL),
    ),
}
"""All presets by name. `dev` is for improving a method: the test actions stay unseen."""
