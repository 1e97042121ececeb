"""Chooses what nobody has set to suit the machine: precision, memory preset, and how many pictures fit at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from twinact.backbones import parameters
from twinact.backbones.memory import cpu_computes_bf16
from twinact.configs import BUDGETS, RunConfig
from twinact.console import say
from twinact.training.gradients import check_parts
from twinact.training.processes import this_process

# Of int8 and nf4 with their scales, and with embeddings, convolutions and norms that stay in bf16.
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1.1, "nf4": 0.65}
# A picture of 1024 pixels with activations computed again, the CUDA libraries, and one layer spelled out.
_BESIDES_WEIGHTS = 2 * 2**30
# What a picture keeps for backward, in weights of the model. Counted for SDXL at 1024 pixels in bf16: 5.0 GiB, for 6.5
# GiB of weights. Twice that, for LoRAs, for what libraries take, and for models with more layers.
_PICTURE = 2


@dataclass(frozen=True)
class Gpu:
    """The facts about a GPU that decide what suits it.

    Attributes:
        free_bytes: Bytes of its memory that are free.
        bf16: Whether it computes in bfloat16 without emulating it.
    """

    free_bytes: int
    bf16: bool


@dataclass(frozen=True)
class Resources:
    """The settings that were given, and those that suit the machine in place of the others.

    Attributes:
        precision: One of `twinact.configs.PRECISIONS`.
        memory: One of `twinact.configs.MEMORY`.
        at_once: Pictures to take at once at most; None is any number.
    """

    precision: str
    memory: str
    at_once: int | None


def resources_for(
    gpu: Gpu | None,
    numbers: int,
    precision: str | None = None,
    memory: str | None = None,
    *,
    cpu_bf16: bool = False,
) -> Resources:
    """What suits a model on a GPU, or on the CPU where there is none.

    On the CPU: bf16 where it computes that in hardware, else fp32; normal. On a GPU: bf16, or fp16 where it lacks that;
    "low" and one picture at a time when what the weights leave free is less than twice their size, otherwise "normal"
    and a picture for each such share.

    Args:
        gpu: None is the CPU.
        numbers: In all networks of the model; see `twinact.backbones.parameters`.
        precision, memory: The given settings; None leaves them to this function. A budget is held with "low" and the
            finest weights that fit into it, all networks together; with nf4 where none do.
        cpu_bf16: As `cpu_computes_bf16`.
    """
    if gpu is None:
        memory = "normal" if memory is None or memory in BUDGETS else memory
        return Resources(precision or ("bf16" if cpu_bf16 else "fp32"), memory, None)
    if memory in BUDGETS:
        room = min(gpu.free_bytes, int(memory) * 2**30)
        kinds = [precision] if precision else ["bf16" if gpu.bf16 else "fp16", "int8", "nf4"]
        precision = finest(numbers, room, kinds) or kinds[-1]
        return Resources(precision, "low", 1)
    precision = precision or ("bf16" if gpu.bf16 else "fp16")
    weights = int(numbers * _WEIGHT_BYTES[precision])
    fitting = (gpu.free_bytes - weights) // (_PICTURE * weights)
    memory = memory or ("normal" if fitting >= 1 else "low")
    return Resources(precision, memory, 1 if memory == "low" else max(1, fitting))


def needed_bytes(numbers: int, precision: str) -> float:
    """Memory that a model takes with "low": the weights of all its networks, and the rest of a step with one picture.

    Args:
        numbers: In all networks of the model.
        precision: One of `twinact.configs.PRECISIONS`.
    """
    return numbers * _WEIGHT_BYTES[precision] + _BESIDES_WEIGHTS


def finest(numbers: int, room_bytes: float, kinds: Sequence[str]) -> str | None:
    """The first precision with which a model fits, in order of preference; None where none does."""
    return next((kind for kind in kinds if needed_bytes(numbers, kind) <= room_bytes), None)


@lru_cache(maxsize=1)
def this_gpu() -> Gpu | None:
    """The GPU that models are opened on, as it was before the first one; None without a GPU."""
    device = this_process().device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda":
        return None
    return Gpu(torch.cuda.mem_get_info(device)[0], torch.cuda.is_bf16_supported(including_emulation=False))


def choose_resources(model: str | Path, precision: str | None = None, memory: str | None = None) -> Resources:
    """What suits a model in this process; see `resources_for`. A message says what was chosen.

    Raises:
        TwinactError: As `twinact.backbones.parameters`.
    """
    gpu = this_gpu()
    if gpu is None:
        found = resources_for(None, 0, precision, memory, cpu_bf16=cpu_computes_bf16())
        if precision is None and found.precision != "fp32":
            say(f"for this CPU: precision {found.precision}")
        if found.precision != "fp32" and not cpu_computes_bf16():
            say(f"note: this CPU emulates what precision {found.precision} computes in; fp32 is many times as fast")
        return found
    numbers = parameters(model)
    found = resources_for(gpu, numbers, precision, memory)
    if memory in BUDGETS:
        needed = needed_bytes(numbers, found.precision) / 2**30
        say(
            f"for {memory} GiB: precision {found.precision}, memory {found.memory}, one picture at once; weights and "
            f"the rest of a step are about {needed:.1f} GiB"
            + ("" if needed <= int(memory) else "; that is more than may be taken, and no smaller weights are known")
        )
    elif None in (precision, memory):
        say(
            f"for this GPU with {gpu.free_bytes / 2**30:.1f} GiB free: precision {found.precision}, memory "
            f"{found.memory}, at most {found.at_once} at once"
        )
    return found


def run_config(
    given: Mapping[str, Any], model: str | Path, batch_size: int, begun: Mapping[str, Any] | None = None
) -> RunConfig:
    """How to carry out a run: as given, else as it was begun, else as suits the machine; the same in all processes.

    Args:
        given: Settings that somebody has given, by the names of `RunConfig`.
        model: The model of the run.
        batch_size: Pictures a step.
        begun: Settings of the run in its folder, if there is one.

    Raises:
        TwinactError: As `RunConfig` and `twinact.backbones.parameters`.
    """
    RunConfig(**given)  # before anything is looked at
    group = this_process()

    def choose() -> dict[str, Any]:
        known = dict(given)
        if begun is not None:
            rounding = begun["rounding"]
            accumulate = max(1, rounding["processes_times_accumulate"] // group.count)
            compiled = {"memory": "fast"} if rounding["compiled"] else {}
            known = {"precision": rounding["precision"], "accumulate": accumulate, **compiled, **given}
        if {"precision", "memory", "accumulate"} <= known.keys() and known["memory"] not in BUDGETS:
            return known
        found = choose_resources(model, known.get("precision"), known.get("memory"))
        own = max(1, batch_size // group.count)  # pictures of each process
        accumulate = 1 if found.at_once is None else math.ceil(own / found.at_once)
        chosen = {"precision": found.precision, "accumulate": accumulate, **known}
        return {**chosen, "memory": found.memory}

    run = RunConfig(**group.on_main(choose))
    check_parts(batch_size, run.accumulate, group.count)
    return run
