"""What suits a machine where nobody has said: precision, memory preset, and how many pictures fit at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from twinact.backbones import parameters
from twinact.configs import RunConfig
from twinact.processes import this_process
from twinact.runs import begun_with
from twinact.terminal import say

_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# What a picture keeps for backward, in weights of the model. Counted for SDXL at 1024 pixels in bf16: 5.0 GiB, for 6.5
# GiB of weights. Twice that, for LoRAs, for what libraries take, and for models with more layers.
_PICTURE = 2


@dataclass(frozen=True)
class Gpu:
    """What of a GPU decides what suits it.

    Attributes:
        free_bytes: Of its memory.
        bf16: Whether it computes in bfloat16 without emulating it.
    """

    free_bytes: int
    bf16: bool


@dataclass(frozen=True)
class Suited:
    """What was said, and for the rest what suits the machine.

    Attributes:
        precision: Of `twinact.configs.PRECISIONS`.
        memory: Of `twinact.configs.MEMORY`.
        at_once: Pictures to take at once at most; None is any number.
    """

    precision: str
    memory: str
    at_once: int | None


def suited(
    gpu: Gpu | None,
    numbers: int,
    precision: str | None = None,
    memory: str | None = None,
    *,
    cpu_bf16: bool = False,
) -> Suited:
    """What suits a model on a GPU, or on the CPU where there is none.

    On the CPU: bf16 where it computes that in hardware, else fp32; normal. On a GPU: bf16, or fp16 where it lacks that;
    "low" and one picture at a time when what the weights leave free is less than twice their size, otherwise "normal"
    and a picture for each such share.

    Args:
        gpu: None is the CPU.
        numbers: In all networks of the model; see `twinact.backbones.parameters`.
        precision, memory: What was said about them; None leaves them to this function.
        cpu_bf16: As `cpu_computes_bf16`.
    """
    if gpu is None:
        return Suited(precision or ("bf16" if cpu_bf16 else "fp32"), memory or "normal", None)
    precision = precision or ("bf16" if gpu.bf16 else "fp16")
    weights = numbers * _WEIGHT_BYTES[precision]
    fitting = (gpu.free_bytes - weights) // (_PICTURE * weights)
    memory = memory or ("normal" if fitting >= 1 else "low")
    return Suited(precision, memory, 1 if memory == "low" else max(1, fitting))


@lru_cache(maxsize=1)
def this_gpu() -> Gpu | None:
    """The GPU that models are opened on, as it was before the first one; None without a GPU."""
    device = this_process().device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda":
        return None
    return Gpu(torch.cuda.mem_get_info(device)[0], torch.cuda.is_bf16_supported(including_emulation=False))


@lru_cache(maxsize=1)
def cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is slower than float32."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def suited_here(model: str | Path, precision: str | None = None, memory: str | None = None) -> Suited:
    """What suits a model in this process; see `suited`. Tells what was chosen.

    Raises:
        TwinactError: As `twinact.backbones.parameters`.
    """
    gpu = this_gpu()
    if gpu is None:
        found = suited(None, 0, precision, memory, cpu_bf16=cpu_computes_bf16())
        if precision is None and found.precision != "fp32":
            say(f"for this CPU: precision {found.precision}")
        return found
    found = suited(gpu, parameters(model), precision, memory)
    if None in (precision, memory):
        say(
            f"for this GPU with {gpu.free_bytes / 2**30:.1f} GiB free: precision {found.precision}, memory "
            f"{found.memory}, at most {found.at_once} at once"
        )
    return found


def run_config(given: Mapping[str, Any], model: str | Path, batch_size: int, run_dir: str | Path) -> RunConfig:
    """How to carry out a run: as said, else as it was begun, else as suits the machine; the same in all processes.

    Args:
        given: What was said, by the names of `RunConfig`.
        model: That it is about.
        batch_size: Pictures a step.
        run_dir: The run's own folder.

    Raises:
        TwinactError: As `RunConfig`, `twinact.runs.begun_with` and `twinact.backbones.parameters`.
    """
    RunConfig(**given)  # a mistake is told before anything is looked at
    group = this_process()

    def choose() -> dict[str, Any]:
        begun = begun_with(run_dir, "rounding")
        known = dict(given)
        if begun is not None:
            accumulate = max(1, begun["processes_times_accumulate"] // group.count)
            compiled = {"memory": "fast"} if begun["compiled"] else {}
            known = {"precision": begun["precision"], "accumulate": accumulate, **compiled, **given}
        found = suited_here(model, known.get("precision"), known.get("memory"))
        own = max(1, batch_size // group.count)  # pictures of each process
        accumulate = 1 if found.at_once is None else math.ceil(own / found.at_once)
        return {"precision": found.precision, "memory": found.memory, "accumulate": accumulate, **known}

    return RunConfig(**group.on_main(choose))
