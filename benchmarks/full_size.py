"""What learning and drawing take on the real architectures: seconds and memory of a step, with each saving.

The models have random weights, which cost as much as learned ones. Without a GPU only what can be counted is written:
parameters, the arithmetic of a step, and what it keeps for its backward pass. What is worth most comes first, for all
models, and the results are written after every measurement: if the benchmark is stopped, or its time is over (--total),
they hold what was measured. Models that are not asked for (--only) stay in them as they were.

python benchmarks/full_size.py benchmarks/results/full_size.json [--only sdxl] [--variant nothing] [--toy]
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from architectures import MODELS, half
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import PRESETS, Savings
from twinact.backbones.quantised import quantise
from twinact.configs import LearnConfig, TextualInversionConfig
from twinact.errors import DataError
from twinact.methods.batches import draw_batch, step_generator
from twinact.methods.textual_inversion import TextualInversion
from twinact.sample import generate
from twinact.training.gradients import set_gradients
from twinact.training.processes import this_process

AIM = "a step of sdxl with one picture of 1024 pixels in less than 12 GiB"
CAPTION = f"a woman {PLACEHOLDER} in a park"
WARM_STEPS, STEPS = 3, 10
_STOPPED = "the benchmark was stopped before"
GIB = 2**30
# Dense bf16 matrix arithmetic with float32 sums, 10^12 operations a second, from the makers' data sheets.
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2, "L4": 121.0}


@dataclass(frozen=True)
class Variant:
    """One way to run a model.

    Attributes:
        savings: What is saved.
        cached: Whether pictures are encoded once or in every step; drawings encode none.
        weights: How weights are rounded; None is not at all.
        side: Of the picture in pixels; None is the model's own.
        draws: Whether it draws.
        worth: Those of 0 are measured first, for all models.
    """

    savings: Savings
    cached: bool = True
    weights: str | None = None
    side: int | None = None
    draws: bool = False
    worth: int = 2

    def facts(self) -> dict[str, Any]:
        """As they stand in the results."""
        own = {"cached latents": self.cached, "weights": self.weights or "bf16"}
        return {**asdict(self.savings), **own, **({"pixels": self.side, "draws": self.draws} if self.side else {})}


_LOW, _NORMAL = PRESETS["low"], PRESETS["normal"]
VARIANTS = {
    "nothing": Variant(Savings(), cached=False),
    "cached latents (memory normal)": Variant(_NORMAL, worth=0),
    "and activation checkpointing": Variant(Savings(recompute=True)),
    "and offloading (memory low)": Variant(_LOW, worth=0),
    "and 8-bit weights (memory low, precision int8)": Variant(_LOW, weights="int8", worth=1),
    "and 4-bit weights (memory low, precision nf4)": Variant(_LOW, weights="nf4", worth=1),
    "cached latents and torch.compile (memory fast)": Variant(PRESETS["fast"], worth=3),
    "learning at 512 (memory normal)": Variant(_NORMAL, side=512, worth=1),
    "learning at 1024 (memory normal)": Variant(_NORMAL, side=1024),
    "drawing at 512 (memory normal)": Variant(_NORMAL, side=512, draws=True, worth=1),
    "drawing at 1024 (memory normal)": Variant(_NORMAL, side=1024, draws=True, worth=0),
    "drawing at 1024 (memory low)": Variant(_LOW, side=1024, draws=True),
    "drawing at 1024 (memory low, precision int8)": Variant(_LOW, weights="int8", side=1024, draws=True),
}
_TOY_SIDES = {512: 32, 1024: 64, None: None}
_FEW, _MORE = 2, 6  # denoising steps; what more of them take is what steps take
# Their text encoders or transformers look at the numbers of masks, which tensors without memory do not have: the
# operations of a step are counted when it is measured.
LOOK_AT_NUMBERS = ("klein", "z-image", "chroma")

# Attention on the CPU, which torch does not count by itself.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *rest, **options: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *rest, **options: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def counted(name: str, toy: bool, operations: bool = True) -> dict[str, Any]:
    """Parameters of each network, operations of a step with one picture and what it keeps, on tensors without memory.

    Kept are the activations that a CPU's operators need for the backward pass; those of a GPU differ a little.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as weights:
        weights.enter_context(fake)
        weights.enter_context(half("cpu"))
        backbone = MODELS[name](toy, weights)
    networks = {n: m for n, m in backbone.pipeline().components.items() if isinstance(m, torch.nn.Module)}
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in networks.items()}
    facts = {
        "pixels": backbone.image_size,
        "parameters": sizes,
        "weights in bf16, GiB": round(2 * sum(sizes.values()) / GIB, 2),
    }
    if name in LOOK_AT_NUMBERS or not operations:
        return facts
    tables = backbone.token_tables()
    t = backbone.noising.sample_t(1, torch.Generator())

    def loss() -> torch.Tensor:
        vectors = [torch.zeros(3, table.width, requires_grad=True) for table in tables]
        cond = backbone.encode_text([CAPTION], {PLACEHOLDER: vectors})
        x_t = torch.zeros(1, *backbone.latent_shape, dtype=backbone.dtype)
        return backbone.predict(x_t, t, cond).float().square().mean()

    with fake, FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        loss().backward()
    own = {tensor.untyped_storage()._cdata for m in networks.values() for tensor in [*m.parameters(), *m.buffers()]}

    def kept(recompute: bool) -> float:
        stored: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            stored[storage._cdata] = storage
            return tensor

        watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with fake, backbone.saving(Savings(recompute=recompute)), watched, torch.autocast("cpu", torch.bfloat16):
            loss()
        return sum(storage.nbytes() for key, storage in stored.items() if key not in own) / GIB

    return facts | {
        "10^12 operations a step": round(counter.get_total_flops() / 1e12, 6),
        "kept for backward, GiB": round(kept(recompute=False), 4),
        "kept for backward with activation checkpointing, GiB": round(kept(recompute=True), 4),
    }


