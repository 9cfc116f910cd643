"""Names of the devices here: the processor with its instruction sets, NVIDIA GPUs."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time that a container may use in each period of so many (version 2 of control groups)."""


@functools.cache
def cpu_name() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cpu_features() -> frozenset[str]:
    """Instruction sets as Linux names them ("avx512f", "avx2"); empty where the system does not tell."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def physical_cores() -> int | None:
    """Cores without their second threads; None where the system does not tell."""
    if CPUINFO.exists():
        return cores_in(CPUINFO.read_text())
    with contextlib.suppress(ImportError):
        import psutil

        return psutil.cpu_count(logical=False)
    return None


def cores_in(cpuinfo: str) -> int | None:
    """Different (socket, core) pairs in the text of /proc/cpuinfo; None where it has none (ARM)."""
    found = set()
    for block in cpuinfo.split("\n\n"):
        fields = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        named = {k.strip(): v.strip() for k, v in fields.items()}
        if "core id" in named:
            found.add((named.get("physical id", "0"), named["core id"]))
    return len(found) or None


def usable_cores() -> int:
    """Logical cores that this process may run on (a container or taskset may allow it fewer than there are)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def granted_cores(quota: Path = QUOTA) -> int:
    """Cores that are worth a thread each: physical ones, as far as this process may run on them, and no more than the
    processor time that a container grants it."""
    cores = min(physical_cores() or usable_cores(), usable_cores())
    with contextlib.suppress(OSError, ValueError):
        share, period = quota.read_text().split()
        cores = min(cores, math.ceil(int(share) / int(period)))  # "max" where there is no limit: a ValueError
    return max(cores, 1)


@functools.cache
def gpu_name(device: int) -> str:
    """The GPU's name from the NVIDIA driver's own tool; "CUDA device N" where it cannot be asked."""
    tool = shutil.which("nvidia-smi")
    if tool:
        command = [tool, f"--id={visible(device, os.environ)}", "--query-gpu=name,driver_version"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(
                [*command, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
            )
            if answer.returncode == 0 and answer.stdout.strip():
                return answer.stdout.strip().splitlines()[0]
    return f"CUDA device {device}"


def visible(device: int, environment: Mapping[str, str]) -> str:
    """What the driver calls CUDA's device N: its number, or the UUID that CUDA_VISIBLE_DEVICES lists.

    CUDA counts only the devices that this variable names, the driver counts all. (On a machine with different
    GPUs the two also order them differently, unless CUDA_DEVICE_ORDER=PCI_BUS_ID.)
    """
    listed = [word.strip() for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    return listed[device] if device < len(listed) else str(device)
