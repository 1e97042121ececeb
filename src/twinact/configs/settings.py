"""A setting has its name, type, range, default and help in one place, for Python, the command line and files alike.

A frozen dataclass derived from `Settings` declares its fields with `setting`; they are checked when it is made.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Any, get_args, no_type_check

from twinact.errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may take; an open end excludes its bound."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def __str__(self) -> str:
        return f"{'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"

    def hold(self, value: float) -> bool:
        """Whether a number lies within them."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below


@dataclass(frozen=True)
class Span:
    """Values that a search for settings draws from, any between the ends, their logarithms evenly."""

    low: float
    high: float


Tuned = Mapping[str, "Span | tuple[Any, ...]"]
"""Setting → what a search for settings may try: a span, or one of some values."""


def setting(
    help: str,
    default: Any = MISSING,
    *,
    bounds: Bounds | None = None,
    choices: tuple[str, ...] = (),
    unset: str = "",
) -> Any:
    """A field of a `Settings` dataclass.

    Args:
        help: What it is, in one sentence for the command line; without the default.
        default: None where leaving it out has a meaning of its own. Without one the field must be given.
        bounds: Bounds of a number.
        choices: All words that it may be.
        unset: What happens on the command line when it is not given there, where that is not the default.
    """
    return field(default=default, metadata={"help": help, "bounds": bounds, "choices": choices, "unset": unset})


def kind(one: "Field[Any]") -> type:
    """The type of a setting, None left out: int, float or str."""
    kinds = [known for known in (*get_args(one.type), one.type) if known in (int, float, str)]
    return kinds[0]


@no_type_check  # it must meet values of wrong types to name them
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that check themselves.

    Raises:
        ConfigError: A value has the wrong type or lies outside its range.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            if not one.metadata:
                continue  # a part with settings of its own
            value = getattr(self, one.name)
            if value is None and NoneType in get_args(one.type):
                continue
            _check(one, value)
            if kind(one) is float:
                object.__setattr__(self, one.name, float(value))  # 1 and 1.0 are one setting


def unknown_setting(key: object, known: Iterable[str]) -> ConfigError:
    """The error for a setting that does not exist; it suggests the nearest one."""
    known = list(known)
    close = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return ConfigError(f"unknown setting {key!r}; {hint}")


@no_type_check
def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuses a word that is none of the allowed ones.

    Raises:
        ConfigError: The message suggests the nearest one.
    """
    allowed = tuple(allowed)
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{name} {value!r} must be one of {', '.join(allowed)}{hint}")


@no_type_check
def check_number(name: str, value: object, bounds: Bounds) -> None:
    """Refuses what is no finite number, or lies outside its bounds.

    Raises:
        ConfigError: The message states the bounds.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and bounds.hold(value)):
        raise ConfigError(f"{name} {value!r} must be a number in {bounds}")


def check_text(name: str, text: str) -> None:
    """Refuses text that no file can hold, as a terminal passes on bytes that are no UTF-8.

    Raises:
        ConfigError: It has half a character.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"{name} {text!r} has half a character; write it anew, in UTF-8")


def _check(one: "Field[Any]", value: object) -> None:
    facts: Mapping[str, Any] = one.metadata
    if facts["choices"]:
        check_choice(one.name, value, facts["choices"])
    elif kind(one) is int:
        bounds = facts["bounds"]
        if isinstance(value, bool) or not isinstance(value, int) or not bounds.hold(value):
            raise ConfigError(f"{one.name} {value!r} must be a whole number from {bounds.low} to {bounds.high}")
    elif kind(one) is float:
        check_number(one.name, value, facts["bounds"])
    elif not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{one.name} {value!r} must be a phrase, e.g. 'jumping', or left out")
    else:
        check_text(one.name, value)
