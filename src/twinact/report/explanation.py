"""What an action file tells about the action, as data and in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from twinact.action import Action
from twinact.data.captions import unsaid
from twinact.space import ActionSpace
from twinact.space.limb_words import LimbWords

_CLOSE_DEGREES = 10.0  # as far as drawings of one action differ


def out_of_reach(*actions: Action) -> str:
    """A remark where the phrases did not reach what the last change of an action asked of its limbs; else empty."""
    histories = [action.meta.get("history") or [{}] for action in actions]
    off = max((float(history[-1].get("off", 0.0)) for history in histories), default=0.0)
    return f"no phrases come nearer to that than about {off:.0f} degrees" if off > _CLOSE_DEGREES else ""


def action_facts(action: Action, space: ActionSpace | None, phrases: int) -> dict[str, Any]:
    """All that is known of an action, as JSON; what does not apply is empty or None.

    Args:
        action: Any.
        space: Its own space; None for an action that lies in none.
        phrases: How many of the nearest phrases.

    Raises:
        CheckpointError: The space is another one.
    """
    meta = action.meta
    captions = meta.get("captions") or []
    pose = meta.get("pose") or {}
    config = meta.get("config") or {}
    facts: dict[str, Any] = {
        "name": action.name,
        "model": action.model_id,
        "space": action.space_hash or None,
        "vectors": action.slots,
        "clauses": [],
        "nearest": [],
        "components": [],
        "norm": None,
        "largest_phrase_norm": None,
        "disagreeing": pose.get("disagreeing", []),
        "unseen": pose.get("unseen", []),
        "exemplars": len(meta.get("exemplars") or []),
        "captions": list(captions),
        "unsaid": unsaid(captions),
        "method": config.get("method"),
        "steps": config.get("steps"),
        "seed": meta.get("seed"),
        "lora": sorted(action.lora_parts),
        "history": meta.get("history") or [],
        "versions": meta.get("versions") or {},
    }
    if space is None:
        return facts
    told = action.explain(space, phrases)
    words = None if space.poses is None else LimbWords(space)
    return facts | {
        "clauses": [{"phrase": text, "moves": _moves(words, space, text)} for text in told.clauses],
        "nearest": [
            {"phrase": text, "similarity": round(similarity, 4), "share": round(share, 4)}
            for text, similarity, share in told.phrases
        ],
        "components": [{"slot": slot, "index": i, "value": round(value, 4)} for slot, i, value in told.components],
        "norm": round(told.norm, 4),
        "largest_phrase_norm": round(told.largest_phrase_norm, 4),
    }


def facts_in_words(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines that people read of `action_facts`."""
    yield f"{facts['name']}, for {facts['model']}: {facts['vectors']} token vectors"
    for number, clause in enumerate(facts["clauses"], 1):
        moves = f"  moves {', '.join(clause['moves'])}" if clause["moves"] else ""
        yield f"clause {number}: {clause['phrase']}{moves}"
    if facts["nearest"]:
        yield "nearest phrases"
        yield from (
            f"  {one['share']:4.0%}  {one['phrase']}  (similarity {one['similarity']:.2f})" for one in facts["nearest"]
        )
        norms = f"it lies {facts['norm']:.2f} times as far out as a typical phrase"
        yield f"{norms}; the furthest phrase lies {facts['largest_phrase_norm']:.2f} times as far"
    elif facts["space"] is None:
        yield "it lies in no action space, so no phrases are near it"
    else:
        yield "its space is not beside it, so nothing is told of its phrases"
    if facts["disagreeing"]:
        yield f"the exemplars differ in: {', '.join(facts['disagreeing'])}"
    if facts["unseen"]:
        yield f"no exemplar shows: {', '.join(facts['unseen'])}"
    count = len(facts["captions"])
    for what, missing in facts["unsaid"].items():
        if missing:
            yield f"{missing} of {count} captions leave the {what} unsaid, so it may be drawn with the action"
    if facts["exemplars"]:
        how = f"in {facts['steps']} steps by {facts['method']}, seed {facts['seed']}"
        yield f"learned from {facts['exemplars']} pictures {how}"
    if facts["lora"]:
        yield f"with a LoRA on {', '.join(facts['lora'])}"
    for step in facts["history"]:
        yield "changed: " + ", ".join(f"{key} {value}" for key, value in step.items())


def _moves(words: LimbWords | None, space: ActionSpace, phrase: str) -> list[str]:
    return [] if words is None else sorted(limb.name for limb in words.about(space.phrases.index(phrase)))
