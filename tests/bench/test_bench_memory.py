"""Memory of a model in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from onnxtune.bench import child, memory, nvml, process, resident
from onnxtune.errors import ModelError, ProviderError
from onnxtune.model import Model
from onnxtune.runtime import CPU, CUDA, Target
from onnxtune.testing import model_of

MIB = 2**20
TARGET = Target(CPU, threads=1)
SMALL = Model(model_of("g (float[1, 8] x) => (float[1, 8] y) { y = Relu (x) }"), "small.onnx")
X = {"x": np.ones((1, 8), np.float32)}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_a_large_output_shows_in_the_peak() -> None:
    proto = model_of(
        "g (float[1, 8] x) => (float[M, N] y) { y = Expand (x, s) }", {"s": np.array([2**22, 8], np.int64)}
    )
    found, small = memory.memory(Model(proto), X, TARGET), memory.memory(SMALL, X, TARGET)
    assert found.needed is not None
    assert small.needed is not None
    assert found.needed > 128 * MIB  # the output alone
    assert small.needed < 64 * MIB
    assert found.loaded is not None
    assert found.loaded < 128 * MIB + (found.base or 0)
    assert 0 < found.session_seconds < 60
    assert found.device is None
    assert found.as_json()["needed"] == found.needed


def test_bytes_of_the_file() -> None:
    assert memory.memory(SMALL, X, TARGET).model_bytes == SMALL.proto.ByteSize()


def test_what_does_not_run_is_said_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"^small\.onnx: ONNX Runtime cannot load or run it \(.*\)$") as caught:
        memory.memory(SMALL, {"other": X["x"]}, TARGET)
    assert "\n" not in str(caught.value)


def test_a_provider_that_does_not_work_is_no_cpu_measurement() -> None:
    pytest.importorskip("onnxruntime")
    from onnxtune.runtime import trouble

    if trouble(Target(CUDA)) is None:
        pytest.skip("CUDA works here")
    with pytest.raises((ProviderError, ModelError)):
        memory.memory(SMALL, X, Target(CUDA))


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('wrong numpy')")
    monkeypatch.chdir(tmp_path)
    assert memory.memory(SMALL, X, TARGET).model_bytes


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"killed \(signal 9\): out of memory\?"),
        ("raise SystemExit('first\\nlast')", r"failed \(last\)"),
        ("raise SystemExit(3)", r"failed \(it said nothing\)"),
        ("import time; time.sleep(60)", "took longer than 0.5 s"),
    ],
)
def test_a_process_that_dies(code: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = process.subprocess.run

    def run(command: list[str], **settings: object) -> object:
        return real([command[0], "-c", code], **settings)

    monkeypatch.setattr(process.subprocess, "run", run)
    with pytest.raises(ModelError, match=f"^small.onnx: .*{says}"):
        memory.memory(SMALL, X, TARGET, timeout=0.5 if "sleep" in code else 30)


@linux
def test_the_peak_starts_anew() -> None:
    block = np.ones(64 * MIB, np.uint8)
    high = resident.peak()
    del block
    if not resident.forget_peak():
        pytest.skip("this system does not allow it")
    now, peak = resident.current(), resident.peak()
    assert high is not None
    assert peak is not None
    assert now is not None
    assert peak <= high - 32 * MIB
    assert abs(peak - now) < 16 * MIB


def test_fields_of_a_status_file() -> None:
    assert resident.field("Name:\tx\nVmHWM:\t  12 kB\n", "VmHWM") == 12 * 1024
    assert resident.field("Name:\tx\n", "VmHWM") is None


def test_device_memory_is_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with the driver and the provider played by others."""
    readings = iter([100, 350])

    class Session:
        def run(self, *_: object) -> None:
            pass

    monkeypatch.setattr(nvml, "memory_used", lambda device: next(readings))
    monkeypatch.setattr(child, "create", lambda *_: Session())
    monkeypatch.setattr(child, "check_active", lambda *_: None)
    answer = child.measured(child.Request("m.onnx", Target(CUDA, {"device_id": "1"}), X))
    assert answer["device"] == 250
