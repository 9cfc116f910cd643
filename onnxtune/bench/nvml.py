"""What the NVIDIA driver says of a GPU right now, through nvidia-ml-py (optional: `pip install 'onnxtune[nvml]'`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from onnxtune.devices import visible

REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h)."""
SLOWING = {"power cap", "hardware slowdown", "software thermal", "hardware thermal", "power brake"}
"""Reasons that make a measurement slower than the device could be."""
MIB = 2**20


@contextlib.contextmanager
def opened(device: int) -> Iterator[tuple[Any, Any] | None]:
    """(the pynvml module, handle of CUDA's device N), or None where nvidia-ml-py or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        handle = _handle(pynvml, visible(device, os.environ))
        yield None if handle is None else (pynvml, handle)
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any, name: str) -> Any:
    try:
        return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
    except nvml.NVMLError:
        return None


def state(device: int) -> dict[str, Any] | None:
    """Name, driver, clocks (MHz), power (W), temperature (°C), memory (bytes) and what holds the clocks down.

    What the driver does not tell of this device is None. None as a whole: the driver cannot be asked.
    """
    with opened(device) as found:
        if found is None:
            return None
        nvml, handle = found

        def ask(function: str, *more: Any) -> Any:
            call: Callable[..., Any] | None = getattr(nvml, function, None)
            if call is None:
                return None
            try:
                return call(handle, *more)
            except nvml.NVMLError:
                return None

        memory, bits = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the older name
            bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        kinds = {"sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
        power, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "name": _text(ask("nvmlDeviceGetName")),
            "driver": _text(_driver(nvml)),
            "clocks_mhz": {k: ask("nvmlDeviceGetClockInfo", v) for k, v in kinds.items()},
            "max_clocks_mhz": {k: ask("nvmlDeviceGetMaxClockInfo", v) for k, v in kinds.items()},
            "power_w": None if power is None else power / 1000,
            "power_limit_w": None if limit is None else limit / 1000,
            "temperature_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "memory_total": None if memory is None else int(memory.total),
            "memory_used": None if memory is None else int(memory.used),
            "throttle_reasons": None if bits is None else reasons(int(bits)),
        }


def reasons(bits: int) -> list[str]:
    """The names of the bits that are set."""
    return [name for bit, name in REASONS.items() if bits & bit]


def memory_used(device: int) -> int | None:
    """Bytes in use on the device, by all processes; None where the driver cannot be asked."""
    with opened(device) as found:
        if found is None:
            return None
        nvml, handle = found
        with contextlib.suppress(nvml.NVMLError):
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    return None


def _driver(nvml: Any) -> Any:
    with contextlib.suppress(nvml.NVMLError):
        return nvml.nvmlSystemGetDriverVersion()
    return None


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
