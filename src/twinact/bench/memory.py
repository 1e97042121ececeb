"""The most memory that was held at once, since a moment that the caller chooses."""

import contextlib
import re
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: torch.device) -> None:
    """Begin anew: of the GPU where `device` is one, else of this process where the system can (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _RESET.write_text("5")  # proc(5): resets the peak resident set


def peak_bytes(device: torch.device) -> int | None:
    """Bytes since `reset_peak`; None where nobody can tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii"), flags=re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])
