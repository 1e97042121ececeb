"""Tells what files of other tools hold by the names of their tensors."""

import re
from collections.abc import Iterable

BUNDLE = "bundle_emb."
"""Begins the keys of embeddings inside of LoRA files."""
# Keys of layers, told by how they begin and end: a word such as "exploration" or "soft_light" is a key, too.
_LORA = re.compile(r"(^|[._])lora[._](.+\.)?weight$")
_OTHER_ADAPTERS = {
    r"\.dora_scale$": "DoRA", r"\.lora_magnitude_vector\b": "DoRA", r"\.hada_w\d": "LoHa", r"\.lokr_w\d": "LoKr",
    r"\.lora_mid\.": "LoCon", r"\.oft_": "OFT", r"\.diff(_b)?$": "full-weight", r"^lora_controlnet$": "ControlNet",
    r"\.lora_B\.(default\.)?bias$": "LoRA with biases", r"\.[wb]_norm$": "norm", r"\.on_input$": "IA3",
    r"\.[abc][12]\.weight$": "GLoRA", r"_lora\d\.(down|up)\.weight$": "LoRA of XLabs",
}  # fmt: skip


def is_lora(key: str) -> bool:
    """Whether a tensor belongs to a layer of a LoRA."""
    return bool(_LORA.search(key)) and not key.startswith(BUNDLE)


def other_adapter(keys: Iterable[str]) -> tuple[str, str] | None:
    """The kind of an adapter that is no plain LoRA, and the key that tells it; None where there is none."""
    own = [key for key in keys if not key.startswith(BUNDLE)]
    for mark, kind in _OTHER_ADAPTERS.items():
        marked = next((key for key in own if re.search(mark, key)), None)
        if marked is not None:
            return kind, marked
    return None
