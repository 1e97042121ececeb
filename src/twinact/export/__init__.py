"""Actions as files of other tools, and back."""

from twinact.export.base import Base
from twinact.export.embeddings import LAYOUTS, embedding_files, export_embedding, import_embedding
from twinact.export.foreign import import_action, import_lora
from twinact.export.lora import export_lora, lora_files
from twinact.export.modelspec import trigger

__all__ = [
    "LAYOUTS",
    "Base",
    "embedding_files",
    "export_embedding",
    "export_lora",
    "import_action",
    "import_embedding",
    "import_lora",
    "lora_files",
    "trigger",
]
