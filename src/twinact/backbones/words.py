"""Opens the words of a model without its networks: tokenizers, and token embeddings that stay in their files.

The embeddings of a language model have 151,936 x 2,560 numbers or more, and a space needs some hundred rows of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from twinact.backbones.backbone import TokenTable, hash_tokenizers
from twinact.backbones.weights import files_of, read_config
from twinact.backbones.whole import check_words
from twinact.errors import CheckpointError

# How the names of token embeddings end: in CLIP, in T5, in both T5 and Qwen.
_EMBEDDINGS = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")


@dataclass(frozen=True)
class Words:
    """What a `Backbone` knows about words; enough to build an action space.

    Attributes:
        tables: Token tables of every text encoder. Their weights lie in files: rows are read when they are looked up.
        model_id, tokenizer_hash: As `twinact.backbones.backbone.Backbone` has them.
    """

    tables: tuple[TokenTable, ...]
    model_id: str
    tokenizer_hash: str

    def token_tables(self) -> list[TokenTable]:
        """As `twinact.backbones.backbone.Backbone.token_tables`."""
        return list(self.tables)

    @classmethod
    def from_folder(cls, folder: Path, model_id: str) -> "Words":
        """The words of a model in diffusers layout.

        Raises:
            CheckpointError: A tokenizer or a text encoder's embeddings are missing or not whole.
        """
        index = read_config(folder / "model_index.json")
        names = sorted(name for name, entry in index.items() if name.startswith("text_encoder") and any(entry or ()))
        tables = []
        for name in names:
            part = name.replace("text_encoder", "tokenizer")
            kind: Any = getattr(transformers, str((index.get(part) or [None, None])[1]), None)
            if kind is None or not issubclass(kind, PreTrainedTokenizerBase):
                raise CheckpointError(f"model {str(folder)!r} names no tokenizer for {name}: copy its index again")
            tokenizer = kind.from_pretrained(folder / part, local_files_only=True)
            tables.append(TokenTable(name, tokenizer, _embeddings(folder, name)))
            check_words(tables[-1], folder)
        return cls(tuple(tables), model_id, hash_tokenizers([table.tokenizer for table in tables]))


def _embeddings(folder: Path, name: str) -> torch.Tensor:
    """(vocabulary, width) the embeddings of a text encoder, mapped from its file."""
    for path in files_of(folder, name):
        with safe_open(path, "pt") as file:
            key = next((key for key in file.keys() if key.endswith(_EMBEDDINGS)), None)  # noqa: SIM118
            if key is not None:
                return file.get_tensor(key)
    raise CheckpointError(
        f"model {str(folder)!r}: {name} has no token embeddings in safetensors; download or copy it again"
    )
