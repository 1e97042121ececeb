"""Points of actions: checks, moves and sums them, after finding which of their clauses belong together."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twinact.errors import ConfigError
from twinact.space.action_space import ActionSpace

Point = tuple[Float[Tensor, "_ s r"], Bool[Tensor, "_ s"]]
"""Whitened coefficients of some clauses, and which of their slots are present."""


def check_point(action: str, coefficients: Tensor, mask: Tensor | None, vectors: int) -> None:
    """Makes sure that coefficients and a mask fit each other and the vectors that were made of them.

    Args:
        action: Its name.
        coefficients: Whitened coefficients, to be (c, s, r).
        mask: Slots that are present, to be (c, s) and boolean; None means all.
        vectors: How many there are for each encoder: one for each slot, and one more between clauses.

    Raises:
        ConfigError: They do not.
    """
    for what, tensor, dimensions in (("coefficients", coefficients, 3), ("mask", mask, 2)):
        if tensor is not None and (tensor.ndim != dimensions or (what == "mask") != (tensor.dtype == torch.bool)):
            told = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ConfigError(
                f"{what} of action {action!r}: {told}, need (clauses, slots, rank) numbers, (clauses, slots) truth"
            )
    clauses, slots = coefficients.shape[:2]
    present = clauses * slots if mask is None else int(mask.sum())
    if vectors != present + clauses - 1 or (mask is not None and mask.shape != (clauses, slots)):
        raise ConfigError(
            f"action {action!r} has {vectors} vectors per encoder for {present} of {clauses} × {slots} "
            f"slots present and {clauses - 1} words between"
        )


def point_of(space: ActionSpace, target: Float[Tensor, "*c s r"] | str) -> Point:
    """The point, on the CPU, of whitened coefficients or of a phrase of the space.

    Raises:
        ConfigError: The space has no such phrase, or the shape is another one.
    """
    if isinstance(target, str):
        u, mask = space.project_phrase(target)
        return u.cpu().unsqueeze(0), mask.cpu().unsqueeze(0)
    if tuple(target.shape[-2:]) != (space.slots, space.rank) or target.ndim > 3:
        raise ConfigError(f"target has shape {tuple(target.shape)}, the space needs ({space.slots}, {space.rank})")
    u = target.detach().cpu().float().reshape(-1, space.slots, space.rank)
    return u, torch.ones(u.shape[:2], dtype=torch.bool)


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


def stepped(space: ActionSpace, point: Point, component: tuple[int, int], amount: float, action: str) -> Point:
    """A point moved along one component, in standard deviations of the phrases.

    Args:
        space: Its space.
        point: Where it is.
        component: (slot, index), counted from 0; slots over all clauses.
        amount: How far.
        action: Its name.

    Raises:
        ConfigError: It has no such component.
    """
    u, mask = point
    slot, index = component
    present = mask.flatten().nonzero().flatten().tolist()
    if slot not in present:
        raise ConfigError(f"slot {slot} cannot be adjusted: action {action!r} has slots {present}")
    ranks = space.slot_ranks[slot % space.slots]
    if not 0 <= index < ranks:
        raise ConfigError(f"component {index} does not exist: slot {slot} has 0 to {ranks - 1}")
    u = u.clone()
    u[slot // space.slots, slot % space.slots, index] += amount
    return u, mask


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
