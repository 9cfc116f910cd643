"""ONNX Runtime sessions: providers by name, errors as ours, and a quiet terminal."""

from __future__ import annotations

import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxtune import devices, runtime
from onnxtune.errors import ModelError, ProviderError, UsageError
from onnxtune.model import Model
from onnxtune.runtime import CPU, CUDA, Session, Target, bind, ort, plain, resolve, trouble, unusable
from onnxtune.testing import model_of

MODEL = Model(model_of("g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = Relu (x)  z = Neg (x) }"), "m.onnx")
X = np.array([[-1, 0, 2]], np.float32)


def available(provider: str) -> bool:
    return provider in ort().get_available_providers() and trouble(Target(provider)) is None


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "CPU", " cpu ", "CPUExecutionProvider", "cpuexecutionprovider"])
def test_names_of_the_cpu(name: str) -> None:
    assert resolve(name, threads=3) == Target(CPU, {}, 3)


@pytest.mark.parametrize(
    ("word", "provider", "options"),
    [
        ("cuda", CUDA, {}),
        ("gpu", CUDA, {}),
        ("cuda:1", CUDA, {"device_id": "1"}),
        ("CUDAExecutionProvider:0", CUDA, {"device_id": "0"}),
        ("trt", "TensorrtExecutionProvider", {}),
        ("tensorrt", "TensorrtExecutionProvider", {}),
        ("openvino", "OpenVINOExecutionProvider", {}),
    ],
)
def test_aliases(monkeypatch: pytest.MonkeyPatch, word: str, provider: str, options: dict[str, str]) -> None:
    monkeypatch.setattr(runtime, "trouble", lambda target: None)
    assert resolve(word, {"k": "v"}, 2) == Target(provider, {"k": "v", **options}, 2)


@pytest.mark.parametrize("name", ["", " , ", "quantum", "cpu,quantum", "cuda:first", "cuda:-1", "cpu:1"])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(UsageError, match="--providers"):
        resolve(name)


def test_auto_takes_cuda_where_it_works_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [CUDA, CPU]
    monkeypatch.setattr(ort(), "get_available_providers", lambda: both)
    monkeypatch.setattr(runtime, "trouble", lambda target: None)
    assert resolve("auto", {"device_id": "0"}) == Target(CUDA, {"device_id": "0"})
    monkeypatch.setattr(runtime, "trouble", lambda target: "no driver")
    assert resolve("auto", {"device_id": "0"}, 2) == Target(CPU, {}, 2)
    both.remove(CUDA)
    monkeypatch.setattr(runtime, "trouble", lambda target: None)
    assert resolve("AUTO") == Target(CPU)


def test_of_a_list_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "trouble", lambda target: "no driver" if target.provider == CUDA else None)
    assert resolve("cuda,cpu").provider == CPU
    with pytest.raises(ProviderError, match="CUDAExecutionProvider does not work here: no driver"):
        resolve("cuda")


def test_a_target_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Target().threads = 3  # type: ignore[misc]
    assert (Target().label, Target().on_gpu) == ("CPU", False)
    assert (Target(CUDA).label, Target(CUDA).on_gpu) == ("CUDA", True)
    assert Target().device


# --- a provider that does not work -----------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["cuda", "trt", "dml", "coreml", "rocm"])
def test_a_provider_that_does_not_work_is_an_error_with_a_remedy(
    provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name = runtime.ALIASES[provider]
    if available(name):
        pytest.skip(f"{name} works here")
    with pytest.raises(ProviderError) as caught:
        resolve(provider)
    text = str(caught.value)
    assert text.startswith(f"provider {name} does not work here: ")
    assert text.count("does not work here") == 1
    assert "doctor" in text or "pip install" in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_no_silent_fallback_to_the_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    if CUDA not in ort().get_available_providers() or available(CUDA):
        pytest.skip("needs a build with CUDA on a machine without it")
    with pytest.raises(ProviderError, match="fell back to CPUExecutionProvider"):
        Session(MODEL, Target(CUDA))
    assert capfd.readouterr() == ("", "")


def test_unusable_says_how_to_mend_it() -> None:
    assert "pip install 'onnxtune[cuda]'" in str(unusable(CUDA, "why"))
    assert "onnxtune doctor" in str(unusable("DmlExecutionProvider", "why"))


def test_a_provider_that_computes_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", lambda self, feeds: {"y": np.zeros((1, 1, 4, 4), np.float32)})
    assert trouble(Target()) == "it computes wrong numbers"


def test_the_cpu_has_no_trouble() -> None:
    assert trouble(Target(threads=1)) is None


# --- sessions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "layout", "all"])
def test_running_at_every_level(level: Any, capfd: pytest.CaptureFixture[str]) -> None:
    got = Session(MODEL, Target(threads=1), level).run({"x": X})
    assert list(got) == ["y", "z"]
    assert got["y"].tolist() == [[0, 0, 2]]
    assert capfd.readouterr() == ("", "")


def test_only_some_outputs() -> None:
    assert list(Session(MODEL, Target(threads=1)).run({"x": X}, ["z"])) == ["z"]


def test_what_is_no_tensor_is_left_out() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y, seq(float[2]) s)'
        " { y = Relu (x)  s = SequenceConstruct (x, y) }"
    )
    assert list(Session(Model(proto), Target(threads=1)).run({"x": X[0, :2]})) == ["y"]


