"""The cases of `stress.py` in which something happens to a process: a kill, a full disk, or another process."""

import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults import Need, command, run
from stress_cases import Suite, Verdict, verdict
from stress_ground import Ground, Task

_KILLS = 4
# Of Linux: new user and mount namespaces; mounts that others do not see; changing one.
_NEW_USER, _NEW_MOUNTS, _PRIVATE, _REMOUNT = 0x10000000, 0x20000, 0x44000, 0x20


def kills(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A run that is killed again and again, every other time inside a save, ends in the same bytes."""
    task, work = ground.tasks["learn whole"], folder / "work"
    counts = {"kills": 0, "inside saves": 0}
    for turn in range(_KILLS):
        if (case + turn) % 2:
            die = partial(_die_in_a_save, rng.randrange(1, 11), rng.random())
            outcome = run(lambda die=die: command(*task.arguments, before=die), work, task.need)
        else:
            after = rng.uniform(0.02, 1.0) * task.need.seconds
            outcome = run(lambda: command(*task.arguments), work, task.need, kill_after=after)
        killed = outcome.code == -signal.SIGKILL
        counts["kills"] += killed
        counts["inside saves"] += killed and (case + turn) % 2
        seen = run(lambda: _all_whole(work / "run"), work)
        if outcome.broken or seen.broken or seen.code:
            problem = outcome.broken or seen.broken or "a file is half written"
            return verdict(outcome, f"kill {turn}", f"{problem} {seen.said[-500:]}", compared=False)
    outcome = run(lambda: command(*task.arguments), work, task.need)
    problem = outcome.broken
    if not problem and (outcome.code or (work / task.result).read_bytes() != task.expected):
        problem = "ends in other bytes"
    if not problem and list(work.rglob("*.tmp")):
        problem = "leaves temporary files"
    return verdict(outcome, f"{counts['kills']} kills", problem, compared=True, counts=counts)


def _die_in_a_save(calls: int, share: float) -> None:
    """Die at a call that makes a file last or gives it its name: before or after it, or with a part of it on disk."""
    left = calls
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)

        def dying(*given: Any, real: Callable[..., Any] = real, name: str = name) -> Any:
            nonlocal left
            left -= 1
            if left > 0:
                return real(*given)
            if name == "fsync" and share < 0.6:
                size = os.fstat(given[0]).st_size
                if share < 0.4 and size < 2**40:
                    _cut(given[0], int(size * share / 0.4))
            else:
                real(*given)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        setattr(os, name, dying)


def _cut(descriptor: int, size: int) -> None:
    """As a power cut leaves a file; a folder is left alone."""
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        return


def _all_whole(folder: Path) -> int:
    """0 when every file that has its final name can be read."""
    import json

    from safetensors.torch import load_file

    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    return 0


def fresh(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """The same in processes that are started anew: three resumes, and equal bits."""
    task, work = ground.tasks["learn whole"], folder / "work"
    work.mkdir(parents=True)
    log = work / "run" / "log.jsonl"
    line = [sys.executable, "-m", "twinact", *map(str, task.arguments)]
    steps = 0
    for _ in range(3):
        process = subprocess.Popen(line, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        steps += rng.randrange(1, 4)
        while process.poll() is None and not (log.is_file() and log.read_bytes().count(b"\n") >= steps):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        steps = log.read_bytes().count(b"\n")
    ended = subprocess.run(line, cwd=work, capture_output=True, text=True)
    same = ended.returncode == 0 and (work / task.result).read_bytes() == task.expected
    return Verdict("same" if same else "failed", "three resumes" if same else ended.stderr[-1500:], Need())


def full_disk(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A disk that is full at some moment: told in a line, nothing half written, and the same command goes on later."""
    name = ("learn whole", "generate sd", "adjust", "export", "import", "space build")[case % 6]
    task = ground.tasks[name]
    kib = 4 * rng.randrange(1, 40 if name == "learn whole" else 8)
    outcome = run(partial(_fill, task, kib), folder / "work", task.need)
    return verdict(outcome, f"{name} on {kib} KiB", outcome.broken, compared=outcome.code == 0)


def _fill(task: Task, kib: int) -> int:
    """The command on a small disk, and again on a large one; 0 when it did not even fill the small one."""
    place = Path("small")
    place.mkdir()
    grow = _small_disk(place, kib)
    os.chdir(place)
    code = command(*task.arguments)
    left = [path.name for path in Path().rglob("*.tmp")]
    half = [task.result] if task.result and code and Path(task.result).exists() else []
    if left or half:
        print(f"BROKEN a full disk leaves {[*left, *half]}", file=sys.stderr)
    grow()
    again = command(*task.arguments) if code else 0
    if again or (task.result and Path(task.result).read_bytes() != task.expected):
        print(f"BROKEN with space again: exit code {again}, or other bytes", file=sys.stderr)
    return code


def _small_disk(place: Path, kib: int) -> Callable[[], None]:
    """Make a folder a disk of its own that is soon full, and return what makes it large.

    Where the system does not let us, writes of more than that fail instead; the others go through.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    target = str(place.resolve()).encode()
    namespaces = _NEW_MOUNTS if os.geteuid() == 0 else _NEW_MOUNTS | _NEW_USER
    if hasattr(libc, "unshare") and libc.unshare(namespaces) == 0:
        libc.mount(b"none", b"/", None, _PRIVATE, None)
        if libc.mount(b"none", target, b"tmpfs", 0, f"size={kib}k".encode()) == 0:
            return lambda: libc.mount(b"none", target, b"tmpfs", _REMOUNT, b"size=64m")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def writers(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """Two commands at once with one output: both sets of pictures are there, or one of the two is refused."""
    name = ("generate sd", "adjust", "export", "import", "space build", "learn whole")[case % 6]
    task, work = ground.tasks[name], folder / "work"
    more = ("--count", "3") if name == "generate sd" else ()
    apart = rng.uniform(0, 0.3) * task.need.seconds
    outcome = run(partial(_both, [*task.arguments, *more], name, apart), work)
    problem = outcome.broken
    if not problem and name == "generate sd":
        files = list((work / "pictures").glob("*.png"))
        lines = (work / "pictures" / "pictures.jsonl").read_text().splitlines()
        problem = "" if len(files) == len(lines) == 6 else f"{len(files)} pictures and {len(lines)} lines of 6"
    elif not problem and task.result and (work / task.result).read_bytes() != task.expected:
        problem = "gives another result"
    return verdict(outcome, f"two of {name}", problem, compared=True)


def _both(arguments: Sequence[Any], name: str, apart: float) -> int:
    """Run a command twice at once; 0 when as many of them succeeded as may."""
    children = []
    for delay in (0.0, apart):
        child = os.fork()
        if child == 0:
            time.sleep(delay)
            try:
                code = command(*arguments)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 70
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    right = {"generate sd": ([0, 0],), "learn whole": ([0, 1], [0, 0])}.get(name, ([0, 1],))
    if codes not in right:
        print(f"BROKEN two of {name} end with {codes}", file=sys.stderr)
    return 0


SUITES: dict[str, Suite] = {
    "kills": Suite(28, kills),  # a run that is done early is killed less often: 100 in all
    "fresh processes": Suite(1, fresh),
    "full disks": Suite(60, full_disk),
    "writers": Suite(30, writers),
}
