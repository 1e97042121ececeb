"""Adam, and beside it steps along a sphere for parameters that are directions."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


class Adam(torch.optim.Adam):
    """Adam (Kingma & Ba, arXiv:1412.6980), except for groups that say ``on_sphere``.

    Every row of these has length 1. Its gradient is made tangent and as long as the rate, the row moves by that, and is
    put back to length 1: Riemannian gradient descent with a normalised gradient, as in Directional Textual Inversion
    (arXiv:2512.13672). It keeps no state.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients that the parameters have; those on spheres have none afterwards."""
        for group in self.param_groups:
            for row in group["params"] if group.get("on_sphere", False) else ():
                if row.grad is None:
                    continue
                tangent = row.grad - (row.grad * row).sum(dim=-1, keepdim=True) * row
                row.copy_(F.normalize(row - group["lr"] * F.normalize(tangent, dim=-1), dim=-1))
                row.grad = None  # Adam passes over what has no gradient
        return super().step(closure)
