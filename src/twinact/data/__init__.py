"""Exemplars: a folder of photographs becomes checked pictures, captions and masks."""
