"""The training loop of every part of nano: resumable, logged, with an exponential moving average."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from twinact.errors import TwinactError
from twinact.nano.recipe import Fit
from twinact.storage import read_safetensors, write_safetensors

CHECKPOINT_SECONDS = 120.0
REPORT_SECONDS = 15.0
# Looking at a loss makes a GPU finish what it was given, so it is not done in every step.
_CHECKED_EVERY = 16
_FILE, _KIND = "state.safetensors", "nano-state"
Seen = TypeVar("Seen")


def schedule(step: int, fit: Fit, seconds: float = 0.0) -> float:
    """Learning-rate factor: linear warm-up, then linear to zero (Bergsma et al., "Straight to Zero", 2025).

    Args:
        step: Number of the step.
        fit: Its length in steps and minutes.
        seconds: How long the training has taken so far.
    """
    done = max(step / fit.steps, seconds / (60 * fit.minutes))
    return min(1.0, (step + 1) / fit.warmup_steps) * max(1 - done, 0.0)


def visited_twice(draw: Callable[[int], Iterator[Seen]], step: int) -> Iterator[Seen]:
    """What the steps from `step` on see when every drawn batch serves two in a row, each of which spoils it anew.

    A large GPU learns faster than pictures can be drawn for it; seen twice, they cost half (data echoing: Choi et al.,
    "Faster Neural Network Training with Data Echoing", 2019).

    Args:
        draw: Number of a batch → it and those after it.
        step: To begin at.
    """
    number, seen = divmod(step, 2)
    return islice((batch for batch in draw(number) for _ in range(2)), seen, None)


def fit_module(
    module: nn.Module,
    batches: Callable[[int], Iterator[Seen]],
    loss: Callable[[int, Seen], dict[str, Tensor]],
    fit: Fit,
    folder: Path,
    report: Callable[[str], None] = print,
    preview: Callable[[int], None] | None = None,
) -> None:
    """Train `module` and leave its averaged weights in it, in evaluation mode.

    The same call goes on from the last checkpoint in `folder`, or returns at once when the part is finished.
    What a step sees must depend on its number alone, so that resuming needs no state but the step.

    Args:
        module: Trained in place, on the device where it is; its parameters that require gradients.
        batches: Step to begin at → what that step and each one after it sees.
        loss: Step number and what it sees → named terms; ``"loss"`` is minimised, the others are logged.
        fit: Length, batch size and optimiser.
        folder: Gets ``state.safetensors`` and ``log.jsonl``: terms, throughput, and the share of the time for which
            `batches` kept the loop waiting.
        report: Receives a line about progress every few seconds, with speed and waiting so far.
        preview: Called with the step after every checkpoint, under the averaged weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(module, fit)
    start = state.restore(folder)
    module.train()
    source, waited = batches(start), 0.0
    began = last_save = last_report = time.monotonic()
    paused = -state.seconds
    with (folder / "log.jsonl").open("a") as log:
        for step in range(start, fit.steps if schedule(start, fit, state.seconds) else start):
            asked = time.monotonic()
            seen = next(source)
            waited += time.monotonic() - asked
            terms = loss(step, seen)
            now = time.monotonic()
            state.seconds = now - began - paused
            state.update(step, terms["loss"])
            if step % _CHECKED_EVERY == 0 and not math.isfinite(float(terms["loss"].detach())):
                raise TwinactError(f"{folder.name}: the loss of step {step} is not finite; {folder} is as it was saved")
            last_step = step + 1 == fit.steps or schedule(step + 1, fit, state.seconds) == 0
            if last_step or now - last_report > REPORT_SECONDS:
                values = {n: round(float(v.detach()), 5) for n, v in terms.items()}
                rate = (step + 1 - start) / (now - began)
                speed = {
                    "pictures_per_second": round(rate * fit.batch_size, 1),
                    "waiting": round(waited / (now - began), 3),
                }
                log.write(json.dumps({"step": step + 1, **values, **speed}) + "\n")
                log.flush()
                left = min((fit.steps - step - 1) / rate, 60 * fit.minutes - state.seconds) / 60
                report(
                    f"{folder.name}: {step + 1}/{fit.steps} {values} {rate * fit.batch_size:.0f}/s, "
                    f"{speed['waiting']:.0%} of the time waiting for data, {left:.1f} min left"
                )
                last_report = now
            if last_step or now - last_save > CHECKPOINT_SECONDS:
                state.save(folder, step + 1)
                if preview is not None:
                    with torch.no_grad(), state.averaged():
                        preview(step + 1)
                last_save = time.monotonic()
                paused += last_save - now
            if last_step:
                break
    state.load(state.average)
    module.eval()


class _State:
    """Everything of a run that changes: parameters, their average, and the optimiser.

    torch's AveragedModel would hold a second module; here only the parameters that learn are averaged and saved.
    """

    def __init__(self, module: nn.Module, fit: Fit) -> None:
        self.module, self.fit, self.seconds = module, fit, 0.0
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), fit.learning_rate, betas=(0.9, 0.99), weight_decay=fit.weight_decay, fused=True
        )

    def update(self, step: int, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.fit.learning_rate * schedule(step, self.fit, self.seconds)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        decay = min(self.fit.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        current = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.load(self.average)
        self.module.eval()
        yield
        self.module.train()
        self.load(current)

    def save(self, folder: Path, step: int) -> None:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            tensors |= {f"p.{name}": parameter.detach(), f"a.{name}": self.average[name]}
            tensors |= {f"m.{name}": moments["exp_avg"], f"v.{name}": moments["exp_avg_sq"]}
        header = {"kind": _KIND, "version": 1, "step": step, "seconds": self.seconds}
        write_safetensors(folder / _FILE, {n: t.cpu().contiguous() for n, t in tensors.items()}, header)

    def restore(self, folder: Path) -> int:
        """Finished steps of the checkpoint in `folder`, which is loaded; 0 without one."""
        if not (folder / _FILE).exists():
            return 0
        tensors, header = read_safetensors(folder / _FILE, _KIND)
        self.load({n: tensors[f"p.{n}"] for n in self.parameters})
        for name, parameter in self.parameters.items():
            self.average[name].copy_(tensors[f"a.{name}"])
            self.optimizer.state[parameter] = {
                # Kept where fused AdamW keeps it: beside the parameter.
                "step": torch.tensor(float(header["step"]), device=parameter.device),
                "exp_avg": tensors[f"m.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"v.{name}"].to(parameter.device),
            }
        self.seconds = float(header["seconds"])
        return int(header["step"])
