"""Model folders as they were published, before the libraries wrote what they write today."""

import json
from pathlib import Path

import pytest
import torch

from families import FAMILIES, WITH_CLIP
from twinact.backbones import load

PROMPTS = ["a robot jumping in a park", "", "zebra!"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CLIP)
def test_tokenizers_of_vocabulary_and_merges(name: str, tmp_path: Path) -> None:
    FAMILIES[name].make().save_pretrained(tmp_path)
    today = load(tmp_path, "cpu")
    older = []
    for file in tmp_path.glob("tokenizer*/tokenizer.json"):
        model = json.loads(file.read_text(encoding="utf-8"))["model"]
        if "merges" in model:  # CLIP
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
            file.with_name("vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
            file.with_name("merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
            file.unlink()
            older.append(file)
    assert older
    published = load(tmp_path, "cpu")
    assert published.tokenizer_hash == today.tokenizer_hash
    assert torch.equal(published.encode_text(PROMPTS).hidden, today.encode_text(PROMPTS).hidden)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("sd3", "tokenizer_3"), ("flux", "tokenizer_2")])
def test_t5_tokenizers_beside_a_sentencepiece_model(name: str, part: str, tmp_path: Path) -> None:
    """Which nothing here could read: what they are is in tokenizer.json too."""
    FAMILIES[name].make().save_pretrained(tmp_path)
    today, folder = load(tmp_path, "cpu"), tmp_path / part
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {str(index): {"content": text, **flags, "special": True} for index, text in enumerate(special.values())}
    config = {
        "added_tokens_decoder": added, "additional_special_tokens": [], "clean_up_tokenization_spaces": True,
        "extra_ids": 0, "legacy": True, "model_max_length": 512, "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer", **special,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    marked = {key: {"content": text, **flags} for key, text in special.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(marked), encoding="utf-8")
    (folder / "spiece.model").write_bytes(b"a protocol buffer")
    published = load(tmp_path, "cpu")
    assert published.tokenizer_hash == today.tokenizer_hash
    assert torch.equal(published.encode_text(PROMPTS).hidden, today.encode_text(PROMPTS).hidden)


def test_index_with_a_safety_checker(tmp_path: Path) -> None:
    FAMILIES["sd"].make().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    published = json.loads(index.read_text(encoding="utf-8")) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "requires_safety_checker": True,
    }
    index.write_text(json.dumps(published), encoding="utf-8")
    assert load(tmp_path, "cpu").pipeline().safety_checker is None
