"""Where joints and limbs are, as maps over the cells of a grid that covers the picture."""

import torch
from torch import Tensor

from twinact.world.skeleton import JOINT_NAMES

_LIMBS = tuple(
    (JOINT_NAMES.index(f"{side}_{start}"), JOINT_NAMES.index(f"{side}_{end}"))
    for side in "lr"
    for start, end in (("shoulder", "elbow"), ("elbow", "hand"), ("hip", "knee"), ("knee", "foot"))
)


def heat_loss(heat: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy of heat maps (b, joints, h, w) against Gaussians of 0.8 cells around positions (b, joints, 2).

    The expected position alone teaches slowly, since every cell gets a little of its gradient.
    """
    x, y = (_centres(heat.shape[axis], heat) for axis in (3, 2))
    sigma = 0.8 / heat.shape[3]
    along_x = torch.exp(-(((x - positions[..., :1]) / sigma) ** 2) / 2)  # (b, joints, w)
    along_y = torch.exp(-(((y - positions[..., 1:]) / sigma) ** 2) / 2)  # (b, joints, h)
    target = (along_y[..., :, None] * along_x[..., None, :]).flatten(2)
    target = target / target.sum(2, keepdim=True)
    return -(target * heat.flatten(2).log_softmax(2)).sum(2).mean()


def limb_map(positions: Tensor, size: int) -> Tensor:
    """How near each cell (b, 1, size, size) is to a bone of an arm or a leg: 1 on it, 0.6 one cell away.

    Args:
        positions: Joints (b, joints, 2), x and y in picture units.
        size: Cells along each edge.
    """
    start, end = (positions[:, [bone[k] for bone in _LIMBS]] for k in (0, 1))
    y, x = torch.meshgrid(*2 * [_centres(size, positions)], indexing="ij")
    offset = torch.stack([x, y], -1).view(1, 1, -1, 2) - start[:, :, None]  # (b, bones, cells, 2)
    bone = (end - start)[:, :, None]
    along = ((offset * bone).sum(-1, keepdim=True) / bone.square().sum(-1, keepdim=True).clamp(min=1e-6)).clamp(0, 1)
    squared = (offset - along * bone).square().sum(-1).amin(1) * size**2
    return torch.exp(-squared / 2).view(-1, 1, size, size)


def _centres(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, device=like.device) + 0.5) / count
