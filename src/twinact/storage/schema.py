"""Says whether what was read from JSON has the types that code relies on, once, where it is read."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

Schema = Mapping[str, Any]
"""Key → type: str, int, float, bool, None, list[...], dict[str, ...], a union of these, another schema, or a tuple of
such of which one must fit. A key whose type may be None may be left out."""


def misfit(content: Mapping[str, Any], schema: Schema) -> str | None:
    """What is wrong with the types in a JSON object, in words; None when nothing is. Other keys are left alone."""
    for key, kind in schema.items():
        if key not in content and not _fits(None, kind):
            return f"{key!r} is missing"
        value = content.get(key)
        if isinstance(kind, Mapping) and isinstance(value, Mapping):
            inner = misfit(value, kind)
            if inner is not None:
                return f"in {key!r}, {inner}"
        elif not _fits(value, kind):
            return f"{key!r} is {repr(value)[:40]}, expected {_name(kind)}"
    return None


def _fits(value: object, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, Mapping):
        return isinstance(value, Mapping) and misfit(value, kind) is None
    if isinstance(kind, (UnionType, tuple)):
        return any(_fits(value, one) for one in (args if isinstance(kind, UnionType) else kind))
    if origin is list:
        return isinstance(value, list) and all(_fits(one, args[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, args[1]) for one in value.values())
    if kind is None or kind is NoneType:
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def _name(kind: Any) -> str:
    if isinstance(kind, tuple):
        return " or ".join(map(_name, kind))
    if isinstance(kind, Mapping):
        return "an object"
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)
