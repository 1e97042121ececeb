"""What the settings of every method have in common.

The classes of settings are not in `twinact.methods` because the command line offers them, and its help must not wait
for torch.
"""

from dataclasses import dataclass
from typing import ClassVar

from twinact.configs.settings import Settings, Tuned


@dataclass(frozen=True, kw_only=True)
class MethodConfig(Settings):
    """The settings of one method.

    Attributes:
        name: The word for it in settings and on the command line.
        title: What reports call it.
        implementation: ``module:class``; see `twinact.methods.method.Method`.
        learning_rate: At the first step, if the run's settings name none. Coefficients are in units of the phrases'
            own spread (about 1), free vectors in those of the embedding table (about 0.02 to 0.4 a number), so one
            step of Adam means different things to them.
        takes_space: Whether it learns in an action space.
        seeks_start: Whether it begins, if the run's settings name no start, at the phrase that suits the exemplars.
        takes_lora: Whether a LoRA can be learned beside it, by `lora_rank`.
        takes_pose: Whether it uses the pose in the exemplars, where the model says early which pose it means.
        tuned: What the benchmark may try of its settings; it also tries learning rates about its own, where these are
            not named here, batches and noise, of all methods alike (`twinact.bench.tuning`).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    implementation: ClassVar[str]
    learning_rate: ClassVar[float]
    takes_space: ClassVar[bool] = False
    seeks_start: ClassVar[bool] = False
    takes_lora: ClassVar[bool] = True
    takes_pose: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7)}

    @property
    def rate(self) -> float:
        """The learning rate at the first step, if the run's settings name none."""
        return self.learning_rate

    def settled(self, has_pose: bool) -> "MethodConfig":
        """The settings with everything decided that depends on whether the exemplars' pose can be learned from."""
        return self

    @property
    def denoises(self) -> bool:
        """Whether settled settings learn from the pictures, and not from the limbs that they show alone."""
        return True

    def most_vectors(self, slots: int) -> int:
        """The most token vectors that the action may take in a prompt."""
        return slots
