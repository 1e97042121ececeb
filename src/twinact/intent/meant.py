"""Asks a model which pose it means by points of an action space, in prompts where others do the action elsewhere."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.intent.intended_pose import IntendedPose, intended_pose
from twinact.intent.prompts import other_prompts
from twinact.space import ActionSpace
from twinact.space.clauses import Point
from twinact.space.limbs import SEGMENTS

_AT_ONCE = 32


class Meant:
    """What a model means by points of its space; the same prompts and the same noise for all of them.

    Args:
        backbone: The model.
        space: Its space, on the model's device.
        intent: Reads what it means.
        prompts: How many prompts each point is asked about in; each is one pass, or `intent.steps` of them.
        at_once: How many prompts the denoiser sees at once.
    """

    def __init__(
        self, backbone: Backbone, space: ActionSpace, intent: IntendedPose, *, prompts: int = 2, at_once: int = _AT_ONCE
    ) -> None:
        self.backbone, self._space, self._intent, self._at_once = backbone, space, intent, at_once
        generator = torch.Generator().manual_seed(0)
        self._prompts = other_prompts(generator, prompts)
        noise = torch.randn((prompts, *backbone.latent_shape), generator=generator)
        self._noise = noise.to(backbone.device, backbone.dtype)

    @classmethod
    def of(cls, backbone: Backbone, space: ActionSpace) -> "Meant | None":
        """As for moved actions; None where nobody has measured which pose the model means, or of another body.

        Raises:
            CheckpointError, DataError: As `intended_pose`.
        """
        intent = intended_pose(backbone, space.poses)
        if intent is None or len(intent.segments) != SEGMENTS:
            return None
        return cls(backbone, space.to(backbone.device), intent)

    @torch.no_grad()
    def __call__(
        self, points: Sequence[Point], progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "n prompts _ 2"]:
        """Directions of the body's segments, as `IntendedPose.read` gives them, on the CPU.

        Args:
            points: Coefficients and present slots of the clauses of each.
            progress: Called with the prompts asked so far.
        """
        rows = [(number, k) for number in range(len(points)) for k in range(len(self._prompts))]
        found, device = [], self.backbone.device
        for first in range(0, len(rows), self._at_once):
            part = rows[first : first + self._at_once]
            asked = {i: tuple(one.to(device) for one in points[i]) for i, _ in part}
            vectors = {f"<point {i}>": self._space.vectors(*point) for i, point in asked.items()}
            texts = [self._prompts[k].replace(PLACEHOLDER, f"<point {i}>") for i, k in part]
            cond = self.backbone.encode_text(texts, vectors)
            with self.backbone.autoencoder_on_device():  # for readers of pictures
                read = self._intent.read(self.backbone, cond, self._noise[[k for _, k in part]])
            found.append(read.float().cpu())
            if progress is not None:
                progress(first + len(part))
        return torch.cat(found).unflatten(0, (-1, len(self._prompts)))
