"""Is there memory for it? Told apart from other failures, and before the system kills what does not fit."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUPS = ((Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),)
LACKING = re.compile(
    r"bad_alloc|bad allocation|out of memory|failed to allocate|alloc_failed|memory allocation|not enough memory"
    r"|array is too big|unable to allocate",
    re.IGNORECASE,
)


def lacks_memory(reason: str) -> bool:
    """Does an error's text say that memory ran out?"""
    return LACKING.search(reason) is not None


def available() -> int | None:
    """Bytes that a process may still take here, by the system and by the container; None where neither tells."""
    known = []
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(1024 * int(line.split()[1]))
    for most, now in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            known.append(int(most.read_text()) - int(now.read_text()))
    return max(0, min(known)) if known else None


def too_much(needed: int, sessions: int) -> str | None:
    """Why `sessions` sessions of `needed` bytes each do not fit; None when they do, or nobody knows."""
    free = available()
    if free is None or needed * sessions <= free:
        return None
    return (
        f"out of memory: {sessions} sessions side by side need about {needed * sessions / 1e9:.1f} GB,"
        f" {free / 1e9:.1f} GB are free"
    )
