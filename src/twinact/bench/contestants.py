"""Who takes part in the benchmark, by name: every method in the forms in which it is compared, and words alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twinact.bench.world import TRUE, WORDS, WRONG
from twinact.configs import METHODS, LearnConfig
from twinact.configs.rivals import PreservingConfig

AUTOENCODED = "true drawings, autoencoded"
"""True drawings after a round trip through the model's autoencoder, which spoils every drawing of the model alike."""


@dataclass(frozen=True)
class Contestant:
    """Something that makes the pictures of a task.

    Attributes:
        title: What a report calls it.
        settings: Of `LearnConfig`, where they are not the defaults; tuning changes others.
        start: The contestant at whose phrase it starts; None starts as its settings say.
        learns: Whether it learns from the exemplars; else it only writes words, or draws.
        tunes: Whether settings are looked for, and steps for a number of passes; else it runs as `settings` say.
        judged: Whether it is there to measure the metrics and not to be compared.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    learns: bool = True
    tunes: bool = True
    judged: bool = False


def _method(method: str, title: str = "", **settings: Any) -> Contestant:
    return Contestant(title or METHODS[method].title, {"method": method, **settings})


REFERENCE = "twinact"
"""Whose difference from all others is told."""
OURS = (REFERENCE, "twinact-instant", "twinact-lora")
BASELINE = WORDS[1]
"""What nobody learned leaks by chance: words with the same noise."""

CONTESTANTS: dict[str, Contestant] = {
    WORDS[0]: Contestant("words: the best phrase (oracle)", learns=False, tunes=False),
    WORDS[1]: Contestant("words: the best two (oracle)", learns=False, tunes=False),
    WORDS[2]: Contestant("words: limb by limb (oracle)", learns=False, tunes=False),
    "seen phrase": Contestant(
        "words: the phrase that looks nearest", {"method": "twinact", "steps": 0, "clauses": 1}, tunes=False
    ),
    "twinact-instant": Contestant("TwinAct, at once", {"method": "twinact", "steps": 0}, tunes=False),
    REFERENCE: _method("twinact"),
    "twinact-lora": _method("twinact", "TwinAct with a LoRA", lora_rank=8, denoising_weight=1.0),
    **{
        # Fewer pictures of the class than a person would draw: 50 take more passes than all of learning has.
        name: Contestant(
            method.title, {"method": name, **({"prior_pictures": 8} if issubclass(method, PreservingConfig) else {})}
        )
        for name, method in METHODS.items()
        if name != REFERENCE
    },
    "textual-inversion-seen": Contestant(
        "Textual Inversion from there", {"method": "textual-inversion"}, start="seen phrase"
    ),
    "dreambooth-lora": _method("dreambooth", "DreamBooth-LoRA", layer_rank=4, prior_pictures=8),
    **{
        name: Contestant(name, learns=False, tunes=False, judged=True) for name in (TRUE, AUTOENCODED, WRONG)
    },
}  # fmt: skip
"""All contestants by name."""


def settings_of(name: str, more: Mapping[str, Any]) -> LearnConfig:
    """The settings that a contestant learns with.

    Args:
        name: Key of `CONTESTANTS`.
        more: What tuning or a run decides; it goes before the contestant's own.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """
    return LearnConfig.from_dict({"name": "bench", **CONTESTANTS[name].settings, **more})
