"""Settings that a person can give; they are checked when they are made. Nothing here imports torch."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, no_type_check

from twinact import PLACEHOLDER
from twinact.configs.method import MethodConfig
from twinact.configs.methods import CLAUSE_MARK, METHODS, PublishedTwinActConfig, TwinActConfig
from twinact.configs.rivals import (
    ADIConfig,
    CelebBasisConfig,
    ConceptPrismConfig,
    CoReConfig,
    CrossInitializationConfig,
    CustomDiffusionConfig,
    DirectionalConfig,
    DreamBoothConfig,
    GradientFreeConfig,
    NeTIConfig,
    PivotalTuningConfig,
    ReVersionConfig,
    TARAConfig,
    TextualInversionConfig,
    XTIConfig,
)
from twinact.configs.settings import Bounds, Settings, check_choice, check_number, check_text, setting, unknown_setting
from twinact.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4")
"""Of the weights; int8 and nf4 compute in bf16."""
MEMORY = ("low", "normal", "fast")
BUDGETS = ("8", "12", "16", "24")
"""GiB of a GPU that a run may take: further values of the memory setting, from which precision and preset follow."""
SCHEDULES = ("constant", "cosine")
LORA_LAYERS = ("attention", "convolutions")
ORDERINGS = ("variance", "outside", "contrast")
"""Of a space's components: by the phrases' variance; by that outside of the directions of words that are no actions; by
its ratio to what these vary there."""
NOBODY = "someone"
"""The actor of captions that name none."""
EARLY_STEPS = Bounds(1, 25)
"""After how many steps of a drawing in 25 a pose may be read."""
TRACKERS = ("none", "tensorboard", "wandb")
"""Programs that show the numbers of a run."""
AMOUNTS = Bounds(-100, 100)
"""Of steps, shares and weights that move an action; phrases lie within about 10 of each other."""
STRENGTHS = Bounds(-10, 10)
"""Of a LoRA."""
GUIDANCES = Bounds(0, 100)
"""Of guidance; 1 or less turns classifier-free guidance off."""
MAX_PICTURES = 10_000
"""That one command draws of a prompt."""
MAX_STEPS = 1_000_000
"""Of a run."""
REFINE_STEPS = 60
"""In which an action is refined, if nothing is said."""
MAX_SEED = 2**53 - 1
"""A seed must survive JSON readers that keep numbers as doubles."""

# The name is a file stem and the word to type in every tool that reads the export: lower case because diffusers
# does not expand upper-case tokens, no dot because ComfyUI splits there, a letter first because it parses weights.
_NAME = re.compile(r"[a-z][a-z0-9_-]+")
# Exports put "twa-" before it, and the whole is to stay within 32. Older files have names of up to 32.
_NAME_LENGTH, _STORED_NAME_LENGTH = 28, 32


@no_type_check  # it must meet values of wrong types to name them
@dataclass(frozen=True, kw_only=True)
class LearnConfig(Settings):
    """How one action is learned from exemplars.

    Raises:
        ConfigError: A value has the wrong type or lies outside its range.
    """

    name: str = setting("Name of the action and its files.", unset="the folder's name")
    method: MethodConfig = field(default_factory=next(iter(METHODS.values())))
    steps: int = setting(
        "Optimiser steps of the whole run; 0 keeps the start as it is.", 160, bounds=Bounds(0, MAX_STEPS)
    )
    batch_size: int = setting("Pictures in a step; exemplars repeat when there are fewer.", 8, bounds=Bounds(1, 4096))
    learning_rate: float | None = setting(
        "Learning rate at the first step.", None, bounds=Bounds(0, 10, low_open=True), unset="the method's own"
    )
    schedule: str = setting("How the learning rate changes; cosine ends at a tenth of it.", "cosine", choices=SCHEDULES)
    start: str | None = setting("Phrase to start from, or several with ';' between.", None, unset="the method's own")
    # ComfyUI cuts groups of 8 and more vectors across its chunks.
    slots: int = setting("Token vectors that the action takes in a prompt.", 3, bounds=Bounds(1, 7))
    lora_rank: int = setting(
        "Rank of a LoRA that is learned beside the token vectors; 0 learns none, 8 is usual.",
        0,
        bounds=Bounds(0, 1024),
    )
    # Attention decides what is where, poses among it; the finest convolutions decide how it looks.
    lora_layers: str = setting(
        "What the LoRA of --lora-rank adapts: attention, or the convolutions of a UNet at its finest resolution, "
        "which learn how someone looks and leave poses alone.",
        "attention",
        choices=LORA_LAYERS,
    )
    lora_learning_rate: float = setting(
        "Learning rate of the LoRA at the first step.", 2e-4, bounds=Bounds(0, 10, low_open=True)
    )
    # Poses are decided at high noise, looks at low noise.
    noise_bias: float = setting(
        "Preference b for noisy timesteps: the noisiest are (1 + b) / (1 - b) times as likely as the cleanest; below 0 "
        "for clean ones.",
        0.5,
        bounds=Bounds(-1, 1, low_open=True, high_open=True),
    )
    actor: str = setting("Who is seen in pictures without a caption, as in 'a woman'.", NOBODY)
    seed: int = setting("Seed of every random choice.", 0, bounds=Bounds(0, MAX_SEED))

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.method, MethodConfig):
            raise ConfigError(f"method {self.method!r} must be the settings of a method, such as TwinActConfig()")
        super().__post_init__()
        if self.lora_layers != LORA_LAYERS[0] and not self.lora_rank:
            raise ConfigError(f"lora_layers {self.lora_layers!r} needs a LoRA: set lora_rank to 1 or more")
        if PLACEHOLDER in self.actor:
            raise ConfigError(f"actor {self.actor!r} holds {PLACEHOLDER}, which follows by itself; e.g. 'a woman'")

    @property
    def rate(self) -> float:
        """The learning rate at the first step: the given one, or the method's own."""
        return self.method.rate if self.learning_rate is None else self.learning_rate

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearnConfig":
        """The config of flat settings, those of the method among them, as the command line and files have them.

        Args:
            values: "name", "method" by its name if it is not the default, and any other settings.

        Raises:
            ConfigError: A key is unknown (the message suggests the nearest one) or belongs to another method, `name`
                is missing, or a value is bad.
        """
        name = values.get("method", next(iter(METHODS)))
        check_choice("method", name, METHODS)
        method = METHODS[name]
        shared, own = ([one.name for one in fields(each)] for each in (cls, method))
        for key in values.keys() - {*shared, *own}:
            owners = [other.name for other in METHODS.values() if key in {one.name for one in fields(other)}]
            if owners:
                raise ConfigError(f"setting {key!r} is of method {', '.join(owners)} and not of {name}; leave it out")
            raise unknown_setting(key, [*shared, *own])
        if "name" not in values:
            raise ConfigError("setting 'name' is missing; give the action a name, e.g. 'leap'")
        settings = method(**{key: value for key, value in values.items() if key in own})
        rest = {key: value for key, value in values.items() if key in shared and key != "method"}
        return cls(**rest, method=settings)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, those of the method among them, ready for JSON; inverse of `from_dict`."""
        return {**asdict(self), "method": self.method.name, **asdict(self.method)}


@no_type_check
@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """How a run is carried out, whatever it learns.

    Raises:
        ConfigError: A value has the wrong type or lies outside its range.
    """

    precision: str = setting(
        "Precision of the frozen networks; learned numbers stay fp32.",
        "fp32",
        choices=PRECISIONS,
        unset="what suits the machine",
    )
    memory: str = setting(
        "Low takes less memory and more time, to the same bits; fast compiles the denoiser, for GPUs only; a number is "
        "the GiB that may be taken.",
        "normal",
        choices=(*MEMORY, *BUDGETS),
        unset="what suits the machine",
    )
    accumulate: int = setting(
        "Parts in which each process takes its pictures of a step: less memory, the same result up to rounding.",
        1,
        bounds=Bounds(1, 4096),
        unset="as many as memory asks for",
    )
    checkpoint_every: int = setting(
        "Steps between two checkpoints; there is always one at the end.", 50, bounds=Bounds(1, 1_000_000)
    )
    preview_every: int = setting(
        "Steps between two previews; the first is before step 1, the last at the end; 0 draws none.",
        0,
        bounds=Bounds(0, 1_000_000),
        unset="a quarter of all steps",
    )
    tracker: str = setting("Program that shows the numbers of the run.", "none", choices=TRACKERS)


@no_type_check
def check_name(name: str, *, stored: bool = False) -> None:
    """Refuses what cannot be the name of an action; one `stored` in a file may be longer than new ones.

    Raises:
        ConfigError: It has other characters or another length, or reads as a number ("inf").
    """
    longest = _STORED_NAME_LENGTH if stored else _NAME_LENGTH
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > longest or _is_number(name):
        raise ConfigError(
            f"name {name!r} must be 2 to {longest} of a-z, 0-9, '_', '-', start with a letter and not read as a "
            "number, e.g. 'leap'"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


__all__ = [
    "AMOUNTS",
    "BUDGETS",
    "CLAUSE_MARK",
    "GUIDANCES",
    "MAX_PICTURES",
    "MEMORY",
    "METHODS",
    "NOBODY",
    "PRECISIONS",
    "SCHEDULES",
    "STRENGTHS",
    "TRACKERS",
    "ADIConfig",
    "CelebBasisConfig",
    "CustomDiffusionConfig",
    "DreamBoothConfig",
    "GradientFreeConfig",
    "PivotalTuningConfig",
    "PublishedTwinActConfig",
    "CoReConfig",
    "ConceptPrismConfig",
    "CrossInitializationConfig",
    "DirectionalConfig",
    "LearnConfig",
    "MethodConfig",
    "NeTIConfig",
    "ReVersionConfig",
    "RunConfig",
    "TARAConfig",
    "TextualInversionConfig",
    "TwinActConfig",
    "XTIConfig",
    "check_name",
    "check_number",
    "check_text",
]
