"""The only training loop; it takes any method and any backbone.

Every random choice of a step comes from (seed, step), never from how many draws came before. So a run that was
stopped goes on to the same bits without any generator's state, and a step can be made again alone.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import PRESETS, explain_out_of_memory
from twinact.backbones.text import silence_cut_warnings
from twinact.backbones.weights import digits_of
from twinact.configs import LearnConfig, RunConfig
from twinact.data.exemplars import Exemplars, check_captions
from twinact.data.shapes import Together, together
from twinact.errors import CheckpointError, ConfigError, TwinactError
from twinact.methods.batches import draw_batch, latent_masks, step_generator
from twinact.methods.method import Method
from twinact.runs.folder import Checkpoint, Cost, RunFolder, library_versions
from twinact.training.gradients import LossScale, check_parts, memory_advice, set_gradients
from twinact.training.optimizer import Adam
from twinact.training.processes import this_process
from twinact.training.stopping import stop_between_steps

# Only spikes are cut: Adam does not care for the gradient's usual size.
MAX_GRADIENT_NORM = 1.0
FINAL_RATE_SHARE = 0.1
# A run has diverged when the mean loss of its last steps is so many times that of its first ones.
_DIVERGED, _WINDOW_STEPS = 10.0, 20
# Losses are about one where nothing is known. One that starts near zero, as the pose's does where the start is right
# already, may grow tenfold and still say that all is well.
_LEAST_FIRST = 0.05
# What Adam keeps for each number of a parameter; what else it keeps is one number for all of them.
_OF_EACH_NUMBER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_LOST = "numbers that are learned are not finite any more"


@dataclass(frozen=True)
class StepRecord:
    """The numbers of one step; also a line of ``log.jsonl``.

    Attributes:
        step: Finished steps, from 1.
        steps: Steps of the whole run.
        terms: The method's terms; "loss" is what was minimised.
        gradient_norm: Over all parameters, before clipping.
        learning_rate: Learning rate of the first parameter group in this step.
        seconds: That this step took.
        forward, backward: Pictures that the denoiser saw in this step, and those through which gradients flowed, in all
            processes.
    """

    step: int
    steps: int
    terms: dict[str, float]
    gradient_norm: float
    learning_rate: float
    seconds: float
    forward: int
    backward: int


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        action: What was learned.
        action_path: Its file.
        terms: Terms of the last step, as in the log; empty if the log was deleted.
        resumed_from: Finished steps that this call found; `steps` when there was nothing left to do.
        already_done: Whether the run had been finished before this call.
        cost: What the run has spent, in all calls together.
    """

    action: Action
    action_path: Path
    terms: dict[str, float]
    resumed_from: int
    already_done: bool
    cost: Cost


