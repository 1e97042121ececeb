"""Says what a point of the action space is made of: phrases, components, and how far out it lies."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, ones

from twinact.errors import ConfigError
from twinact.space.action_space import ActionSpace

# Learned points often lie a hundredth beyond the furthest phrase, which means nothing.
_OUTSIDE = 1.05


@dataclass(frozen=True)
class Explanation:
    """What an action is made of.

    Attributes:
        phrases: (phrase, cosine similarity, share) of the phrases nearest to each clause, best first. Shares are the
            similarities above zero, made to sum to 1: a reading aid, not a decomposition.
        clauses: The phrase nearest to each clause, in order.
        components: (slot, index, value) of the largest coefficients by size, in standard deviations of the phrases.
        norm: Length of the coefficients relative to the median phrase over the same slots. 1 is typical.
        largest_phrase_norm: The same for the phrase furthest from the mean; a larger `norm` lies outside the phrases.
    """

    phrases: tuple[tuple[str, float, float], ...]
    clauses: tuple[str, ...]
    components: tuple[tuple[int, int, float], ...]
    norm: float
    largest_phrase_norm: float

    @property
    def beyond(self) -> float | None:
        """How many times as far out as the furthest phrase it lies; None unless it is clearly outside the phrases."""
        ratio = self.norm / self.largest_phrase_norm
        return ratio if ratio > _OUTSIDE else None


def explain(space: ActionSpace, u: Float[Tensor, "c s r"], mask: Bool[Tensor, "c s"], k: int) -> Explanation:
    """The nearest phrases and the k largest coefficients of a point, and how far outside the phrases it lies.

    Args:
        space: The space.
        u: Whitened coefficients of every clause, on the CPU.
        mask: Slots that are present.
        k: How many. Of k phrases, each clause has an equal share, at least one.

    Raises:
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"k is {k}, at least 1 phrase must be asked for")
    each = [space.nearest(point, max(1, k // len(u)), own) for point, own in zip(u, mask, strict=True)]
    nearest = [pair for pairs in each for pair in pairs]
    total = sum(max(similarity, 0.0) for _, similarity in nearest)
    shares = [max(similarity, 0.0) / total if total > 0 else 0.0 for _, similarity in nearest]
    real = (space.sigma.cpu() > 0) & mask.unsqueeze(-1)  # (c, s, r)
    sizes = u.abs() * real
    order = sizes.flatten().argsort(descending=True, stable=True)[: min(k, int(real.sum()))].tolist()
    norms = [_norms(space, point, own) for point, own in zip(sizes, mask, strict=True)]
    norm, largest = max(norms, key=lambda pair: pair[0] / pair[1])  # the clause that lies furthest out
    return Explanation(
        phrases=tuple((text, similarity, share) for (text, similarity), share in zip(nearest, shares, strict=True)),
        clauses=tuple(pairs[0][0] for pairs in each),
        components=tuple((i // space.rank, i % space.rank, float(u.flatten()[i])) for i in order),
        norm=norm,
        largest_phrase_norm=largest,
    )


def _norms(space: ActionSpace, sizes: Float[Tensor, "s r"], mask: Bool[Tensor, " s"]) -> tuple[float, float]:
    """Length of a clause's coefficients, and of the largest phrase's, relative to the median phrase over its slots."""
    real = (space.sigma.cpu() > 0) & mask.unsqueeze(-1)  # (s, r)
    whole = (space.phrase_mask.cpu() >= mask).all(dim=-1)  # phrases that have all of the clause's slots
    norms = (space.phrase_coefficients.cpu()[whole] * real).flatten(1).norm(dim=-1)  # (n,)
    typical = float(norms.median()) if len(norms) else float("nan")
    if not typical > 0:  # no phrase to compare with: the whitened scale says what is typical
        typical, norms = float(real.sum()) ** 0.5, ones(1)
    return float(sizes.norm()) / typical, float(norms.max()) / typical
