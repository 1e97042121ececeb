"""What the phrases of a space look like when a model draws them: the limb directions of each, as data.

With it, the words for a pose are found without a pass of the denoiser.

Letters in shapes: n phrases, g segments of the body and perhaps, last, its height above the ground, c clauses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from twinact.space.pose_head import PoseHead

# A phrase that hardly moves a limb, by less than this as a chord, says nothing of it.
_AT_EASE = 0.02
_FIT_STEPS, _FIT_RATE, _FIT_PRIOR = 300, 0.1, 2e-3
_BEAM = 64  # joined phrases that are kept while another one is looked for
_PER_JOIN = 4
# The same words in every candidate would all fail together.
_MOST_USES = 6

OWN = "own"
"""Who reads poses: the network in the model's folder. Other names are those of ViTPose networks."""

Candidate = tuple[tuple[int, ...], float]
"""Numbers of phrases that are said together, and their distance from a pose."""


@dataclass(frozen=True, eq=False)
class PoseTable:
    """The mean limb directions of every phrase over several actors and places, on the CPU.

    Attributes:
        directions: Means of unit vectors along the segments, x to the right and y down. A mean is as long as the
            drawings agree: 1 where all show the same direction, near 0 where each shows another.
        rest: The same of prompts that name no action.
        strengths: How much each phrase decides each segment when it is said together with others, > 0. Only their
            ratios count. See `with_strengths`.
        drawings: How many drawings each row is the mean of.
        steps: After how many denoising steps the poses were read; the model was measured to mean them by then.
        reader: Who read them: `OWN`, else name or folder of a ViTPose.
        head: What reads them off the denoiser's features in the reader's place, if it was found to read them as well.
    """

    directions: Float[Tensor, "n g 2"]
    rest: Float[Tensor, "g 2"]
    strengths: Float[Tensor, "n g"]
    drawings: int
    steps: int = 1
    reader: str = OWN
    head: PoseHead | None = None

    @cached_property
    def score(self) -> Float[Tensor, " n"]:
        """How surely the model draws each phrase as one pose, in [0, 1]: the mean agreement over the segments."""
        return self.directions.norm(dim=2).mean(dim=1)

    @cached_property
    def deviation(self) -> Float[Tensor, "n g"]:
        """How far each phrase moves each segment from where it is at rest: the chord, from 0 to 2."""
        return (self.directions - self.rest).norm(dim=2)

    @classmethod
    def of(cls, directions: Float[Tensor, "n g 2"], rest: Float[Tensor, "g 2"], drawings: int) -> "PoseTable":
        """A table in which phrases are as strong as they move a segment from where it is at rest, squared."""
        return cls(directions, rest, (directions - rest).square().sum(dim=2) + 1e-6, drawings)

    def with_strengths(
        self, first: Int64[Tensor, " m"], second: Int64[Tensor, " m"], seen: Float[Tensor, "m g 2"]
    ) -> "PoseTable":
        """The table with strengths that explain what the model draws when two phrases are said at once.

        Args:
            first, second: Numbers of the phrases of each pair.
            seen: Unit vectors of the segments in its drawing.
        """
        before = self.strengths.log()
        logs = before.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([logs], lr=_FIT_RATE)
        ease = _AT_EASE**2
        with torch.enable_grad():
            for _ in range(_FIT_STEPS):
                a, b = logs[first].exp()[..., None], logs[second].exp()[..., None]  # (m, g, 1)
                total = a * self.directions[first] + b * self.directions[second] + ease * self.rest
                error = (total / (a + b + ease) - seen).square().sum(dim=2).mean()
                optimizer.zero_grad()
                (error + _FIT_PRIOR * (logs - before).square().mean()).backward()
                optimizer.step()
        return replace(self, strengths=logs.detach().exp())

    def expected(self, phrases: Sequence[int]) -> Float[Tensor, "g 2"]:
        """The mean directions of phrases that are said together; each segment follows those that move it."""
        share = self.deviation[list(phrases)].square().unsqueeze(-1)  # (c, g, 1)
        total = _AT_EASE**2 * self.rest + (share * self.directions[list(phrases)]).sum(dim=0)
        return total / (_AT_EASE**2 + share.sum(dim=0))

    def distances(
        self, phrases: Sequence[Tensor], wanted: Float[Tensor, "rows 2"], weights: Float[Tensor, " rows"]
    ) -> Float[Tensor, " m"]:
        """How far phrases that are said together are expected to lie from a pose.

        Each segment follows the phrases in the measure of their strengths. So phrases about different limbs add up, and
        two that move one limb to different places count as undecided, as drawings of them are.

        Args:
            phrases: For every clause, the numbers of the phrases of m candidates.
            wanted: Unit vectors; a height that the table does not have does not count.
            weights: How much each row counts, >= 0.

        Returns:
            Weighted mean squared chord, from 0 (the same pose) to 4 (opposite).
        """
        wanted, weights = wanted[: len(self.rest)], weights[: len(self.rest)]
        away = _squared_chord(self.directions, wanted)
        moved = torch.full_like(self.strengths[phrases[0]], _AT_EASE**2)
        total = moved * _squared_chord(self.rest, wanted)
        for numbers in phrases:
            share = self.strengths[numbers]
            total, moved = total + share * away[numbers], moved + share
        return weighted_mean(total / moved, weights)

    def nearest(
        self, wanted: Float[Tensor, "rows 2"], weights: Float[Tensor, " rows"], clauses: int, count: int
    ) -> list[Candidate]:
        """The phrases, alone and joined, that are expected to look most like a pose.

        All pairs are looked at; longer ones are the best shorter ones with one more phrase.

        Args:
            wanted, weights: As for `distances`; anything where the weight is 0, and not all are 0.
            clauses: The most phrases that are joined.
            count: How many candidates of each number of phrases.

        Returns:
            Numbers of phrases with the expected distance, nearest first.
        """
        every = torch.arange(len(self.directions))
        alone = self.distances([every], wanted, weights)
        order = alone.argsort()
        found: list[Candidate] = [((i,), float(alone[i])) for i in order[:count].tolist()]
        beam: list[tuple[int, ...]] = [(i,) for i in order.tolist()]
        for _ in range(1, min(clauses, len(every))):
            joined: dict[tuple[int, ...], float] = {}
            for before in beam:
                values = self.distances([torch.full_like(every, i) for i in before] + [every], wanted, weights)
                for i in values.topk(min(_PER_JOIN, len(every)), largest=False).indices.tolist():
                    if i not in before:
                        joined.setdefault(tuple(sorted((*before, i))), float(values[i]))
            ranked = sorted(joined.items(), key=lambda item: (item[1], item[0]))
            beam = [numbers for numbers, _ in ranked[:_BEAM]]
            found += _varied(ranked, count)
        return sorted(found, key=lambda item: (item[1], item[0]))


def _squared_chord(means: Float[Tensor, "*n g 2"], wanted: Float[Tensor, "g 2"]) -> Float[Tensor, "*n g"]:
    """Mean squared chord from a unit vector to the unit vectors that have these means."""
    return 2 - 2 * (means * wanted).sum(dim=-1)


def weighted_mean(values: Float[Tensor, "*b g"], weights: Float[Tensor, " g"]) -> Float[Tensor, "*b"]:
    """Mean over the segments; weights are >= 0 and not all 0."""
    return (values * weights).sum(dim=-1) / weights.sum()


def _varied(ranked: Sequence[Candidate], count: int) -> list[Candidate]:
    """The first `count` of which none repeats a phrase too often."""
    uses: dict[int, int] = {}
    chosen: list[Candidate] = []
    for numbers, value in ranked:
        if len(chosen) == count:
            break
        if all(uses.get(i, 0) < _MOST_USES for i in numbers):
            chosen.append((numbers, value))
            for i in numbers:
                uses[i] = uses.get(i, 0) + 1
    return chosen
