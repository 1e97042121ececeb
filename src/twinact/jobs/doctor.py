"""Looks at a machine: hardware, libraries, models, readers and disk, and what to do about what is missing.

Nothing that is told names a user or a folder, so that it can be pasted into a bug report.
"""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from twinact import PLACEHOLDER, __version__
from twinact.backbones import family, parameters
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import cpu_computes_bf16
from twinact.errors import DataError, MissingDependency, TwinactError, first_line
from twinact.jobs.models import default_space, open_model
from twinact.jobs.resources import Gpu, finest, needed_bytes, this_gpu
from twinact.sample import generate
from twinact.storage import atomic_write_bytes

FINE, MISSING, BROKEN = "fine", "missing", "broken"
"""States of a `Finding`: "missing" is what some people want and twinact runs without."""

# Numbers in all networks, counted on the published models: benchmarks/results/full_size.json.
SIZES = {
    "Stable Diffusion 1.5": 1_066_235_307,
    "Stable Diffusion XL": 3_468_837_867,
    "FLUX.2 klein 4B": 7_174_612_259,
    "Z-Image": 10_261_196_515,
    "Chroma": 13_746_113_763,
    "FLUX.1": 16_870_599_139,
}
_EXTRAS = {
    "app": "pages in a browser",
    "cluster": "Ray clusters",
    "docs": "the documents",
    "track": "trackers",
    "dev": "the tests",
}
_LEAST_FREE_BYTES = 2 * 2**30
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: "machine", "libraries", "models", "memory", "readers" or "files".
        name: What was looked at.
        state: `FINE`, `MISSING` or `BROKEN`.
        told: What was found, in words.
        advice: What to do about it; None where nothing has to be done.
    """

    group: str
    name: str
    state: str
    told: str
    advice: str | None = None


def examine(folder: Path, tell: Callable[[str], None] = lambda text: None) -> Iterator[Finding]:
    """Everything that decides whether twinact runs here, in order.

    Args:
        folder: Where runs would be written.
        tell: Receives what is being looked at, before what takes seconds.
    """
    yield from _machine()
    yield from _libraries()
    yield from writing(folder)
    yield from _readers()
    tell("opening nano and drawing with it")
    yield from nano()
    yield from _hub_models()
    yield from fitting(this_gpu(), psutil.virtual_memory().total)


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding("machine", "twinact", FINE, __version__)
    yield Finding("machine", "Python", FINE, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    bf16 = "computes bf16" if cpu_computes_bf16() else "computes fp32"
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    yield Finding("machine", "CPU", FINE, f"{cores} cores, {bf16}, {torch.get_num_threads()} threads in use")
    told = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    yield Finding("machine", "memory", FINE, told)
    gpu = this_gpu()
    if gpu is None:
        advice = "nano needs none; for larger models install torch for your GPU (pytorch.org/get-started)"
        yield Finding("machine", "GPU", MISSING, "none that torch can use", advice)
        return
    name = torch.cuda.get_device_name()
    told = f"{name}, {gpu.free_bytes / _GIB:.1f} GiB free, {'bf16' if gpu.bf16 else 'fp16'}"
    yield Finding("machine", "GPU", FINE, f"{told}, {torch.cuda.device_count()} in all")


def _libraries() -> Iterator[Finding]:
    lacking: dict[str, list[str]] = {}
    try:
        lines = metadata.requires("twinact") or []
    except metadata.PackageNotFoundError:
        yield Finding("libraries", "twinact", BROKEN, "runs from a folder and is not installed", "pip install .")
        return
    for needed in map(Requirement, lines):
        applies = [
            extra for extra in ("", *_EXTRAS) if needed.marker is None or needed.marker.evaluate({"extra": extra})
        ]
        if not applies:
            continue  # of another system or Python
        try:
            there = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            there = None
        if there is not None and needed.specifier.contains(there, prereleases=True):
            if not applies[0]:
                yield Finding("libraries", needed.name, FINE, there)
        elif not applies[0]:
            told = f"{there or 'not installed'}, and {needed.specifier} is needed"
            yield Finding("libraries", needed.name, BROKEN, told, f"pip install '{needed.name}{needed.specifier}'")
        else:
            lacking.setdefault(applies[0], []).append(needed.name)
    for extra, names in lacking.items():
        told = f"without {', '.join(names)}, which {_EXTRAS[extra]} need"
        yield Finding("libraries", f"extra {extra}", MISSING, told, f"pip install 'twinact[{extra}]'")


def writing(folder: Path) -> Iterator[Finding]:
    """Whether files can be written into a folder, by writing one."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        with tempfile.TemporaryDirectory(dir=there, prefix=".twinact-doctor-") as inside:
            began = time.perf_counter()
            path = atomic_write_bytes(Path(inside) / "test", os.urandom(1_000_000), new=True)
            if path.stat().st_size != 1_000_000:
                raise OSError("a file came out shorter than it was written")
            took = time.perf_counter() - began
        free = shutil.disk_usage(there).free
    except (OSError, DataError) as error:
        yield Finding("files", "write test", BROKEN, first_line(error), "work in a folder that can be written")
        return
    yield Finding("files", "write test", FINE, f"1 MB written and flushed in {1000 * took:.0f} ms")
    scarce = free < _LEAST_FREE_BYTES
    advice = "free some space, or work on another disk" if scarce else None
    yield Finding("files", "disk", BROKEN if scarce else FINE, f"{free / _GIB:.1f} GiB free", advice)


