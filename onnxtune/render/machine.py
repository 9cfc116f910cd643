"""A machine in one line each for processor and GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxtune.bench.nvml import SLOWING

GIB = 2**30


def cpu_line(machine: Mapping[str, Any]) -> str:
    """Model, cores, and what is known of governor and load."""
    cpu = machine["cpu"]
    cores = f"{cpu['logical_cores']} logical cores"
    if cpu["physical_cores"]:
        cores = f"{cpu['physical_cores']} cores, {cores}"
    if cpu["usable_cores"] != cpu["logical_cores"]:
        cores += f" ({cpu['usable_cores']} for this process)"
    parts = [cpu["model"], cores]
    if cpu["governor"]:
        parts.append(f"governor {cpu['governor']}")
    if cpu["load_average"]:
        parts.append(f"load {cpu['load_average'][0]:.1f}")
    return ", ".join(parts)


def gpu_line(machine: Mapping[str, Any]) -> str:
    """Name, driver, clocks, power, memory, and what slows it down; what the driver does not tell is left out."""
    gpu = machine["gpu"]
    parts = [gpu["name"]]
    if gpu["driver"]:
        parts.append(f"driver {gpu['driver']}")
    now, most = gpu["clocks_mhz"] or {}, gpu["max_clocks_mhz"] or {}
    if now.get("sm") and most.get("sm"):
        parts.append(f"{now['sm']} of {most['sm']} MHz")
    if gpu["power_w"] is not None and gpu["power_limit_w"] is not None:
        parts.append(f"{gpu['power_w']:.0f} of {gpu['power_limit_w']:.0f} W")
    if gpu["memory_total"]:
        parts.append(f"{gpu['memory_used'] / GIB:.1f} of {gpu['memory_total'] / GIB:.1f} GiB in use")
    slow = [r for r in gpu["throttle_reasons"] or () if r in SLOWING]
    if slow:
        parts.append(f"slowed down by {', '.join(slow)}")
    return ", ".join(parts)
