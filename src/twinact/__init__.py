"""Teach a text-to-image model an action from a few pictures, apart from who does it and where."""

__version__ = "0.1.0"

PLACEHOLDER = "<act>"
"""Stands in prompts and captions where the action goes."""

ACTOR_PLACEHOLDER = "<actor>"
"""Stands in prompts where a customised actor goes."""
