"""The action space: the PCA of the token groups of action phrases, slot by slot."""

from twinact.space.action_space import ActionSpace

__all__ = ["ActionSpace"]
