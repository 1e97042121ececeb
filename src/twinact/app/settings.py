"""All settings of ``twinact learn`` as rows of a table, by their names on the command line, and back."""

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from twinact.configs import METHODS, LearnConfig, RunConfig
from twinact.configs.settings import kind
from twinact.errors import ConfigError

Row = list[str]
"""Setting, value and what it is."""


def rows(shown: Sequence[str] = ()) -> list[Row]:
    """A row for every setting, with an empty value where leaving it out has a meaning of its own.

    Args:
        shown: Settings that the page shows elsewhere.
    """
    method = next(iter(METHODS))
    table = [["method", method, f"How it is learned. One of {', '.join(METHODS)}."]]
    for name, one in _known().items():
        if name not in shown:
            empty = one.default in (None, MISSING) or bool(one.metadata["unset"])
            table.append([name, "" if empty else f"{one.default}", _help(one)])
    return table


def given(table: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The settings in a table that differ from their defaults.

    Raises:
        ConfigError: A value has another type than its setting.
    """
    known, plain = _known(), {name: value for name, value, _ in rows()}
    found: dict[str, Any] = {}
    for name, value, *_ in table:
        text = str(value).strip()
        if text in ("", plain.get(name, "")):
            continue
        try:
            found[name] = kind(known[name])(text) if name in known else text
        except ValueError:
            what = "a whole number" if kind(known[name]) is int else "a number"
            raise ConfigError(f"{name} {text!r} must be {what}") from None
    return found


def _known() -> dict[str, "Field[Any]"]:
    """Settings by name: of learning, of all methods, of running."""
    found: dict[str, Field[Any]] = {}
    for one in (*fields(LearnConfig), *(each for method in METHODS.values() for each in fields(method))):
        if one.metadata:
            found.setdefault(one.name, one)
    return {**found, **{one.name: one for one in fields(RunConfig)}}


def _help(one: "Field[Any]") -> str:
    facts = one.metadata
    allowed = f" One of {', '.join(facts['choices'])}." if facts["choices"] else ""
    unset = f" If empty: {facts['unset']}." if facts["unset"] else ""
    return f"{facts['help']}{allowed}{unset}"
