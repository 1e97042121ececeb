"""Computes the gradient of one step in parts: one after another, and by several processes at once.

The parts of a batch are numbered across all processes, and their gradients are added in that order. So two processes
that take one part each give the same bits as one process that takes two, and any number of parts the same result up
to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import autocast
from twinact.errors import ConfigError, TwinactError
from twinact.methods.method import Batch, Method
from twinact.training.processes import Processes

_FIRST_SCALE = 2.0**16
_GROW_AFTER = 500


def check_parts(batch_size: int, accumulate: int, processes: int) -> int:
    """The number of parts that a step is taken in, by all processes together.

    Raises:
        ConfigError: A step has fewer pictures than that.
    """
    parts = processes * accumulate
    if parts > batch_size:
        raise ConfigError(
            f"batch_size {batch_size} is less than the {parts} parts that {processes} processes × accumulate "
            f"{accumulate} make; give a batch_size of {parts} or more"
        )
    return parts


@dataclass
class LossScale:
    """What the loss is multiplied with, so that float16 neither overflows nor loses small gradients (Micikevicius et
    al., arXiv:1710.03740); a power of two, hence without rounding. A step that overflows is taken again at half of it.

    Attributes:
        value: The factor.
        good_steps: Since it was changed.
        dynamic: False leaves it at 1.
    """

    value: float = 1.0
    good_steps: int = 0
    dynamic: bool = False

    @classmethod
    def of(cls, precision: str) -> "LossScale":
        """The scale that a precision begins with."""
        return cls(_FIRST_SCALE, 0, True) if precision == "fp16" else cls()

    def lowered(self) -> bool:
        """Halves the factor after an overflow; False when it cannot be lowered."""
        if not self.dynamic or self.value <= 1.0:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True

    def passed(self) -> None:
        """Counts a step without overflow, and doubles the factor when many went well."""
        self.good_steps += 1
        if self.dynamic and self.good_steps == _GROW_AFTER:
            self.value, self.good_steps = self.value * 2, 0

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints; empty for a scale that never changes."""
        if not self.dynamic:
            return {}
        return {"value": torch.tensor(self.value), "good_steps": torch.tensor(self.good_steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        if self.dynamic:
            self.value, self.good_steps = float(state["value"]), int(state["good_steps"])


def set_gradients(
    method: Method,
    backbone: Backbone,
    batch: Batch,
    parameters: Sequence[nn.Parameter],
    *,
    generator: Callable[[int], torch.Generator],
    parts: int,
    group: Processes,
    precision: str,
    scale: float = 1.0,
) -> dict[str, float]:
    """Writes the gradient of the mean loss over a batch into the parameters, the same in every process.

    Args:
        method, backbone, batch: Those of the step; the batch is the whole one in every process.
        parameters: All that learns.
        generator: Part → what the method draws from.
        parts: Into how many the batch is split, a multiple of the processes and at most its pictures.
        group: The processes; all call this at the same point.
        precision: One of `twinact.configs.PRECISIONS`.
        scale: Scale of the loss while it is differentiated.

    Returns:
        The method's terms, averaged over the pictures.

    Raises:
        TwinactError: Another process failed. In the one that failed, its own error.
    """
    total: Tensor | None = None
    names: list[str] = []
    for first in range(0, parts, group.count):
        part = first + group.index
        share = len(range(part, len(batch.captions), parts)) / len(batch.captions)
        row, failure = torch.empty(0), None
        try:
            for parameter in parameters:
                parameter.grad = None
            with autocast(backbone.device, precision):
                terms = method.loss(backbone, _part(batch, part, parts), generator(part))
            (terms["loss"] * (share * scale)).backward()
            names = list(terms)
            row = _row(parameters, terms, share)
        except Exception as error:
            failure = error
        # Whoever failed still takes part here: the others would wait for it for ever.
        failed = group.any(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise TwinactError("another process of this run failed; see what it said")
        for one in group.gather(row):
            total = one if total is None else total + one
    assert total is not None
    *flat, means = total.split([*(parameter.numel() for parameter in parameters), len(names)])
    for parameter, gradient in zip(parameters, flat, strict=True):
        parameter.grad = (gradient / scale).view_as(parameter)
    return dict(zip(names, means.tolist(), strict=True))


def memory_advice(memory: str) -> str:
    """What to do when memory runs out while learning with one of `twinact.configs.MEMORY`."""
    first = "" if memory == "low" else "give the same command with --memory low to go on; if that is not enough, "
    return first + "begin a new run folder with --accumulate 2 or more, --precision bf16 or a smaller --batch-size"


def _part(batch: Batch, part: int, parts: int) -> Batch:
    """Every so many-th picture of a batch."""
    if parts == 1:
        return batch
    values = {one.name: getattr(batch, one.name) for one in fields(batch) if one.name != "progress"}
    return replace(batch, **{name: value[part::parts] for name, value in values.items() if value is not None})


def _row(parameters: Sequence[nn.Parameter], terms: dict[str, Tensor], share: float) -> Float[Tensor, " n"]:
    """All gradients, then the share of each term, one after another."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    means = torch.stack([term.detach().float() * share for term in terms.values()])
    return torch.cat([gradient.flatten() for gradient in gradients] + [means.to(gradients[0].device)])
