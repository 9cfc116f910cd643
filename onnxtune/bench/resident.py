"""Memory of this process: what it holds now, and the most it ever held. Bytes; None where the system does not tell."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def current() -> int | None:
    """Bytes of this process in physical memory."""
    if STATUS.exists():
        return field(STATUS.read_text(), "VmRSS")
    with contextlib.suppress(ImportError):
        import psutil

        return int(psutil.Process().memory_info().rss)
    return None


def peak() -> int | None:
    """The most that this process had in physical memory since it started (on Linux: since `forget_peak`).

    `ru_maxrss` is not asked on Linux: a new process inherits it from the one that started it.
    """
    if STATUS.exists():
        return field(STATUS.read_text(), "VmHWM")
    if sys.platform == "win32":
        with contextlib.suppress(ImportError):
            import psutil

            return int(psutil.Process().memory_info().peak_wset)
        return None
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used) if sys.platform == "darwin" else int(used) * 1024


def forget_peak() -> bool:
    """Let the peak start anew from what is held now (proc(5), clear_refs: 5); False where that is not possible."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def field(status: str, name: str) -> int | None:
    """Bytes of a field of /proc/PID/status, which are in kB there."""
    for line in status.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None