def train(
    method: Method,
    backbone: Backbone,
    exemplars: Exemplars,
    config: LearnConfig,
    run_dir: str | Path,
    progress: Callable[[StepRecord], None] | None = None,
    *,
    run: RunConfig | None = None,
    latents: Together | None = None,
    search: int = 0,
    after_step: Callable[[int, Method], None] | None = None,
) -> TrainResult:
    """Learn an action, or go on with a run that was stopped, or say that it is done.

    Under ``accelerate launch``, all processes call this with the same arguments and share the pictures of each step;
    the main one writes.

    The first SIGINT, SIGTERM or SIGHUP ends the run after the step at work: a checkpoint is saved and
    KeyboardInterrupt raised. So does a KeyboardInterrupt from `progress`. A second signal acts at once.

    Args:
        method: What is learned and how; see `twinact.methods.make_method`.
        backbone: Frozen; what a method attaches to it is gone when this returns.
        exemplars: Pictures in the backbone's `image_size`, or in shapes of about as many pixels.
        config: The settings that `method` was made from.
        run_dir: The run's own folder; see `twinact.runs.folder`.
        progress: Called after each step, in the main process.
        run: How to carry it out; None takes the defaults.
        latents: Latents of the exemplars, where `encode_exemplars` has been called before.
        search: Pictures that the denoiser saw while the start was looked for; see `twinact.runs.folder.Cost`.
        after_step: Called in the main process where the run begins or goes on, and after each step except one after
            which it is stopped, with the finished steps and the method; leaves method and backbone as they are.

    Raises:
        ConfigError: The parts do not fit each other, the batch has fewer pictures than it is to be split in, or
            `run_dir` holds a run with other settings.
        DataError: The model would not read the action in a caption; `run_dir` holds something else, cannot be
            written, or is in use by another process.
        CheckpointError: All checkpoints of the run are damaged.
        OutOfMemory: A step does not fit into memory.
        TwinactError: The loss or its gradient is not finite, or the loss grew tenfold; the last checkpoint stays,
            nothing is exported.
    """
    run, group = run or RunConfig(), this_process()
    if method.name != config.method.name:
        raise ConfigError(
            f"config says method {config.method.name!r} and a {method.name!r} was given; make it from the config"
        )
    if exemplars.size != backbone.image_size:
        raise ConfigError(
            f"exemplars are {exemplars.size} pixels wide and the backbone draws {backbone.image_size}; "
            f"load them with size={backbone.image_size}"
        )
    if PRESETS[run.memory].compile and backbone.device.type == "cpu":
        # Weights in front of a strided convolution get no gradient at all there (torch 2.13).
        raise ConfigError(f"memory {run.memory!r} compiles for GPUs only and the model is on the CPU; use 'normal'")
    parts = check_parts(config.batch_size, run.accumulate, group.count)
    versions = library_versions()
    with ExitStack() as open_until_done:
        open_until_done.callback(method.detach, backbone)
        if latents is None:  # before the folder is begun with captions that must be changed
            group.on_main(partial(check_captions, exemplars, backbone, config.method.most_vectors(config.slots)))
        open_until_done.enter_context(silence_cut_warnings())
        groups = method.attach(backbone)
        settings = _settings(method, backbone, exemplars, config, run, parts)

        def begin() -> bool:
            return open_until_done.enter_context(RunFolder.open(run_dir, config.name, settings, versions, search)).done

        done = group.on_main(begin)
        folder = RunFolder(Path(run_dir), config.name)

        def result(start: int) -> TrainResult:
            action = Action.load(folder.action_path)
            return TrainResult(action, folder.action_path, folder.last_terms(), start, done, folder.cost())

        if done:
            return group.on_main(lambda: result(config.steps))

        parameters = [parameter for one in groups for parameter in one["params"]]
        base_rates = [one["lr"] for one in groups]
        optimizer, scale = Adam(groups), LossScale.of(run.precision)
        checkpoint = group.on_main(folder.load)
        start = 0 if checkpoint is None else checkpoint.step
        if checkpoint is not None:
            _restore(method, optimizer, scale, checkpoint.tensors)
        losses = group.on_main(lambda: _rewound(folder, start))
        if latents is None:
            latents = encode_exemplars(backbone, exemplars, run.memory)
        masks = latent_masks(exemplars, latents)

        open_until_done.enter_context(backbone.saving(PRESETS[run.memory]))
        stop = open_until_done.enter_context(stop_between_steps())
        if after_step is not None:
            group.on_main(partial(after_step, start, method))
        for step in range(start, config.steps):
            began, before = time.perf_counter(), replace(backbone.passes)
            share = rate_share(config, step)
            for one, rate in zip(optimizer.param_groups, base_rates, strict=True):
                one["lr"] = rate * share
            batch = draw_batch(backbone, latents, exemplars.captions, config, step, masks)
            while True:
                with explain_out_of_memory(f"step {step + 1}", memory_advice(run.memory)):
                    values = set_gradients(
                        method,
                        backbone,
                        batch,
                        parameters,
                        generator=partial(_part_generator, config.seed, step),
                        parts=parts,
                        group=group,
                        precision=run.precision,
                        scale=scale.value,
                    )
                norm = float(nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM))
                if math.isfinite(norm) or not math.isfinite(values["loss"]) or not scale.lowered():
                    break
            # Before the optimiser acts on them, so that what is learned stays as the last good step left it.
            losses.append(values["loss"])
            problem = _problem({**values, "gradient norm": norm}, losses)
            if problem is None:
                optimizer.step()
                problem = None if math.isfinite(nn.utils.get_total_norm(parameters)) else _LOST
            if problem is not None:
                raise TwinactError(_stopped_at(step + 1, problem, group.on_main(lambda: folder.last_step), config, run))
            scale.passed()

            rate = optimizer.param_groups[0]["lr"]
            passes = [backbone.passes.forward - before.forward, backbone.passes.backward - before.backward]
            forward, backward = (int(one) for one in group.gather(torch.tensor(passes, dtype=torch.float32)).sum(dim=0))
            seconds = time.perf_counter() - began
            record = StepRecord(step + 1, config.steps, values, norm, rate, seconds, forward, backward)
            group.on_main(partial(_tell, folder, record, progress, stop))
            last = step + 1 == config.steps
            stopping = group.any(stop.is_set())
            if last or stopping or (step + 1) % run.checkpoint_every == 0:
                state = Checkpoint(step + 1, _collect(method, optimizer, scale))
                if not state.finite:  # the optimiser's own numbers may be lost before those that are learned
                    good = group.on_main(lambda: folder.last_step)
                    raise TwinactError(_stopped_at(step + 1, _LOST, good, config, run))
                group.on_main(partial(folder.save, state))
            if after_step is not None and (last or not stopping):
                group.on_main(partial(after_step, step + 1, method))
            if stopping and not last:
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {config.steps}; run again to go on")

        def export() -> TrainResult:
            method.action(config.name, _meta(exemplars, config, run, versions)).save(folder.action_path)
            return result(start)

        return group.on_main(export)


def _part_generator(seed: int, step: int, part: int) -> torch.Generator:
    return step_generator(seed, step, f"method/{part}")


def rate_share(config: LearnConfig, step: int) -> float:
    """Share of the first learning rate in a step counted from 0: 1, or a cosine from 1 to `FINAL_RATE_SHARE`."""
    if config.schedule == "constant" or config.steps == 1:
        return 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / (config.steps - 1)))
    return FINAL_RATE_SHARE + (1.0 - FINAL_RATE_SHARE) * cosine


