"""Nodes for ComfyUI: load a learned action, move it, combine two, and encode a prompt with it.

Put this folder into ComfyUI's ``custom_nodes``, and twinact into its Python. Actions lie in ``models/twinact``, each
with the space of its run (``phrases.space.safetensors``) beside it, in folders of their own if they are of several
spaces.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
