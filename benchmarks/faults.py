"""Runs commands of twinact in processes that are watched: what they say, spend, write and connect to.

A process is forked from this one, in which everything is imported already, so that a command costs what it does itself.
This process runs no network of its own: a fork would inherit the threads of it.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 10.0
"""How much longer than the same command on whole files a process may compute."""
_WAITING_SECONDS = 30.0
"""How long it may wait for anything but a core."""
SPARE_BYTES = 2 * 2**30
"""How much more memory than the same command on whole files it may take."""
_PAGE = resource.getpagesize()
# Events of Python's audit hooks, and which of their arguments are paths that change.
_CHANGES = {
    "os.remove": (0,), "os.rename": (0, 1), "os.rmdir": (0,), "os.mkdir": (0,), "os.link": (1,), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
}  # fmt: skip
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


@dataclass(frozen=True)
class Need:
    """What a command takes on whole files.

    Attributes:
        seconds: Seconds of computing.
        bytes: Most memory, with what it shares with the process that it was forked from.
    """

    seconds: float = 0.0
    bytes: int = 0

    def also(self, other: "Need") -> "Need":
        """Whichever is more."""
        return Need(max(self.seconds, other.seconds), max(self.bytes, other.bytes))


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the number of the signal that ended it; None when it was ended for taking too much.
        said: All that it printed, errors included.
        need: What it took.
        broken: The first rule that it broke, in words; "" for none.
    """

    code: int | None
    said: str
    need: Need
    broken: str


def run(
    work: Callable[[], Any],
    folder: Path,
    need: Need | None = None,
    *,
    kill_after: float | None = None,
) -> Outcome:
    """Do something in a process of its own, with a folder as its current one.

    Args:
        work: Done in the process; may call `command`.
        folder: Made if missing; the only one in which anything may be written.
        need: What it takes on whole files; None looks at neither time nor memory.
        kill_after: Seconds after which it is killed, whatever it is doing; None lets it end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = folder.with_name(f"{folder.name}.said")
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _be(work, folder.resolve(), report)
    began = time.monotonic()
    limited, spent, most = need is not None, Need(), need or Need(1e9, 2**60)
    code: int | None = 0
    while True:
        done, status, usage = os.wait4(process, os.WNOHANG)
        waited = time.monotonic() - began
        if done:
            if code is not None:
                code = os.waitstatus_to_exitcode(status)
            spent = Need(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            break
        if kill_after is not None and waited > kill_after:
            os.kill(process, signal.SIGKILL)
        elif limited and code is not None and (_beyond(process, most) or _idle(process, waited) > _WAITING_SECONDS):
            code = None
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)
    said = report.read_text(encoding="utf-8", errors="replace")
    report.unlink()
    return Outcome(code, said, spent, _broken(code, said, spent, most))


def command(*arguments: str | Path, before: Callable[[], object] = lambda: None) -> int:
    """Run a command of twinact here, after something else, and return its exit code; its tracebacks are raised."""
    from twinact.cli import main

    before()

    sys.argv = ["twinact", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _be(work: Callable[[], Any], folder: Path, report: Path) -> None:
    """The life of the process."""
    code = 70  # of a traceback
    try:
        target = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream in (1, 2):
            os.dup2(target, stream)
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = os.environ["TMPDIR"] = str(folder)
        sys.addaudithook(_watch(folder))
        result = work()
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """Tells of every attempt to change something outside of a folder, or to connect to anything."""
    allowed = (f"{folder}/", "/dev/", "/proc/")

    def tell(what: str) -> None:
        os.write(2, f"BROKEN {what}\n".encode(errors="backslashreplace"))

    def changed(path: Any, follow: bool) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor, which was opened before
        name = os.fsdecode(path)
        place = os.path.realpath(name) if follow else _here(name)
        if not f"{place}/".startswith(allowed):
            tell(f"changes {place}")

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                changed(path, follow=not flags & (os.O_NOFOLLOW | os.O_EXCL))
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                changed(values[index], follow=False)
        elif event in _CONNECTS:
            tell(f"connects: {event} {values[1:]!r}")

    return hook


def _here(name: str) -> str:
    """Where a directory entry lies, without following it itself."""
    return os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))


def _beyond(process: int, most: Need) -> bool:
    """Whether a process that runs has taken too much already; only Linux says so before it ends."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (OSError, IndexError):
        return False
    seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return pages * _PAGE > most.bytes + SPARE_BYTES or seconds > most.seconds + PATIENCE_SECONDS


def _idle(process: int, lived: float) -> float:
    """For how many seconds a process has neither computed nor waited for a core; only Linux tells the second."""
    try:
        computed, queued = map(int, Path(f"/proc/{process}/schedstat").read_text().split()[:2])
    except (OSError, ValueError):
        return lived
    return lived - (computed + queued) / 1e9


def _broken(code: int | None, said: str, spent: Need, most: Need) -> str:
    told = next((line for line in said.splitlines() if line.startswith("BROKEN ")), None)
    if told is not None:
        return told.removeprefix("BROKEN ")
    if "Traceback (most recent call last)" in said:
        return f"traceback: {said.strip().splitlines()[-1]}"
    if spent.bytes > most.bytes + SPARE_BYTES:
        return f"takes {spent.bytes / 2**30:.1f} GiB"
    if spent.seconds > most.seconds + PATIENCE_SECONDS:
        return f"computes {PATIENCE_SECONDS:g} s longer"
    if code is None:
        return f"waits for more than {_WAITING_SECONDS:g} s"
    if code not in (0, 1, 2, 3, 130, -signal.SIGKILL):
        return f"ends with exit code {code}"
    return ""
