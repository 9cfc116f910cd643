"""The machine that a measurement was taken on: what may explain a number, and a key that tells machines apart."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxtune.bench import nvml
from onnxtune.devices import cpu_name, physical_cores, usable_cores
from onnxtune.errors import ModelError, ProviderError
from onnxtune.gpu import TF32
from onnxtune.runtime import Session, Target, probe, versions

JSON = Any
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine(target: Target) -> Mapping[str, JSON]:
    """Everything that is worth keeping beside a measurement on this target, as JSON values.

    `key` is the same for two results exactly when processor, cores, operating system, architecture and (on a GPU
    target) the GPU's name are: the kind of machine, not the host's name, for two runners of a kind
    measure alike. Clocks, load and versions are recorded but are no part of it. `provider_options` are those in
    force, as ONNX Runtime tells them (TF32, algorithm search and layout included), `asked_options` the given ones.
    """
    cpu = {
        "model": cpu_name(),
        "physical_cores": physical_cores(),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "governor": governor(),
        "load_average": load_average(),
    }
    gpu = _gpu(target)
    return {
        "key": key(cpu, gpu),
        "cpu": cpu,
        "gpu": gpu,
        "os": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "device": target.device,
        "provider": target.provider,
        "asked_options": dict(target.options),
        "provider_options": options_in_force(target),
        "tf32_override": os.environ.get(TF32) if target.on_gpu else None,
        "threads": target.threads,
        "versions": versions(),
    }


def key(cpu: Mapping[str, JSON], gpu: Mapping[str, JSON] | None) -> str:
    """Sixteen hexadecimal digits: a hash of what stays the same between two runs on one machine."""
    parts = {
        "cpu": [cpu[k] for k in ("model", "physical_cores", "logical_cores", "usable_cores")],
        "gpu": None if gpu is None else gpu["name"],
        "system": [platform.system(), platform.machine()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def governor() -> str | None:
    """How Linux sets the clock of the first core ("performance", "powersave"); None where it does not tell."""
    try:
        return GOVERNOR.read_text().strip() or None
    except OSError:
        return None


def load_average() -> list[float] | None:
    """Processes that run or wait, over 1, 5 and 15 minutes; None on systems without this figure."""
    if not hasattr(os, "getloadavg"):
        return None
    return [round(v, 2) for v in os.getloadavg()]


def options_in_force(target: Target) -> dict[str, str]:
    """The provider's options with its defaults, from a small session; the given ones where there is none."""
    try:
        found = Session(probe(), target).session.get_provider_options()
    except (ModelError, ProviderError):
        return dict(target.options)
    return {str(k): str(v) for k, v in found.get(target.provider, {}).items()}


def _gpu(target: Target) -> dict[str, JSON] | None:
    """Of a target on a GPU; with the driver's tool alone only name and driver are known."""
    if not target.on_gpu:
        return None
    found = nvml.state(target.device_id)
    if found is not None:
        return found
    name, _, driver = target.device.partition(", ")
    return {
        "name": name,
        "driver": driver or None,
        "clocks_mhz": None,
        "max_clocks_mhz": None,
        "power_w": None,
        "power_limit_w": None,
        "temperature_c": None,
        "memory_total": None,
        "memory_used": None,
        "throttle_reasons": None,
    }
