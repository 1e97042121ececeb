"""Actions as files of other tools, and back."""

from twinact.export.embeddings import LAYOUTS, export_embedding, import_embedding

__all__ = ["LAYOUTS", "export_embedding", "import_embedding"]