def measured(name: str, variant: str, toy: bool, device: str) -> dict[str, Any]:
    """Seconds and memory of steps with one picture, of learning or of drawing."""
    how = VARIANTS[variant]
    backbone = MODELS[name](toy, half(device))
    if how.weights:
        for network in backbone.pipeline().components.values():
            if isinstance(network, torch.nn.Module) and network is not backbone.pipeline().vae:
                quantise(network, how.weights, torch.device(device))
    side = _TOY_SIDES[how.side] if toy else how.side
    found = (drawn if how.draws else learned)(name, backbone, how, side or backbone.image_size, toy, device)
    if device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found["peak of the process, GiB"] = round(peak / GIB, 2)
    return found


def drawn(name: str, backbone: Backbone, how: Variant, side: int, toy: bool, device: str) -> dict[str, Any]:
    """Seconds of a denoising step, and memory of a whole drawing with its text and its decoding."""
    vectors = {PLACEHOLDER: [table.embed("a").float() for table in backbone.token_tables()]}

    def drawing(steps: int) -> float:
        _wait(device)
        began = time.perf_counter()
        with suppress(DataError):  # random weights may draw black
            generate(backbone, [CAPTION], vectors, seeds=[0], steps=steps, size=(side, side), batch_size=1)
        _wait(device)
        return time.perf_counter() - began

    with backbone.saving(how.savings):
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
            cond = backbone.encode_text([CAPTION], vectors)
            before = counter.get_total_flops()
            pixels = backbone.image_size // backbone.latent_shape[1]
            noise = torch.randn(1, backbone.latent_shape[0], side // pixels, side // pixels).to(backbone.device)
            times = backbone.noising.sample_t(1, torch.Generator()).to(backbone.device)
            backbone.predict(noise.to(backbone.dtype), times, cond)
            operations = (counter.get_total_flops() - before) * backbone.passes_a_step(backbone.guidance)
        drawing(1)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        few, more = drawing(_FEW), drawing(_MORE)
        step = max(1e-6, (more - few) / (_MORE - _FEW))  # noise is more than the difference at toy size
    row = {"seconds a step": round(step, 6), "seconds besides steps": round(max(0.0, few - _FEW * step), 4)}
    row["10^12 operations a step"] = round(operations / 1e12, 6)
    if device == "cuda":
        row["peak of a drawing, GiB"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
    return row


def learned(name: str, backbone: Backbone, how: Variant, side: int, toy: bool, device: str) -> dict[str, Any]:
    """Seconds and memory of learning steps with one picture."""
    config, group = LearnConfig(name="size", method=TextualInversionConfig(), batch_size=1, steps=100), this_process()
    method = TextualInversion(config.slots, config.rate)
    parameters = [p for one in method.attach(backbone) for p in one["params"]]
    optimizer = torch.optim.Adam(parameters)
    picture = torch.rand(1, 3, side, side).mul(2).sub(1)

    def encoded() -> torch.Tensor:
        with torch.no_grad():
            return backbone.encode_image(picture.to(backbone.device, backbone.dtype))

    latents, seconds, opened, operations = encoded(), [], 0, 0
    with backbone.saving(how.savings):
        for step in range(WARM_STEPS + (1 if toy else STEPS)):
            if step == WARM_STEPS and device == "cuda":
                opened = torch.cuda.max_memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            _wait(device)
            began = time.perf_counter()
            if not how.cached:
                latents = encoded()
            batch = draw_batch(backbone, latents, (CAPTION,), config, step)
            # Counting slows a step down.
            counting = (name in LOOK_AT_NUMBERS or how.side) and step == 0 and not how.savings.recompute
            with FlopCounterMode(display=False, custom_mapping=_ATTENTION) if counting else nullcontext() as counter:
                set_gradients(
                    method, backbone, batch, parameters,
                    generator=partial(step_generator, 0, purpose="method"), parts=1, group=group, precision="bf16",
                )  # fmt: skip
            operations = counter.get_total_flops() if counting else operations
            optimizer.step()
            _wait(device)
            seconds.append(time.perf_counter() - began)
    row: dict[str, Any] = {"seconds a step": round(statistics.median(seconds[WARM_STEPS:]), 4)}
    if operations:
        row["10^12 operations a step"] = round(operations / 1e12, 6)
    if device == "cuda":
        step_peak = torch.cuda.max_memory_allocated()
        row["peak of a step, GiB"] = round(step_peak / GIB, 2)
        row["peak of the whole run, GiB"] = round(max(opened, step_peak) / GIB, 2)
    return row


def machine() -> tuple[str, float | None]:
    """Name of the device that is measured, and its peak in 10^12 operations a second where it is known."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return device, next((value for key, value in PEAKS.items() if key in device), None)


def begun(name: str, variants: list[str], toy: bool, before: dict[str, Any] | None, keep: bool) -> dict[str, Any]:
    """The results of a model before anything of it is measured.

    Args:
        name: Of `MODELS`.
        variants: That will be measured. Others stay as they were if the device and the versions are the same.
        toy: Whether its networks are tiny.
        before: Earlier results.
        keep: Do not count again what was counted before.
    """
    scale = "toy" if toy else "full"
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": machine()[0],
        "scale": scale,
        "versions": {package: version(package) for package in ("torch", "diffusers", "transformers")},
    }
    earlier = before if before and before["scale"] == scale else {}
    same = all(facts[key] == earlier.get(key) for key in ("device", "versions"))
    if toy or torch.cuda.is_available():
        reasons = dict.fromkeys(variants, _STOPPED)
    else:
        reasons = dict.fromkeys(VARIANTS, "there was no GPU")
    table: dict[str, Any] = {}
    for variant, how in VARIANTS.items():
        if same and variant not in variants and variant in earlier["measured"]:
            table[variant] = earlier["measured"][variant]
        else:
            table[variant] = {**how.facts(), "not run": reasons.get(variant, "it was not asked for")}
    return {**facts, "counted": earlier["counted"] if keep and earlier else counted(name, toy), "measured": table}


def rows(name: str, variants: list[str], toy: bool, limit: float, until: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures variants of a model one after another; yields each with what was found.

    Every measurement has a process of its own, so that none inherits another's memory. All of them are forked from one
    that has imported everything and done nothing, since importing takes longer than measuring.

    Args:
        name: Of `MODELS`.
        variants: Of `VARIANTS`.
        toy: Whether its networks are tiny.
        limit: Seconds that each may take.
        until: The time, as `time.monotonic` tells it, after which none begins.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([Path(__file__).stem])
    for variant in variants:
        if time.monotonic() > until:
            return
        ours, its = server.Pipe(duplex=False)
        process = server.Process(target=_send_measured, args=(its, name, variant, toy))
        process.start()
        its.close()  # so that the end of the process is the end of the pipe
        try:
            found = ours.recv() if ours.poll(limit) else {"failed": f"took longer than {limit:g} seconds"}
        except EOFError:
            found = {"failed": "killed"}
        process.kill()
        process.join()
        yield variant, found


def _send_measured(pipe: Connection, name: str, variant: str, toy: bool) -> None:
    """What a process of `rows` does."""
    try:
        found = measured(name, variant, toy, "cuda" if torch.cuda.is_available() else "cpu")
    except Exception as error:
        print(f"{name}, {variant}:", traceback.format_exc(), file=sys.stderr)
        found = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
    pipe.send(found)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def write(results: Path, models: dict[str, Any]) -> None:
    """Replaces the results as a whole."""
    new = results.with_name(results.name + ".new")
    new.write_text(json.dumps({"aim": AIM, "pictures a step": 1, "models": models}, indent=2) + "\n")
    new.replace(results)


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", choices=MODELS, action="append", help="in this order, if given several times")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="measure only these")
    parser.add_argument("--keep-counts", action="store_true", help="do not count again what the results have counted")
    parser.add_argument("--limit", type=float, default=900, help="seconds that one measurement may take")
    parser.add_argument("--total", type=float, default=600, help="seconds after which no measurement begins")
    parser.add_argument("--toy", action="store_true", help="tiny networks of the same kinds")
    given = parser.parse_args()
    # Where the fork server finds the modules beside this file.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    names, variants, peak = given.only or list(MODELS), given.variant or list(VARIANTS), machine()[1]
    models = json.loads(given.results.read_text())["models"] if given.results.is_file() else {}
    for name in names:
        models[name] = begun(name, variants, given.toy, models.get(name), given.keep_counts)
        write(given.results, models)
    if not (given.toy or torch.cuda.is_available()):
        return
    until = time.monotonic() + given.total
    for worth in sorted({how.worth for how in VARIANTS.values()}):
        chosen = [variant for variant in variants if VARIANTS[variant].worth == worth]
        for name in names if chosen else ():
            for variant, row in rows(name, chosen, given.toy, given.limit, until):
                if peak is not None and "failed" not in row:
                    # Of steps at the model's own size; with activation checkpointing they are not counted.
                    counts = {} if VARIANTS[variant].side else models[name]["counted"]
                    operations = (counts | row).get("10^12 operations a step")
                    if operations is not None:
                        row["share of the GPU's peak"] = round(operations / row["seconds a step"] / peak, 4)
                models[name]["measured"][variant] = VARIANTS[variant].facts() | row
                write(given.results, models)
    rest = [row for name in names for row in models[name]["measured"].values() if row.get("not run") == _STOPPED]
    for row in rest:
        row["not run"] = "the time was over"
    write(given.results, models)


if __name__ == "__main__":
    main()
