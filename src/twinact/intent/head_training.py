"""Trains a head on the drawings that a pose table is made of: their features, and the poses that were read in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.features import predict_with_map
from twinact.intent.eyes import Eyes
from twinact.intent.feature_head import FeatureHead, coarse
from twinact.intent.intended_pose import last_step
from twinact.intent.measure import correlation
from twinact.space.pose_head import PoseHead

MOST_BYTES = 4 * 2**30
"""Of features that are kept; a chance sample of the drawings where all would take more."""
_SEED = 2
_HELD_OUT = 10  # one phrase of so many says how good the head is
_LEAST = 4  # drawings of these; fewer vary too little for a correlation
_STEPS, _BATCH, _RATE, _DECAY = 500, 32, 2e-3, 0.05
_AT_ONCE = 64


class Lessons:
    """An intended pose as `twinact.intent.EarlyPose`, which remembers what it reads and the features beside it.

    Of what it reads, a uniform sample is kept (Vitter's reservoir), in half the precision, in the machine's memory.

    Args:
        eyes: Who reads the estimates.
        steps: Of a drawing.
        most_bytes: That the features may take.

    Attributes:
        numbers: Which of the drawings are kept, from 0, in the order in which they were read.
        directions: Of each of these, (rows, 2).
        features: Of each, (c, h, w), as `coarse` has them.
    """

    def __init__(self, eyes: Eyes, steps: int, most_bytes: int = MOST_BYTES) -> None:
        self.segments, self.steps = eyes.segments, steps
        self.numbers: list[int] = []
        self.directions: list[Float[Tensor, "rows 2"]] = []
        self.features: list[Float[Tensor, "c h w"]] = []
        self._eyes, self._most_bytes, self._seen = eyes, most_bytes, 0
        self._generator = torch.Generator().manual_seed(_SEED)

    @torch.no_grad()
    def read(self, backbone: Backbone, cond: TextCond, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows 2"]:
        """As `twinact.intent.IntendedPose.read`, without gradient."""
        x, t = last_step(backbone, cond, noise, self.steps)
        prediction, features = predict_with_map(backbone, x, t, cond)
        directions = self._eyes.directions(backbone, backbone.clean(x, t, prediction))
        # Some features of transformers are too large for the half precision of ten digits.
        self._keep(coarse(features).to(torch.bfloat16), directions.float())
        return directions

    def _keep(self, features: Float[Tensor, "b c h w"], directions: Float[Tensor, "b rows 2"]) -> None:
        room = max(1, self._most_bytes // (features[0].numel() * features.element_size()))
        for one, read in zip(features, directions, strict=True):
            place = self._seen
            if place >= room:
                place = int(torch.randint(self._seen + 1, (1,), generator=self._generator))
            if place < room:
                for kept, value in ((self.features, one.cpu()), (self.directions, read.cpu())):
                    kept[place : place + 1] = [value]
                self.numbers[place : place + 1] = [self._seen]
            self._seen += 1


@dataclass(frozen=True)
class Taught:
    """A head, and how well it reads.

    Attributes:
        head: With the correlation on what was held out.
        drawings: How many it was taught with.
        held_out: Drawings of phrases that it was not taught; it was measured on them.
    """

    head: PoseHead
    drawings: int
    held_out: int


def held_out(said: Sequence[tuple[int, ...]]) -> set[int]:
    """Numbers of the phrases that a head is not taught: a tenth of those that drawings say, always the same."""
    every = 1 + max((i for row in said for i in row), default=0)
    order = torch.randperm(every, generator=torch.Generator().manual_seed(_SEED))
    return set(order[: max(1, every // _HELD_OUT)].tolist())


def train_head(
    backbone: Backbone,
    lessons: Lessons,
    said: Sequence[tuple[int, ...]],
    *,
    steps: int = _STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Taught | None:
    """A head that reads what was read in the lessons; the same in every call with the same arguments.

    A tenth of the phrases is held out: drawings that say only these measure it, those that say one beside another count
    nowhere. What a reader did not see (a direction of length zero) counts neither.

    Args:
        backbone: Whose features they are.
        lessons: What was read.
        said: Numbers of the phrases that each drawing says.
        steps: Of training.
        progress: Called with the steps done, and in all.

    Returns:
        None where too few drawings of held-out phrases are kept to measure it.
    """
    generator, held = torch.Generator().manual_seed(_SEED), held_out(said)
    told = [set(said[number]) for number in lessons.numbers]
    own = [i for i, phrases in enumerate(told) if not phrases & held]
    test = [i for i, phrases in enumerate(told) if phrases and phrases <= held]
    if len(test) < _LEAST or not own:
        return None
    wanted = torch.stack(lessons.directions)
    height = wanted.shape[1] > len(lessons.segments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        head = FeatureHead(len(lessons.features[0]), lessons.segments, backbone.ground if height else None)
    sample = torch.randperm(len(own), generator=generator)[: 8 * _BATCH].tolist()
    head.measure(torch.stack([lessons.features[own[i]] for i in sample]))
    head.to(backbone.device).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for step in range(steps):
        chosen = [own[i] for i in torch.randint(len(own), (_BATCH,), generator=generator).tolist()]
        features = torch.stack([lessons.features[i] for i in chosen]).to(backbone.device)
        right = wanted[chosen].to(backbone.device)
        loss = (right * (right - head(features))).sum(dim=2).mean()  # 1 - cosine, and 0 where nothing was seen
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    head.eval()
    right = wanted[test]
    found = right.norm(dim=2, keepdim=True) * read_features(head, [lessons.features[i] for i in test], backbone.device)
    return Taught(head.stored(backbone.pose_block, correlation(found, right)), len(own), len(test))


@torch.no_grad()
def read_features(
    head: FeatureHead, features: Sequence[Float[Tensor, "c h w"]], device: torch.device
) -> Float[Tensor, "n rows 2"]:
    """What a head reads in features, on the CPU.

    Args:
        head: On the device.
        features: Of drawings.
        device: Where to read them.
    """
    starts = range(0, len(features), _AT_ONCE)
    parts = [head(torch.stack(list(features[i : i + _AT_ONCE])).to(device)).cpu() for i in starts]
    return torch.cat(parts)