@torch.no_grad()
def encode_exemplars(backbone: Backbone, exemplars: Exemplars, memory: str = "normal") -> Together:
    """Latents of all exemplars, on the backbone's device.

    Args:
        backbone: The model.
        exemplars: Pictures in its `image_size`, or in other shapes.
        memory: One of `twinact.configs.MEMORY`, for the advice in case that memory runs out.

    Raises:
        OutOfMemory: They do not fit.
    """
    # One at a time: an autoencoder takes gigabytes for a picture of 1024 pixels.
    with explain_out_of_memory("encoding the exemplars", memory_advice(memory)), backbone.autoencoder_on_device():
        pictures = (one[None].to(backbone.device, backbone.dtype) for one in exemplars.pixels)
        return together([backbone.encode_image(picture)[0] for picture in pictures])


def _settings(
    method: Method, backbone: Backbone, exemplars: Exemplars, config: LearnConfig, run: RunConfig, parts: int
) -> dict[str, Any]:
    """All that decides the bits of the result of a run."""
    square = all(width == height for width, height in exemplars.shapes)
    return {
        **config.to_dict(),
        "learning_rate": config.rate,
        "backbone": digits_of(backbone.model_id),
        "tokenizers": backbone.tokenizer_hash,
        "exemplars": exemplars.hashes,
        "captions": exemplars.captions,
        **({} if square else {"shapes": exemplars.shapes}),
        "parts": method.identity(),
        "rounding": {
            "precision": run.precision,
            "weights": str(backbone.dtype).removeprefix("torch."),
            "processes_times_accumulate": parts,
            "compiled": PRESETS[run.memory].compile,
        },
    }


def _meta(exemplars: Exemplars, config: LearnConfig, run: RunConfig, versions: dict[str, str]) -> dict[str, Any]:
    return {
        "config": config.to_dict(),
        "precision": run.precision,
        "seed": config.seed,
        "exemplars": list(exemplars.hashes),
        "captions": list(exemplars.captions),
        "versions": versions,
    }


def _tell(
    folder: RunFolder, record: StepRecord, progress: Callable[[StepRecord], None] | None, stop: threading.Event
) -> None:
    folder.log.append(vars(record))
    if progress is not None:
        try:
            progress(record)
        except KeyboardInterrupt:
            stop.set()


def _rewound(folder: RunFolder, step: int) -> list[float]:
    """The losses of the steps that are kept, after the folder was rewound to them."""
    return [record["terms"]["loss"] for record in folder.rewind(step)]


def _collect(method: Method, optimizer: torch.optim.Optimizer, scale: LossScale) -> dict[str, Tensor]:
    """All state by flat names: ``method/<name>``, ``scale/<name>`` and ``optimizer/<parameter>/<name>``."""
    tensors = {f"method/{name}": tensor for name, tensor in method.state_dict().items()}
    tensors |= {f"scale/{name}": tensor for name, tensor in scale.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items()}
    return tensors


def _restore(method: Method, optimizer: torch.optim.Optimizer, scale: LossScale, tensors: dict[str, Tensor]) -> None:
    """Inverse of `_collect`."""
    learned: dict[str, Tensor] = {}
    scaling: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for path, tensor in tensors.items():
            owner, _, name = path.partition("/")
            if owner == "method":
                learned[name] = tensor
            elif owner == "scale":
                scaling[name] = tensor
            else:
                index, _, key = name.partition("/")
                state.setdefault(int(index), {})[key] = tensor
        parameters = [parameter for one in optimizer.param_groups for parameter in one["params"]]
        for number, kept in state.items():
            shape = parameters[number].shape
            for key, tensor in kept.items():  # Adam would tell in the next step only
                if tensor.shape != (shape if key in _OF_EACH_NUMBER else ()):
                    raise ValueError(f"optimizer/{number}/{key} has shape {tuple(tensor.shape)} for {tuple(shape)}")
        method.load_state_dict(learned)
        scale.load_state_dict(scaling)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint does not fit the method: {error}; give another run folder") from error


def _problem(values: dict[str, float], losses: list[float]) -> str | None:
    """What is wrong with a step, None when nothing is."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        return ", ".join(bad)
    if len(losses) < 2 * _WINDOW_STEPS:
        return None
    first, last = (sum(part) / _WINDOW_STEPS for part in (losses[:_WINDOW_STEPS], losses[-_WINDOW_STEPS:]))
    if last <= _DIVERGED * max(first, _LEAST_FIRST):
        return None
    return f"learning diverged: mean loss {last:.3g} over {_WINDOW_STEPS} steps, {first:.3g} at first"


def _stopped_at(step: int, problem: str, good: int, config: LearnConfig, run: RunConfig) -> str:
    kept = f"the checkpoint of step {good} is good" if good else "there is no checkpoint yet"
    other = ", or precision bf16 or fp32 if it is too low already" if run.precision == "fp16" else ""
    return (
        f"step {step}: {problem}; {kept}, nothing was exported; "
        f"lower learning_rate (now {config.rate:g}){other}, with a new run folder"
    )
