"""Headers with a whole checksum and wrong types, flipped bits, and tensors of other shapes: one line, never a crash."""

import contextlib
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from twinact.action import Action
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.export.hub import Offer, card
from twinact.export.target import SD, Base
from twinact.report.explanation import action_facts, facts_in_words
from twinact.space import ActionSpace
from twinact.space.action_space import FORMAT_VERSION
from twinact.storage import misfit, read_safetensors, write_safetensors

OTHERS: tuple[Any, ...] = (
    None, True, 3, -1, 2.5, 10**400, "x", "", [], [1], ["x"], [None], [[1]], {}, {"a": 1}, {"seed": "x"},
)  # fmt: skip


def action_file(space: ActionSpace, path: Path) -> Path:
    meta = {
        "history": [{"from": "leap"}],
        "config": {"seed": 1, "steps": 2},
        "precision": "fp32",
        "versions": {"torch": "2"},
        "captions": ["a cat <act>"],
        "exemplars": ["0"],
        "imported": "x",
        "pose": {"directions": [[0.0, 1.0]], "weights": [1.0], "disagreeing": ["head"], "unseen": ["feet"]},
    }
    mask = torch.tensor([True] * (space.slots - 1) + [False])
    return Action.from_coefficients("leap", space, space.phrase_coefficients[1], mask=mask, meta=meta).save(path)


def use_action(path: Path, space: ActionSpace) -> None:
    """What commands do with one."""
    action = Action.load(path)
    action.check(model_id=space.model_id)
    if action.coefficients is not None and action.space_hash == space.hash:
        action.adjusted(space, (0, 0), 1.0, "other")
        action.explain(space)
        list(facts_in_words(action_facts(action, space, 3)))
    card(Offer(action=action, space=None, base=Base(SD, "sd"), pictures=(), exemplar_licence="mine"), "a/b", ())


def use_space(path: Path, space: ActionSpace) -> None:
    loaded = ActionSpace.load(path)
    assert isinstance(loaded.hash, str)
    loaded.nearest(loaded.phrase_coefficients[0])
    loaded.explained_variance(0)


@pytest.mark.parametrize("kind", ["action", "space"])
def test_headers_of_other_types_are_refused(kind: str, space: ActionSpace, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = action_file(space, path) if kind == "action" else space.save(path)
    use: Callable[[Path, ActionSpace], None] = use_action if kind == "action" else use_space
    use(whole, space)
    tensors, header = read_safetensors(whole, kind, FORMAT_VERSION)
    places: list[tuple[str, ...]] = [(key,) for key in header if key not in ("kind", "version")]
    places += [("meta", key) for key in header.get("meta", {})]
    places += [("meta", "pose", key) for key in header.get("meta", {}).get("pose", {})]
    for place in places:
        for other in OTHERS:
            changed = deepcopy(header)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = other
            write_safetensors(path, tensors, changed)
            with contextlib.suppress(CheckpointError, ConfigError, DataError):
                use(path, space)
        missing = {key: value for key, value in header.items() if (key,) != place}
        write_safetensors(path, tensors, missing)
        if len(place) == 1:
            with pytest.raises(CheckpointError, match=f"'{place[0]}' is missing in its header"):
                use(path, space)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["action", "space"])
def test_tensors_of_other_shapes_are_refused(kind: str, space: ActionSpace, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = action_file(space, path) if kind == "action" else space.save(path)
    tensors, header = read_safetensors(whole, kind, FORMAT_VERSION)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.flatten(), lambda t: t[None], lambda t: t[:0], lambda t: t.reshape(-1)[0], lambda t: t.int(),
        lambda t: t.float() * torch.nan,
    ]  # fmt: skip
    for name in tensors:
        for change in changes:
            write_safetensors(path, {**tensors, name: change(tensors[name])}, header)
            with contextlib.suppress(CheckpointError, ConfigError, DataError):
                (use_action if kind == "action" else use_space)(path, space)
        write_safetensors(path, {n: t for n, t in tensors.items() if n != name}, header)
        with pytest.raises((CheckpointError, ConfigError)):
            (use_action if kind == "action" else use_space)(path, space)


@pytest.mark.parametrize("kind", ["action", "space"])
def test_every_flipped_bit_is_found(kind: str, space: ActionSpace, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    content = (action_file(space, path) if kind == "action" else space.save(path)).read_bytes()
    rng = random.Random(7)
    for _ in range(50):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError) as caught:
            (use_action if kind == "action" else use_space)(path, space)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "content", "told"),
    [
        ({"a": int}, {}, "'a' is missing"),
        ({"a": int}, {"a": True}, "'a' is True, expected int"),
        ({"a": float}, {"a": 1}, None),
        ({"a": str | None}, {}, None),
        ({"a": list[str]}, {"a": ["x", 1]}, "'a' is ['x', 1], expected list[str]"),
        ({"a": dict[str, float]}, {"a": {"x": "1"}}, "'a' is {'x': '1'}, expected dict[str, float]"),
        ({"a": {"b": int}}, {"a": {"b": "x"}}, "in 'a', 'b' is 'x', expected int"),
        ({"a": {"b": int}}, {"a": 3}, "'a' is 3, expected an object"),
        ({"a": (None, {"b": int})}, {"a": {"b": "x"}}, "'a' is {'b': 'x'}, expected None or an object"),
        ({"a": (None, {"b": int})}, {}, None),
    ],
)
def test_a_schema_says_what_does_not_fit(schema: dict[str, Any], content: dict[str, Any], told: str | None) -> None:
    assert misfit(content, schema) == told


def test_a_file_that_never_ends_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.action.safetensors"
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a regular file"):
        Action.load(path)