def test_a_model_that_cannot_be_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Odd (x) }'
    )
    with pytest.raises(ModelError, match=r"^m\.onnx: ONNX Runtime cannot load it \(.*Odd.*\)$"):
        Session(Model(proto, "m.onnx"), Target(threads=1))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "feeds", [{}, {"other": X}, {"x": X.astype(np.float64)}, {"x": X[0]}, {"x": np.ones((1, 4), np.float32)}]
)
def test_feeds_that_do_not_fit(feeds: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"^m\.onnx: ONNX Runtime cannot run it") as caught:
        Session(MODEL, Target(threads=1)).run(feeds)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_large_models_go_by_way_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    weights = np.ones((64, 64), np.float32)
    proto = model_of("g (float[N, 64] x) => (float[N, 64] y) { y = MatMul (x, w) }", {"w": weights})
    feeds = {"x": np.ones((1, 64), np.float32)}
    for limit in ("IN_MEMORY", "PROTOBUF_LIMIT"):
        monkeypatch.setattr(runtime, limit, 100)
        assert Session(Model(proto), Target(threads=1)).run(feeds)["y"][0, 0] == 64
        assert not list(tmp_path.iterdir())
    assert len(proto.graph.initializer[0].raw_data) == weights.nbytes, "the model in memory keeps its weights"


def test_messages_lose_codes_and_source_lines() -> None:
    text = "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Odd(1)\nmore"
    assert plain(RuntimeError(text)) == "Could not find an implementation for Odd(1)"


# --- repeated calls --------------------------------------------------------------------------------------


def test_a_runner_runs() -> None:
    runner = Session(MODEL, Target(threads=1)).runner({"x": X})
    runner()
    runner()


def test_binding_inputs_and_outputs() -> None:
    """On a GPU this is how calls are made; the CPU can do it too."""
    session = Session(MODEL, Target(threads=1)).session
    call = bind(session, {"x": X}, "cpu")
    call()
    call()


def test_binding_uses_the_given_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(MODEL, Target(threads=1)).session
    seen = []
    real = session.run_with_iobinding

    def spy(binding: Any) -> None:
        real(binding)
        seen.append([o.numpy() for o in binding.get_outputs()])

    monkeypatch.setattr(session, "run_with_iobinding", spy)
    bind(session, {"x": X}, "cpu")()
    (values,) = seen
    assert [v.tolist() for v in values] == [[[0, 0, 2]], [[1, 0, -2]]]


def test_what_describes_the_machine() -> None:
    assert devices.cpu_name()
    assert set(runtime.versions()) == {"onnxtune", "onnx", "onnxruntime", "numpy", "python"}
    assert all(runtime.versions().values())


def test_a_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr("shutil.which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", hang)
    assert devices.gpu_name.__wrapped__(3) == "CUDA device 3"


@pytest.mark.parametrize(("asked", "threads"), [(1, 6), (8, 8), (0, 0)])
def test_work_that_is_not_timed_has_all_cores(monkeypatch: pytest.MonkeyPatch, asked: int, threads: int) -> None:
    monkeypatch.setattr(runtime, "granted_cores", lambda: 6)
    session = runtime.worker(MODEL, Target(threads=asked))
    options = session.session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
