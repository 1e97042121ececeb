"""The only training loop: any method on any backbone.

Every random choice of a step comes from (seed, step), never from how many draws came before. So a run that was
stopped goes on to the same bits without any generator's state, and a step can be made again alone.
"""

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact.action import Action
from twinact.backbones.base import Backbone
from twinact.configs import LearnConfig
from twinact.errors import CheckpointError, ConfigError, TwinactError
from twinact.exemplars import Exemplars
from twinact.methods.base import Batch, Method
from twinact.runs import Checkpoint, RunFolder

# Only spikes are cut: Adam does not care for the gradient's usual size.
MAX_GRADIENT_NORM = 1.0
FINAL_RATE_SHARE = 0.1
_ENCODED_AT_ONCE = 8


@dataclass(frozen=True)
class StepRecord:
    """What is known after a step; also a line of ``log.jsonl``.

    Attributes:
        step: Finished steps, from 1.
        steps: Of the whole run.
        terms: The method's terms; "loss" is what was minimised.
        gradient_norm: Over all parameters, before clipping.
        learning_rate: Of the first parameter group in this step.
        seconds: That this step took.
    """

    step: int
    steps: int
    terms: dict[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        action: What was learned.
        action_path: Its file.
        terms: Of the last step, as in the log; empty if the log was deleted.
        resumed_from: Finished steps that this call found; `steps` when there was nothing left to do.
        already_done: Whether the run had been finished before this call.
    """

    action: Action
    action_path: Path
    terms: dict[str, float]
    resumed_from: int
    already_done: bool


def train(
    method: Method,
    backbone: Backbone,
    exemplars: Exemplars,
    config: LearnConfig,
    run_dir: str | Path,
    progress: Callable[[StepRecord], None] | None = None,
) -> TrainResult:
    """Learn an action, or go on with a run that was stopped, or say that it is done.

    The first SIGINT or SIGTERM ends the run after the step at work: a checkpoint is saved and KeyboardInterrupt
    raised. So does a KeyboardInterrupt from `progress`. A second signal acts at once.

    Args:
        method: What is learned and how; see `twinact.methods.make_method`.
        backbone: Frozen; what a method attaches to it is gone when this returns.
        exemplars: Of the backbone's `image_size`.
        config: The settings that `method` was made from.
        run_dir: The run's own folder; see `twinact.runs`.
        progress: Called after each step.

    Raises:
        ConfigError: The parts do not fit each other, or `run_dir` holds a run with other settings.
        DataError: `run_dir` holds something else or cannot be written.
        CheckpointError: All checkpoints of the run are damaged.
        TwinactError: The loss or its gradient is not finite; the last checkpoint stays, nothing is exported.
    """
    if method.name != config.method:
        raise ConfigError(
            f"config says method {config.method!r} and a {method.name!r} was given; make it from the config"
        )
    if exemplars.size != backbone.image_size:
        raise ConfigError(
            f"exemplars are {exemplars.size} pixels wide and the backbone draws {backbone.image_size}; "
            f"load them with size={backbone.image_size}"
        )
    try:
        return _run(method, backbone, exemplars, config, run_dir, progress)
    finally:
        method.detach(backbone)


def _run(
    method: Method,
    backbone: Backbone,
    exemplars: Exemplars,
    config: LearnConfig,
    run_dir: str | Path,
    progress: Callable[[StepRecord], None] | None,
) -> TrainResult:
    groups = method.attach(backbone)
    versions = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    folder = RunFolder.open(run_dir, config.name, _settings(method, backbone, exemplars, config), versions)
    if folder.done:
        action = Action.load(folder.action_path)
        return TrainResult(action, folder.action_path, folder.last_terms(), config.steps, already_done=True)

    parameters = [parameter for group in groups for parameter in group["params"]]
    base_rates = [group["lr"] for group in groups]
    optimizer = torch.optim.Adam(groups)
    checkpoint = folder.load()
    start = 0 if checkpoint is None else checkpoint.step
    if checkpoint is not None:
        _restore(method, optimizer, checkpoint.tensors)
    folder.rewind_log(start)
    latents = encode_exemplars(backbone, exemplars)

    with _stop_between_steps() as stop:
        for step in range(start, config.steps):
            began = time.perf_counter()
            share = rate_share(config, step)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * share
            batch = draw_batch(backbone, latents, exemplars.captions, config, step)
            with torch.autocast(backbone.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                terms = method.loss(backbone, batch, step_generator(config.seed, step, "method"))
            optimizer.zero_grad()
            terms["loss"].backward()
            norm = float(nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM))
            values = {name: float(term.detach()) for name, term in terms.items()}
            # Before the optimiser acts on them, so that what is learned stays as the last good step left it.
            _check_finite(step + 1, {**values, "gradient norm": norm}, folder)
            optimizer.step()

            rate = optimizer.param_groups[0]["lr"]
            record = StepRecord(step + 1, config.steps, values, norm, rate, time.perf_counter() - began)
            folder.log(vars(record))
            if progress is not None:
                try:
                    progress(record)
                except KeyboardInterrupt:
                    stop.set()
            last = step + 1 == config.steps
            if last or stop.is_set() or (step + 1) % config.checkpoint_every == 0:
                folder.save(Checkpoint(step + 1, _collect(method, optimizer)))
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {config.steps}; run again to go on")

    action = method.action(config.name, _meta(exemplars, config, versions))
    action.save(folder.action_path)
    return TrainResult(action, folder.action_path, folder.last_terms(), start, already_done=False)


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one purpose in one step; equal arguments give equal numbers on every machine."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_batch(
    backbone: Backbone,
    latents: Float[Tensor, "n c h w"],
    captions: tuple[str, ...],
    config: LearnConfig,
    step: int,
) -> Batch:
    """The batch of a step: exemplars in shuffled rounds, each round every one once, with partner, noise and time.

    Args:
        backbone: Gives the times.
        latents: Of all exemplars.
        captions: Theirs.
        config: `seed`, `batch_size` and `noise_bias` are used.
        step: From 0.
    """
    count, size = len(latents), config.batch_size
    positions = range(step * size, (step + 1) * size)
    rounds = {position // count for position in positions}
    orders = {i: torch.randperm(count, generator=step_generator(config.seed, i, "order")).tolist() for i in rounds}
    chosen = torch.tensor([orders[position // count][position % count] for position in positions])  # (b,)
    generator = step_generator(config.seed, step, "batch")
    # Any of the others, all alike likely; the only exemplar is its own partner.
    shift = torch.randint(1, count, (size,), generator=generator) if count > 1 else torch.zeros(size, dtype=torch.long)
    partners = (chosen + shift) % count
    noise = torch.randn((size, *latents.shape[1:]), generator=generator).to(latents)
    return Batch(
        latents=latents[chosen.to(latents.device)],
        captions=tuple(captions[index] for index in chosen.tolist()),
        partners=latents[partners.to(latents.device)],
        noise=noise,
        t=backbone.noising.sample_t(size, generator, config.noise_bias),
    )


def rate_share(config: LearnConfig, step: int) -> float:
    """Share of the first learning rate in a step counted from 0: 1, or a cosine from 1 to `FINAL_RATE_SHARE`."""
    if config.schedule == "constant" or config.steps == 1:
        return 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / (config.steps - 1)))
    return FINAL_RATE_SHARE + (1.0 - FINAL_RATE_SHARE) * cosine


@torch.no_grad()
def encode_exemplars(backbone: Backbone, exemplars: Exemplars) -> Float[Tensor, "n c h w"]:
    """Latents of all exemplars, on the backbone's device."""
    chunks = exemplars.pixels.split(_ENCODED_AT_ONCE)
    return torch.cat([backbone.encode_image(chunk.to(backbone.device, backbone.dtype)) for chunk in chunks])


def _settings(method: Method, backbone: Backbone, exemplars: Exemplars, config: LearnConfig) -> dict[str, Any]:
    """All that decides the result of a run."""
    return {
        **config.to_dict(),
        "learning_rate": config.rate,
        "backbone": backbone.model_id,
        "tokenizers": backbone.tokenizer_hash,
        "exemplars": exemplars.hashes,
        "captions": exemplars.captions,
        "parts": method.identity(),
    }


def _meta(exemplars: Exemplars, config: LearnConfig, versions: dict[str, str]) -> dict[str, Any]:
    return {
        "config": config.to_dict(),
        "seed": config.seed,
        "exemplars": list(exemplars.hashes),
        "captions": list(exemplars.captions),
        "versions": versions,
    }


def _collect(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Method and optimiser state as flat names: ``method/<name>`` and ``optimizer/<parameter>/<name>``."""
    tensors = {f"method/{name}": tensor for name, tensor in method.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items()}
    return tensors


def _restore(method: Method, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `_collect`."""
    learned: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        owner, _, name = path.partition("/")
        if owner == "method":
            learned[name] = tensor
        else:
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = tensor
    try:
        method.load_state_dict(learned)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint does not fit the method: {error}; give another run folder") from error


def _check_finite(step: int, values: dict[str, float], folder: RunFolder) -> None:
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        good = folder.last_step
        kept = f"the checkpoint of step {good} is good" if good else "there is no checkpoint yet"
        raise TwinactError(f"step {step}: {', '.join(bad)}; {kept}, nothing was exported; lower learning_rate")


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """While open, the first SIGINT or SIGTERM only sets the event: a step cut in two could not be saved.

    Outside the main thread Python delivers no signals, and the event is left to others.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
