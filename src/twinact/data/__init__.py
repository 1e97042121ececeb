"""Exemplars: a folder of photographs becomes checked square pictures, captions and masks."""
