"""Writes actions as files of other tools, and reads them back."""

from twinact.export.embeddings import LAYOUTS, embedding_contents, export_embedding, import_embedding
from twinact.export.foreign import import_action, import_lora
from twinact.export.loras import export_lora, lora_contents, lora_files
from twinact.export.modelspec import trigger
from twinact.export.target import Base

__all__ = [
    "LAYOUTS",
    "Base",
    "embedding_contents",
    "export_embedding",
    "export_lora",
    "import_action",
    "import_embedding",
    "import_lora",
    "lora_contents",
    "lora_files",
    "trigger",
]
