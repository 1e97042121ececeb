"""The plane in which the phrases of a space differ most, for maps of them.

Letters in shapes: n phrases, f numbers of a flattened point.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.space import ActionSpace


@dataclass(frozen=True, eq=False)
class PhrasePlane:
    """The phrases of a space in a plane; near phrases have similar token vectors.

    Attributes:
        points: Where each phrase lies.
        sigma: Of the space.
        axes: Of the plane.
        centre: The mean of the phrases, which lies at the origin.
    """

    points: Float[Tensor, "n 2"]
    sigma: Float[Tensor, "s r"]
    axes: Float[Tensor, "f 2"]
    centre: Float[Tensor, " f"]

    def places(self, u: Float[Tensor, "c s r"]) -> Float[Tensor, "c 2"]:
        """Where the clauses of an action lie, of which these are the whitened coefficients."""
        return (_flat(self.sigma, u) - self.centre) @ self.axes

    def spread(self, most: int) -> list[int]:
        """Phrases to label, by farthest-point choice: few enough to read, and every region named."""
        points = self.points
        chosen = [int(points.norm(dim=1).argmax())]
        nearest = (points - points[chosen[0]]).norm(dim=1)
        while len(chosen) < min(most, len(points)) and float(nearest.max()) > 0:
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (points - points[chosen[-1]]).norm(dim=1))
        return chosen


def phrase_plane(space: ActionSpace) -> PhrasePlane:
    """The plane of a space: the first two principal axes of its phrases' coefficients, unwhitened."""
    sigma = space.sigma.cpu()
    flat = _flat(sigma, space.phrase_coefficients)
    centre = flat.mean(dim=0)
    _, _, axes = torch.linalg.svd(flat - centre, full_matrices=False)
    plane = torch.zeros(flat.shape[1], 2, dtype=flat.dtype)
    plane[:, : min(2, len(axes))] = axes[:2].T
    return PhrasePlane((flat - centre) @ plane, sigma, plane, centre)


def _flat(sigma: Float[Tensor, "s r"], u: Float[Tensor, "n s r"]) -> Float[Tensor, "n f"]:
    """Coefficients as deviations from the mean; absent slots lie at the mean."""
    return (u.cpu() * sigma).flatten(1).double()
