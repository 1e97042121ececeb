"""The contracts of the benchmark: what a task and a metric are, whatever world they come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

Row = Mapping[str, float | None]
"""The numbers of one picture by name, in [0, 1] where they are verdicts; None where a picture cannot have one."""


@dataclass(frozen=True)
class Request:
    """One picture to draw.

    Attributes:
        prompt: With the placeholder where the action goes.
        seed: Seed of the picture, the same for every method.
        wanted: What the picture should show, in terms that the metrics of the task understand.
    """

    prompt: str
    seed: int
    wanted: Any


@dataclass(frozen=True, eq=False)
class Task:
    """One action to learn and to draw.

    Attributes:
        name: Usable as a file name.
        kind: Of the action; a report sums up actions of a kind.
        write_exemplars: Writes pictures and captions into a folder, in a size.
        requests: What is drawn by every method.
        words: Name of a method that learns nothing → its prompts, one for each request.
        unsaid: What the exemplars show and neither their captions nor the prompts name: this may leak.
        drawings: Name → what draws, in a size, a picture for each request without a model: true pictures, and wrong
            ones, by which the metrics themselves are measured.
    """

    name: str
    kind: str
    write_exemplars: Callable[[Path, int], None]
    requests: tuple[Request, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unsaid: tuple[str, ...] = ()
    drawings: Mapping[str, Callable[[int], list[Image.Image]]] = field(default_factory=dict)


@runtime_checkable
class Metric(Protocol):
    """Measures pictures against what was asked for."""

    def measure(self, pictures: Sequence[Image.Image], task: Task) -> list[Row]:
        """A row for each picture, with the same names in every row of tasks of one kind.

        `twinact.bench.summary` asks for these: ``clean`` (right, and nothing unsaid of the exemplars), ``near`` (how
        near to right), and ``leak_...`` (something unsaid of the exemplars is seen, where the prompt leaves it open).

        Args:
            pictures: One for each of the task's requests, in their order.
            task: What was asked for.
        """
        ...
