"""What a file or folder is and holds, as data and in words: spaces, actions, runs, models, pictures, exports."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twinact.action import Action
from twinact.backbones import family, model_id, parameters
from twinact.data.folder import PICTURE_SUFFIXES
from twinact.errors import DataError
from twinact.export.embeddings import bundled, read_tensors
from twinact.export.kinds import BUNDLE, is_lora, other_adapter
from twinact.export.personal import open_picture, personal
from twinact.report.explanation import action_facts, facts_in_words
from twinact.runs.folder import MARKER, RunFolder, settings_of
from twinact.space import ActionSpace
from twinact.space.build import space_beside
from twinact.storage import read_safetensors, stored_kind

_PHRASES = 5
_SHOWN = 12  # tensors that are named for a person
_NEWEST = 1_000_000  # format version: checkpoints are only named here, whatever theirs is


def inspect(path: Path) -> dict[str, Any]:
    """All that a file or folder says about itself, as JSON with a "kind".

    Args:
        path: A file in safetensors, a picture, a run folder, or the folder of a model.

    Raises:
        DataError: It is not there, or something else.
        TwinactError: It is damaged.
    """
    if not path.exists():
        raise DataError(f"'{path}' does not exist; give a file or folder that does")
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _picture(path)
    kind = stored_kind(path)
    if kind is None:
        return _foreign(path)
    if kind == "action":
        action = Action.load(path)
        file = space_beside(path, action.space_hash)
        space = None if file is None else ActionSpace.load(file)
        return {"kind": kind, **action_facts(action, space, _PHRASES), "about people": personal(path)}
    if kind == "space":
        space = ActionSpace.load(path)
        return {
            "kind": kind,
            "model": space.model_id,
            "hash": space.hash,
            "phrases": len(space.phrases),
            "slots": space.slots,
            "rank": space.rank,
            "poses": space.poses is not None,
            "about people": [],
        }
    tensors, header = read_safetensors(path, kind, _NEWEST)
    plain = {key: value for key, value in header.items() if isinstance(value, str | int | float)}
    return {**plain, "tensors": _shapes(tensors), "about people": []}


def in_words(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts in lines for a person."""
    yield f"kind  {facts['kind']}"
    if facts["kind"] == "action":
        yield from facts_in_words({key: value for key, value in facts.items() if key not in ("kind", "about people")})
    else:
        for key, value in facts.items():
            if key in ("kind", "about people") or value in (None, {}, []):
                continue
            if isinstance(value, Mapping):
                yield key
                yield from (f"  {name}: {_short(inner)}" for name, inner in list(value.items())[:_SHOWN])
                if len(value) > _SHOWN:
                    yield f"  and {len(value) - _SHOWN} more"
            else:
                yield f"{key}  {_short(value)}"
    held = facts["about people"]
    if held:
        way = "share the action in it" if facts["kind"] == "run" else "twinact strip writes a copy without"
        yield f"about people  {', '.join(held)}; {way}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _folder(path: Path) -> dict[str, Any]:
    if (path / "model_index.json").is_file():
        known = {"family": family(path), "model": model_id(path), "parameters": parameters(path)}
        return {"kind": "model", **known, "about people": []}
    if not (path / MARKER.file).is_file():
        raise DataError(f"folder '{path}' holds no run and no model; twinact read looks at pictures")
    settings = settings_of(path) or {}
    folder = RunFolder(path, str(settings.get("name", "")))
    records = folder.log.records()
    return {
        "kind": "run",
        "name": settings.get("name"),
        "method": settings.get("method"),
        "done": folder.done,
        "steps": f"{folder.cost().steps} of {settings.get('steps')}",
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "terms": folder.last_terms(),
        "settings": {key: value for key, value in settings.items() if key not in ("captions", "exemplars")},
        "about people": [key for key in ("captions", "exemplars") if settings.get(key)],
    }


def _picture(path: Path) -> dict[str, Any]:
    held = personal(path)
    with open_picture(path) as picture:
        size = f"{picture.width} × {picture.height}"
        told = picture.info.get("twinact")
        parameters_text = picture.info.get("parameters")
    try:
        drawn = json.loads(told) if isinstance(told, str) else None
    except (ValueError, RecursionError):  # somebody else's chunk, or damaged
        drawn = None
    return {
        "kind": "picture",
        "size": size,
        "drawn": drawn if isinstance(drawn, dict) else None,
        "parameters": parameters_text if isinstance(parameters_text, str) else None,
        "about people": held,
    }


def _foreign(path: Path) -> dict[str, Any]:
    """An embedding, a LoRA, another adapter or several, of this package or not; damage to our own is an error."""
    tensors, header = read_tensors(path)
    words = sorted({bundled(key)[0] for key in tensors if key.startswith(BUNDLE)})
    other = other_adapter(tensors)
    return {
        "kind": other[0] if other else "LoRA" if any(map(is_lora, tensors)) else "embedding",
        "architecture": header.get("modelspec.architecture"),
        "word": header.get("modelspec.trigger_phrase") or ", ".join(words) or None,
        "usage": header.get("modelspec.usage_hint"),
        "made by twinact": header.get("twinact.library_version"),
        "action": header.get("twinact.action"),
        "tensors": _shapes(tensors),
        "about people": personal(path),
    }


def _shapes(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {name: " × ".join(map(str, tensor.shape)) or "a number" for name, tensor in tensors.items()}
