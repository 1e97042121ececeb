"""Moves and sums the points of actions, after finding which of their clauses belong together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from twinact.space.action_space import ActionSpace

Point = tuple[Tensor, Tensor]
"""Whitened coefficients (c, s, r) of c clauses, and which of their slots are present (c, s)."""


def matched(space: ActionSpace, first: Point, second: Point) -> tuple[Point, Point]:
    """Two points with their clauses side by side, most alike first; what has no partner stands beside nothing."""
    sizes = [(u * space.sigma.cpu() * mask.unsqueeze(-1)).flatten(1) for u, mask in (first, second)]
    a, b = (size / size.norm(dim=1, keepdim=True).clamp_min(1e-12) for size in sizes)
    alike = a @ b.T
    order = [-1] * len(a)  # clause of the first → of the second
    for flat in alike.flatten().argsort(descending=True, stable=True).tolist():
        i, j = divmod(flat, len(b))
        if order[i] < 0 and j not in order:
            order[i] = j
    order += [j for j in range(len(b)) if j not in order]
    empty = torch.zeros(1, space.slots, space.rank), torch.zeros(1, space.slots, dtype=torch.bool)

    def padded(point: Point, rows: list[int]) -> Point:
        u, mask = (torch.cat([part, nothing]) for part, nothing in zip(point, empty, strict=True))
        return u[rows], mask[rows]  # row -1 is empty

    return padded(first, [i if i < len(a) else -1 for i in range(len(order))]), padded(second, order)


def blended(space: ActionSpace, start: Point, goal: Point, amount: float) -> Point:
    """A point on the straight line from one point (0) to another (1); what only one of them has stays as it is."""
    (u, mask), (v, goal_mask) = matched(space, start, goal)
    between = torch.where(goal_mask.unsqueeze(-1), u + amount * (v - u), u)
    return torch.where(mask.unsqueeze(-1), between, v), mask | goal_mask


def summed(space: ActionSpace, points: Sequence[Point], weights: Sequence[float] | None) -> Point:
    """The weighted sum of points, slot by slot.

    Args:
        space: The space of all of them.
        points: At least one.
        weights: One for each. Without them each slot of the plain sum is shortened to the root mean square length of
            its parts.
    """
    longest = max(points, key=lambda point: len(point[0]))
    both = [matched(space, longest, point)[1] for point in points]
    rows, masks = (torch.stack(each) for each in zip(*both, strict=True))  # (n, c, s, r), (n, c, s)
    rows = rows * masks.unsqueeze(-1)
    factors = torch.ones(len(points)) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
    total = (factors.view(-1, 1, 1, 1) * rows).sum(dim=0)  # (c, s, r)
    if weights is None:
        count = masks.sum(dim=0).clamp_min(1)  # (c, s) how many have the slot
        length = (rows.square().sum(dim=-1).sum(dim=0) / count).sqrt()  # (c, s)
        # At most 1: parts that cancel each other must not be blown up to full length.
        total = total * (length / total.norm(dim=-1).clamp_min(1e-12)).clamp(max=1).unsqueeze(-1)
    return total, masks.any(dim=0)
