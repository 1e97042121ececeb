"""The registry of methods: the name of each, its settings, and what it is given to learn with.

A method is one file in `twinact.methods`, and one class with its settings: TwinAct's are here, the others' in
`twinact.configs.rivals`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from twinact.configs.method import MethodConfig
from twinact.configs.rivals import RIVALS
from twinact.configs.settings import Bounds, Span, Tuned, setting

READERS = ("auto", "keypoints", "blazepose", "vitpose", "own")
"""Who may read the pose in exemplars: keypoint files beside the pictures, BlazePose or ViTPose in photographs of
people, or the model's own reader in what it draws; "auto" takes keypoint files where there are some, else the surest of
the others. See `twinact.readers.choice`.
"""
CLAUSE_MARK = ";"
"""Between the phrases of a start that has several clauses."""


@dataclass(frozen=True, kw_only=True)
class TwinActConfig(MethodConfig):
    """TwinAct: coefficients in the action space, learned from the exemplars' limb directions or by denoising them."""

    name: ClassVar[str] = "twinact"
    title: ClassVar[str] = "TwinAct"
    implementation: ClassVar[str] = "twinact.methods.twinact:TwinAct"
    learning_rate: ClassVar[float] = 0.05
    denoising_rate: ClassVar[float] = 0.15
    takes_space: ClassVar[bool] = True
    seeks_start: ClassVar[bool] = True
    takes_pose: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {
        "clauses": (1, 2, 3),
        "prompts_per_step": (1, 2, 4),
        "prior_weight": Span(1e-4, 1e-2),
        "rank": (None, 16, 64),
    }

    pose_weight: float | None = setting(
        "Weight of the distance between the exemplars' limbs and those that the model means for other actors.",
        None,
        bounds=Bounds(0, 1e6),
        unset="1, or 0 for a model that shows no pose early or exemplars in which none is seen",
    )
    denoising_weight: float | None = setting(
        "Weight of the denoising loss on the exemplars, which also passes what captions leave unsaid.",
        None,
        bounds=Bounds(0, 1e6),
        unset="0 beside the pose, else 1",
    )
    similarity_weight: float = setting(
        "Weight of the similarity of denoised exemplars to one another, as the model's own pose reader sees them.",
        0.0,
        bounds=Bounds(0, 1e6),
    )
    prior_weight: float = setting(
        "Weight of the mean squared coefficient; 0 turns it off.", 1e-4, bounds=Bounds(0, 1e6)
    )
    rank: int | None = setting(
        "Number of leading components of every slot that are learned.", None, bounds=Bounds(1, 100_000), unset="all"
    )
    clauses: int = setting('The most phrases that the start joins with "and".', 3, bounds=Bounds(1, 4))
    prompts_per_step: int = setting("Prompts with other actors in a step.", 2, bounds=Bounds(1, 4096))
    reader: str = setting("Who reads the pose in the exemplars.", READERS[0], choices=READERS)
    person: int = setting(
        "Whose pose is read where there are several people, by size from 1.", 1, bounds=Bounds(1, 1000)
    )

    @property
    def rate(self) -> float:
        return self.learning_rate if self.pose_weight else self.denoising_rate

    def settled(self, has_pose: bool) -> "TwinActConfig":
        pose = float(has_pose) if self.pose_weight is None else self.pose_weight
        denoising = float(not pose) if self.denoising_weight is None else self.denoising_weight
        return replace(self, pose_weight=pose, denoising_weight=denoising)

    @property
    def denoises(self) -> bool:
        return bool(self.denoising_weight or self.similarity_weight)

    def most_vectors(self, slots: int) -> int:
        return self.clauses * (slots + 1) - 1


@dataclass(frozen=True, kw_only=True)
class PublishedTwinActConfig(MethodConfig):
    """TwinAct as its authors' code has it, without its similarity term."""

    name: ClassVar[str] = "twinact-published"
    title: ClassVar[str] = "TwinAct (published code)"
    implementation: ClassVar[str] = "twinact.methods.twinact_published:PublishedTwinAct"
    learning_rate: ClassVar[float] = 2e-4
    takes_space: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"learning_rate": Span(2e-4, 2e-2), "components": (64, 256, 512)}

    components: int = setting(
        "Leading components of every slot, or as many as the space has.", 512, bounds=Bounds(1, 100_000)
    )


_ALL: tuple[type[MethodConfig], ...] = (TwinActConfig, *RIVALS, PublishedTwinActConfig)
METHODS = {one.name: one for one in _ALL}
"""All methods by name; the first one is the default."""
