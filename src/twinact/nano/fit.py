"""The training loop of every part of nano: resumable, logged, with an exponential moving average."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from twinact.files import read_header, read_safetensors, write_safetensors
from twinact.nano.recipe import Fit

CHECKPOINT_SECONDS = 120.0
StepLoss = Callable[[int], dict[str, Tensor]]


def schedule(step: int, fit: Fit) -> float:
    """Learning-rate factor: linear warm-up, constant, linear to zero over the last quarter."""
    warmup = min(1.0, (step + 1) / fit.warmup_steps)
    return warmup * min(1.0, (fit.steps - step) / (0.25 * fit.steps))


def finished_steps(folder: Path) -> int:
    """Steps that the last checkpoint in `folder` has behind it, 0 without one."""
    path = folder / "state.safetensors"
    return int(read_header(path, "nano-state")["step"]) if path.exists() else 0


def fit_module(
    module: nn.Module,
    loss: StepLoss,
    fit: Fit,
    folder: Path,
    report: Callable[[str], None] = print,
    preview: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train `module` and leave its averaged weights in it.

    The same call goes on from the last checkpoint in `folder`, or returns at once when the part is finished.
    What a step sees must depend on its number alone, so that resuming needs no state but the step.

    Args:
        module: Trained in place; its parameters that require gradients.
        loss: Step number → named terms; ``"loss"`` is minimised, the others are logged.
        fit: Length, batch size and optimiser.
        folder: Gets ``state.safetensors`` and ``log.jsonl``.
        report: Receives a line about progress every few seconds.
        preview: Called with the step after every checkpoint, under the averaged weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    average = {n: p.detach().clone() for n, p in parameters.items()}
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=fit.learning_rate, betas=(0.9, 0.99), weight_decay=fit.weight_decay, fused=True
    )
    start = _restore(folder, parameters, average, optimizer)
    module.train()
    log = (folder / "log.jsonl").open("a")
    began = last_save = last_report = time.monotonic()
    for step in range(start, fit.steps):
        for group in optimizer.param_groups:
            group["lr"] = fit.learning_rate * schedule(step, fit)
        terms = loss(step)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        decay = min(fit.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        now = time.monotonic()
        last_step = step + 1 == fit.steps
        if last_step or now - last_report > 15:
            values = {n: round(float(v.detach()), 5) for n, v in terms.items()}
            rate = (step + 1 - start) / (now - began)
            line = {"step": step + 1, **values, "pictures_per_second": round(rate * fit.batch_size, 1)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            left = (fit.steps - step - 1) / rate
            report(
                f"{folder.name}: {step + 1}/{fit.steps} {values} {rate * fit.batch_size:.0f}/s {left / 60:.1f} min left"
            )
            last_report = now
        if last_step or now - last_save > CHECKPOINT_SECONDS:
            _save(folder, step + 1, parameters, average, optimizer)
            last_save = time.monotonic()
            if preview is not None:
                with torch.no_grad():
                    current = {n: p.detach().clone() for n, p in parameters.items()}
                    _load(parameters, average)
                    module.eval()
                    preview(step + 1)
                    module.train()
                    _load(parameters, current)
    log.close()
    _load(parameters, average)
    return module.eval()


def _load(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def _save(folder: Path, step: int, parameters, average, optimizer) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors |= {f"p.{name}": parameter.detach(), f"a.{name}": average[name]}
        tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
    tensors = {n: t.cpu().contiguous() for n, t in tensors.items()}
    write_safetensors(folder / "state.safetensors", tensors, {"kind": "nano-state", "version": 1, "step": step})


def _restore(folder: Path, parameters, average, optimizer) -> int:
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    tensors, header = read_safetensors(path, "nano-state")
    step = int(header["step"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"p.{name}"])
            average[name].copy_(tensors[f"a.{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"m.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"v.{name}"].to(parameter.device),
            }
    return step
