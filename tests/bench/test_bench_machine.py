"""What is recorded of the machine, with fakes for the NVIDIA driver."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from onnxtune import devices
from onnxtune.bench import machine as machines
from onnxtune.bench import nvml
from onnxtune.bench.machine import key, machine
from onnxtune.render.machine import cpu_line, gpu_line
from onnxtune.runtime import CUDA, Target


class DriverError(Exception):
    """Stands for pynvml.NVMLError."""


def driver(**changed: Any) -> types.ModuleType:
    """A pynvml of one GPU; a function given as None is missing, an exception is raised."""
    values = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetName": b"NVIDIA Test 1",
        "nvmlSystemGetDriverVersion": "555.1",
        "nvmlDeviceGetClockInfo": 1500,
        "nvmlDeviceGetMaxClockInfo": 2000,
        "nvmlDeviceGetPowerUsage": 250_500,
        "nvmlDeviceGetEnforcedPowerLimit": 300_000,
        "nvmlDeviceGetTemperature": 71,
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=16 * 2**30, used=2**30),
        "nvmlDeviceGetCurrentClocksEventReasons": 0x24,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1,
        **changed,
    }
    module = types.ModuleType("pynvml")
    module.NVMLError = DriverError  # type: ignore[attr-defined]
    for number, name in enumerate(("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU")):
        setattr(module, name, number)
    module.nvmlDeviceGetHandleByIndex = lambda index: ("index", index)  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByUUID = lambda name: ("uuid", name)  # type: ignore[attr-defined]

    def function(value: Any) -> Any:
        def call(*_: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return call

    for name, value in values.items():
        if value is not ...:
            setattr(module, name, function(value))
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", driver())


def test_everything_is_json_and_the_key_is_stable() -> None:
    found = machine(Target(threads=1))
    assert json.loads(json.dumps(found)) == found
    assert found["key"] == machine(Target(threads=2))["key"]
    assert len(found["key"]) == 16
    assert found["gpu"] is None
    assert found["threads"] == 1
    assert found["cpu"]["usable_cores"] >= 1


def test_the_key_tells_machines_apart_and_nothing_else() -> None:
    cpu = {"model": "A", "physical_cores": 2, "logical_cores": 4, "usable_cores": 4, "load_average": [1.0]}
    same = {**cpu, "load_average": [9.0], "governor": "powersave"}
    gpu = {"name": "G", "memory_total": 1, "memory_used": 0}
    assert key(cpu, None) == key(same, None)
    assert key(cpu, gpu) == key(cpu, {**gpu, "memory_total": None})
    others = [{**cpu, "model": "B"}, {**cpu, "usable_cores": 2}, {**cpu, "physical_cores": None}]
    assert len({key(c, None) for c in (cpu, *others)} | {key(cpu, gpu), key(cpu, {**gpu, "name": "H"})}) == 6


def test_what_the_driver_says(gpu: None) -> None:
    found = nvml.state(0)
    assert found is not None
    assert found["name"] == "NVIDIA Test 1"
    assert found["driver"] == "555.1"
    assert found["clocks_mhz"] == {"sm": 1500, "memory": 1500}
    assert found["power_w"] == 250.5
    assert found["throttle_reasons"] == ["power cap", "software thermal"]
    assert nvml.memory_used(0) == 2**30


def test_what_a_device_does_not_know_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = driver(
        nvmlDeviceGetPowerUsage=DriverError(), nvmlDeviceGetMemoryInfo=DriverError(),
        nvmlDeviceGetCurrentClocksEventReasons=...,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    found = nvml.state(0)
    assert found is not None
    assert (found["power_w"], found["memory_total"], nvml.memory_used(0)) == (None, None, None)
    assert found["throttle_reasons"] == ["idle"]  # the older function's answer


@pytest.mark.parametrize("module", [None, driver(nvmlInit=DriverError())])
def test_without_package_or_driver(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert nvml.state(0) is None
    assert nvml.memory_used(0) is None


def test_cuda_numbers_are_not_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"CUDA_VISIBLE_DEVICES": "3, GPU-5f"}
    assert [devices.visible(n, listed) for n in (0, 1, 2)] == ["3", "GPU-5f", "2"]
    assert devices.visible(1, {}) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    with nvml.opened(0) as first, nvml.opened(1) as second:
        assert first is not None
        assert second is not None
        assert (first[1], second[1]) == (("index", 3), ("uuid", "GPU-5f"))


def test_a_gpu_target_names_its_options(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "options_in_force", lambda target: {"use_tf32": "1"})
    found = machine(Target(CUDA, {"prefer_nhwc": "1"}))
    assert found["gpu"]["name"] == "NVIDIA Test 1"
    assert found["asked_options"] == {"prefer_nhwc": "1"}
    assert found["provider_options"] == {"use_tf32": "1"}
    line = gpu_line(found)
    assert "1500 of 2000 MHz" in line
    assert "250 of 300 W" in line
    assert line.endswith("slowed down by power cap, software thermal")


def test_without_nvml_name_and_driver_come_from_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("onnxtune.runtime.gpu_name", lambda device: "NVIDIA Test 1, 555.1")
    monkeypatch.setattr(machines, "options_in_force", lambda target: {})
    found = machine(Target(CUDA))
    assert (found["gpu"]["name"], found["gpu"]["driver"], found["gpu"]["power_w"]) == ("NVIDIA Test 1", "555.1", None)
    assert gpu_line(found) == "NVIDIA Test 1, driver 555.1"


def test_options_of_a_provider_that_does_not_work_are_the_given_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxtune.errors import ProviderError

    def refuse(*_: Any) -> None:
        raise ProviderError("no")

    monkeypatch.setattr(machines, "Session", refuse)
    assert machines.options_in_force(Target(CUDA, {"a": "b"})) == {"a": "b"}


def test_governor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "GOVERNOR", tmp_path / "none")
    assert machines.governor() is None
    (tmp_path / "some").write_text("powersave\n")
    monkeypatch.setattr(machines, "GOVERNOR", tmp_path / "some")
    assert machines.governor() == "powersave"


def test_cores_of_two_sockets_with_two_threads_each() -> None:
    blocks = [f"processor: {p}\nphysical id\t: {p % 2}\ncore id\t: {c}" for p in range(4) for c in (0, 1)]
    assert devices.cores_in("\n\n".join(blocks)) == 4
    assert devices.cores_in("processor: 0\nBogoMIPS: 2") is None


def test_a_line_for_the_processor() -> None:
    cpu = {"model": "A", "physical_cores": 2, "logical_cores": 4, "usable_cores": 3, "governor": "powersave"}
    line = cpu_line({"cpu": {**cpu, "load_average": [1.26, 1, 1]}})
    assert line == "A, 2 cores, 4 logical cores (3 for this process), governor powersave, load 1.3"
