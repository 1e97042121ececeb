"""The words of a model, opened without its networks, span the same space as the whole model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import CORE, FAMILIES
from small import PHRASES
from tiny import tiny_klein
from twinact.backbones import load, load_words
from twinact.errors import CheckpointError
from twinact.space.build import build_space


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", [*CORE, "sd3.5-without-t5"])
def test_words_span_the_space_of_the_whole_model(name: str, tmp_path: Path) -> None:
    FAMILIES[name].make().save_pretrained(tmp_path)
    words, backbone = load_words(tmp_path), load(tmp_path, "cpu")
    assert (words.model_id, words.tokenizer_hash) == (backbone.model_id, backbone.tokenizer_hash)
    for table, whole in zip(words.token_tables(), backbone.token_tables(), strict=True):
        assert table.name == whole.name and torch.equal(table.weight, whole.weight)
    assert build_space(words, phrases=PHRASES).hash == build_space(backbone, phrases=PHRASES).hash


def test_embeddings_stay_in_their_file(tmp_path: Path) -> None:
    """Another number in the file is another one in the table: nothing was copied."""
    tiny_klein().save_pretrained(tmp_path)
    table = load_words(tmp_path).token_tables()[0]
    before = table.embed("jumping").clone()
    path = tmp_path / "text_encoder" / "model.safetensors"
    content = bytearray(path.read_bytes())
    rows = before.numpy().tobytes()
    place = bytes(content).index(rows)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(torch.full_like(before, 7.0).numpy().tobytes())
    assert torch.equal(table.embed("jumping"), torch.full_like(before, 7.0))


def test_words_that_are_not_whole_are_one_line_errors(tmp_path: Path) -> None:
    tiny_klein().save_pretrained(tmp_path)
    path = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    save_file({key: tensor for key, tensor in tensors.items() if "embed_tokens" not in key}, path)
    with pytest.raises(CheckpointError, match="text_encoder has no token embeddings in safetensors"):
        load_words(tmp_path)
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_words(tmp_path)
    save_file(tensors, path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_words(tmp_path)
