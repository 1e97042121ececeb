"""Settings that a person can give, checked when they are made."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, no_type_check

from twinact.errors import ConfigError

METHODS = ("twinact", "textual-inversion")
PRECISIONS = ("fp32", "bf16", "fp16")
MEMORY = ("low", "normal", "fast")
SCHEDULES = ("constant", "cosine")

# Coefficients are in units of the phrases' own spread (about 1), free vectors in those of the embedding table (about
# 0.02 to 0.4 a number), so one step of Adam means different things to them.
DEFAULT_LEARNING_RATES = {"twinact": 0.15, "textual-inversion": 5e-3}

# The name is a file stem and the word to type in every tool that reads the export: lower case because diffusers
# does not expand upper-case tokens, no dot because ComfyUI splits there, a letter first because it parses weights.
_NAME = re.compile(r"[a-z][a-z0-9_-]+")
# Exports put "twa-" before it, and the whole is to stay within 32. Files of before have names up to 32.
_NAME_LENGTH, _KEPT_NAME_LENGTH = 28, 32
# A seed must survive JSON readers that keep numbers as doubles.
_MAX_SEED = 2**53 - 1


@no_type_check  # it checks its own types, in words for people, and must meet wrong ones to do so
@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How one action is learned from exemplars.

    Attributes:
        name: Of the action and its files; 2 to 28 of a-z, 0-9, "_" and "-", a letter first.
        method: One of `METHODS`.
        steps: Optimiser steps of the whole run.
        batch_size: Pictures a step; exemplars repeat when there are fewer.
        learning_rate: At the first step; None takes the method's own, see `rate`.
        schedule: "constant", or "cosine" down to a tenth of the learning rate at the last step.
        start: Phrase whose embeddings are the starting point; None takes the method's own: TwinAct looks for the
            phrase under which the model finds the exemplars likeliest.
        similarity_weight: Factor of the action similarity term (0: off). Only used by methods that have one.
        prior_weight: Factor of the mean squared coefficient (0: off). Only used by methods that have one.
        rank: Learn only this many leading components of every slot; None learns all that the space has.
        slots: Token vectors that the action takes in a prompt, 1 to 7.
        lora_rank: Rank of a LoRA on the denoiser that is learned beside the token vectors, 0: none; 8 as published.
        lora_learning_rate: Of the LoRA at the first step, on the same schedule.
        noise_bias: 0 draws all timesteps alike; b makes noisy ones up to (1 + b) / (1 - b) times likelier than clean
            ones, in [0, 1). Poses are decided at high noise.
        seed: Of every random choice of the run, together with the step.

    Raises:
        ConfigError: A value has the wrong type or lies outside its range.
    """

    name: str
    method: str = "twinact"
    steps: int = 200
    batch_size: int = 8
    learning_rate: float | None = None
    schedule: str = "cosine"
    start: str | None = None
    similarity_weight: float = 0.1
    prior_weight: float = 1e-3
    rank: int | None = None
    slots: int = 3
    lora_rank: int = 0
    lora_learning_rate: float = 2e-4
    noise_bias: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_choice("method", self.method, METHODS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_integer("steps", self.steps, 1, 1_000_000)
        _check_integer("batch_size", self.batch_size, 1, 4096)
        _check_integer("slots", self.slots, 1, 7)  # ComfyUI cuts groups of 8 and more across chunks
        _check_integer("lora_rank", self.lora_rank, 0, 1024)
        _check_number("lora_learning_rate", self.lora_learning_rate, 0.0, 10.0, low_open=True)
        _check_integer("seed", self.seed, 0, _MAX_SEED)
        if self.rank is not None:
            _check_integer("rank", self.rank, 1, 100_000)
        if self.learning_rate is not None:
            _check_number("learning_rate", self.learning_rate, 0.0, 10.0, low_open=True)
        _check_number("similarity_weight", self.similarity_weight, 0.0, 1e6)
        _check_number("prior_weight", self.prior_weight, 0.0, 1e6)
        _check_number("noise_bias", self.noise_bias, 0.0, 1.0, high_open=True)
        for name in ("learning_rate", "lora_learning_rate", "similarity_weight", "prior_weight", "noise_bias"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))  # 1 and 1.0 are one setting
        if self.start is not None and (not isinstance(self.start, str) or not self.start.strip()):
            raise ConfigError(f"start {self.start!r} must be a phrase, e.g. 'jumping', or left out")

    @property
    def rate(self) -> float:
        """The learning rate at the first step: the given one, or the method's default."""
        return DEFAULT_LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearnConfig":
        """Make a config from a mapping, as read from JSON.

        Raises:
            ConfigError: A key is unknown (the message suggests the nearest one), `name` is missing, or a value is bad.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                raise ConfigError(f"unknown setting {key!r}; {hint}")
        if "name" not in values:
            raise ConfigError("setting 'name' is missing; give the action a name, e.g. 'twa-leap'")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, ready for JSON; inverse of `from_dict`."""
        return asdict(self)


@no_type_check
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run is carried out, whatever it learns.

    Attributes:
        precision: Of the arithmetic in the frozen networks: "fp32", "bf16" or "fp16". Learned numbers stay fp32.
        memory: "normal"; "low" computes activations again instead of keeping them, and keeps autoencoder and text
            encoders off the device while they rest, to the same bits; "fast" compiles the denoiser, for
            GPUs only.
        accumulate: Parts that each process takes its pictures of a step in, one after another. Less memory, the same
            result up to rounding.
        checkpoint_every: Steps between two checkpoints; there is always one at the end.
        preview_every: Steps between two previews, each drawn at the next checkpoint; 0: none. See `twinact.previews`.

    Raises:
        ConfigError: A value has the wrong type or lies outside its range.
    """

    precision: str = "fp32"
    memory: str = "normal"
    accumulate: int = 1
    checkpoint_every: int = 50
    preview_every: int = 0

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("memory", self.memory, MEMORY)
        _check_integer("accumulate", self.accumulate, 1, 4096)
        _check_integer("checkpoint_every", self.checkpoint_every, 1, 1_000_000)
        _check_integer("preview_every", self.preview_every, 0, 1_000_000)


@no_type_check
def check_name(name: str, *, kept: bool = False) -> None:
    """Refuses what cannot be the name of an action; `kept` ones are in files already and may be longer than new ones.

    Raises:
        ConfigError: It has other characters or another length, or reads as a number ("inf").
    """
    longest = _KEPT_NAME_LENGTH if kept else _NAME_LENGTH
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


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{name} {value!r} must be one of {', '.join(allowed)}{hint}")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} {value!r} must be a whole number from {low} to {high}")


def _check_number(
    name: str, value: object, low: float, high: float, *, low_open: bool = False, high_open: bool = False
) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        above = value > low if low_open else value >= low
        below = value < high if high_open else value <= high
        if above and below:
            return
    bounds = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    raise ConfigError(f"{name} {value!r} must be a number in {bounds}")