def _readers() -> Iterator[Finding]:
    from huggingface_hub import try_to_load_from_cache

    from twinact.readers.vitpose import DETECTOR, WEIGHTS

    yield Finding("readers", "keypoints", FINE, "reads keypoint files of other programs")
    try:
        from twinact.readers.blazepose import INSTALL, BlazePoseReader

        BlazePoseReader()
        yield Finding("readers", "blazepose", FINE, "reads photographs of people")
    except MissingDependency as error:
        yield Finding("readers", "blazepose", MISSING, str(error).partition(";")[0], INSTALL)
    absent = [name for name in (WEIGHTS, DETECTOR) if not isinstance(try_to_load_from_cache(name, "config.json"), str)]
    if absent:
        told = f"{' and '.join(absent)} not downloaded yet"
        yield Finding("readers", "vitpose", MISSING, told, "twinact read PHOTO --reader vitpose downloads them once")
    else:
        yield Finding("readers", "vitpose", FINE, "reads photographs of people and animals")


def nano(opening: Callable[[], Backbone] = open_model) -> Iterator[Finding]:
    """Whether the embedded model opens, has its space, and draws."""
    began = time.perf_counter()
    try:
        backbone = opening()
        space = default_space(backbone)
        u, mask = space.project_phrase(space.phrases[0])
        vectors = space.vectors(u.unsqueeze(0), mask.unsqueeze(0))
        generate(backbone, [f"a panda {PLACEHOLDER}"], {PLACEHOLDER: vectors}, seeds=[0], steps=2)
    except TwinactError as error:
        yield Finding("models", "nano", BROKEN, str(error), "install twinact again; its weights come with it")
        return
    told = f"opened and drew in {time.perf_counter() - began:.1f} s; {len(space.phrases)} phrases span its space"
    yield Finding("models", "nano", FINE, told)


def _hub_models() -> Iterator[Finding]:
    """Models of known families that Hugging Face's cache holds."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    found = {}
    try:
        for repo in scan_cache_dir().repos:
            for revision in repo.revisions if repo.repo_type == "model" else ():
                try:
                    kind, numbers = family(revision.snapshot_path), parameters(revision.snapshot_path)
                except TwinactError:  # another kind of model
                    continue
                if numbers:
                    found[repo.repo_id] = f"{kind.removesuffix('Pipeline')}, {numbers / 1e9:.1f} billion numbers"
    except CacheNotFound:
        pass
    for name, told in sorted(found.items()):
        yield Finding("models", name, FINE, told)
    if not found:
        advice = "give --model a Hugging Face name to download one, or a folder in diffusers layout"
        yield Finding("models", "of Hugging Face", MISSING, "none downloaded", advice)


def fitting(gpu: Gpu | None, ram_bytes: int, sizes: Mapping[str, int] = SIZES) -> Iterator[Finding]:
    """Which of the known models can be learned on here, and with which precision.

    Args:
        gpu: None is the CPU.
        ram_bytes: The machine's memory in all.
        sizes: Model to the numbers in its networks.
    """
    if gpu is None:
        kinds, room = ["bf16" if cpu_computes_bf16() else "fp32", "bf16", "int8", "nf4"], ram_bytes
        where = "this machine's memory"
    else:
        kinds, room, where = ["bf16" if gpu.bf16 else "fp16", "int8", "nf4"], gpu.free_bytes, "this GPU"
    for name, numbers in sizes.items():
        kind = finest(numbers, room, kinds)
        if kind is None:
            least = needed_bytes(numbers, kinds[-1]) / _GIB
            told = f"does not fit into {where}: {least:.0f} GiB are needed even in {kinds[-1]}"
            yield Finding("memory", name, MISSING, told, "take a machine with more memory, or a smaller model")
            continue
        slow = "; slow without a GPU" if gpu is None else ""
        told = f"fits in {kind}, about {needed_bytes(numbers, kind) / _GIB:.1f} GiB{slow}"
        yield Finding("memory", name, FINE, told)
