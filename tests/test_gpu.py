"""GPU settings by one name; how runs are bound and recorded: on the CPU device, and with providers played by fakes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from onnxtune import gpu, runtime
from onnxtune.binding import bind, bind_graph, bind_graph_with_copies, direct
from onnxtune.errors import ModelError, UsageError
from onnxtune.gpu import Wishes, copies_note, refined, with_copies
from onnxtune.model import Model
from onnxtune.runtime import CPU, CUDA, TENSORRT, Session, Target
from onnxtune.testing import model_of

MODEL = Model(model_of("g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = Relu (x)  z = Neg (x) }"), "m.onnx")
X = np.array([[-1, 0, 2]], np.float32)


# --- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "wishes", "options"),
    [
        (CUDA, Wishes(), {}),
        (CUDA, Wishes(cuda_graph=True), {"enable_cuda_graph": "1"}),
        (TENSORRT, Wishes(cuda_graph=True), {"trt_cuda_graph_enable": "1"}),
        (CUDA, Wishes(tf32=False, prefer_nhwc=True), {"use_tf32": "0", "prefer_nhwc": "1"}),
        (CUDA, Wishes(conv_search="heuristic"), {"cudnn_conv_algo_search": "HEURISTIC"}),
        (CPU, Wishes(), {}),
    ],
)
def test_wishes_as_options(provider: str, wishes: Wishes, options: dict[str, str]) -> None:
    target = refined(Target(provider, {"device_id": "1"}, 3), wishes)
    assert target == Target(provider, {"device_id": "1", **options}, 3)


@pytest.mark.parametrize(
    ("provider", "wishes", "says"),
    [
        (CPU, Wishes(cuda_graph=True), "--cuda-graph: a setting of CUDA and Tensorrt, not of CPU"),
        (CPU, Wishes(tf32=True), "--tf32"),
        (TENSORRT, Wishes(prefer_nhwc=False), "--no-prefer-nhwc: a setting of CUDA, not of Tensorrt"),
        ("DmlExecutionProvider", Wishes(conv_search="default"), "--cudnn-conv-algo-search: a setting of CUDA, not"),
    ],
)  # fmt: skip
def test_what_a_provider_does_not_have(provider: str, wishes: Wishes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        refined(Target(provider), wishes)


def test_an_option_that_says_otherwise() -> None:
    with pytest.raises(UsageError, match="--provider-option use_tf32=1 says otherwise"):
        refined(Target(CUDA, {"use_tf32": "1"}), Wishes(tf32=False))
    same = Target(CUDA, {"cudnn_conv_algo_search": "heuristic"})
    assert refined(same, Wishes(conv_search="heuristic")) == same


def test_no_tf32_for_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gpu.TF32, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    gpu.forbid_tf32()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize(
    ("target", "graph"),
    [
        (Target(CUDA, {"enable_cuda_graph": "1"}), True),
        (Target(CUDA, {"enable_cuda_graph": "True"}), True),
        (Target(CUDA, {"enable_cuda_graph": "0"}), False),
        (Target(CUDA), False),
        (Target(TENSORRT, {"trt_cuda_graph_enable": "1"}), True),
        (Target(TENSORRT, {"enable_cuda_graph": "1"}), False),
        (Target(CPU, {"enable_cuda_graph": "1"}), False),
    ],
)
def test_is_a_graph_recorded(target: Target, graph: bool) -> None:
    assert target.cuda_graph is graph


def test_a_device_has_a_number() -> None:
    with pytest.raises(UsageError, match="device_id=first: expected the number"):
        runtime.resolve("cuda", {"device_id": "first"})


# --- bound calls -----------------------------------------------------------------------------------------------


class Spy:
    """A session that notes how it is run; everything else is the real one's."""

    def __init__(self) -> None:
        self.real = Session(MODEL, Target(threads=1)).session
        self.runs: list[str | None] = []
        self.outputs: list[Any] = []
        self.bound: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run(self, names: Any, feeds: Any, options: Any = None) -> Any:
        self.runs.append(None if options is None else "plain " + options.get_run_config_entry("gpu_graph_id"))
        return self.real.run(names, feeds)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self.runs.append("bound" if options is None else "bound " + options.get_run_config_entry("gpu_graph_id"))
        self.real.run_with_iobinding(binding, options)
        self.outputs = [o.numpy() for o in binding.get_outputs()]
        self.bound.append([o.data_ptr() for o in binding.get_outputs()])


def test_bound_inputs_and_outputs() -> None:
    spy = Spy()
    call = bind(spy, {"x": X}, "cpu")
    call()
    assert spy.runs == ["bound"]
    assert [v.tolist() for v in spy.outputs] == [[[0, 0, 2]], [[1, 0, -2]]]


def test_a_graph_is_recorded_and_replayed_at_the_same_addresses() -> None:
    spy = Spy()
    call = bind_graph(spy, {"x": X}, "cpu")
    assert spy.runs == ["plain -1", "bound 1", "bound 1"], "sizes without the graph, recording, first replay"
    call()
    call()
    assert spy.runs[3:] == ["bound 1", "bound 1"]
    assert len({tuple(b) for b in spy.bound}) == 1
    assert [v.tolist() for v in spy.outputs] == [[[0, 0, 2]], [[1, 0, -2]]]


def test_end_to_end_with_a_graph_copies_in_and_out() -> None:
    spy = Spy()
    feeds = {"x": X.copy()}
    call = bind_graph_with_copies(spy, feeds, "cpu")
    feeds["x"][...] = [[5, -6, 7]]
    got = call()
    assert [v.tolist() for v in got] == [[[5, 0, 7]], [[-5, 6, -7]]]  # type: ignore[attr-defined]
    assert len({tuple(b) for b in spy.bound}) == 1


def test_end_to_end_without_a_graph_is_a_plain_run() -> None:
    spy = Spy()
    got = direct(spy, {"x": X})()
    assert spy.runs == [None]
    assert [v.tolist() for v in got] == [[[0, 0, 2]], [[1, 0, -2]]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "copies", "how"),
    [
        ({}, False, "bind"),
        ({}, True, "direct"),
        ({"enable_cuda_graph": "1"}, False, "bind_graph"),
        ({"enable_cuda_graph": "1"}, True, "bind_graph_with_copies"),
    ],
)
def test_how_a_gpu_target_is_run(options: Any, copies: bool, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    for name in ("bind", "direct", "bind_graph", "bind_graph_with_copies"):
        monkeypatch.setattr(runtime, name, lambda *a, name=name: chosen.append((name, *a[2:])))
    session = Session(MODEL, Target(threads=1))
    session.target = Target(CUDA, {"device_id": "2", **options})
    session.runner({"x": X}, include_copies=copies)
    assert chosen == [(how,) if how == "direct" else (how, "cuda", 2)]


def test_on_the_cpu_copies_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(runtime, "direct", lambda *a: chosen.append("direct"))
    for copies in (False, True):
        Session(MODEL, Target(threads=1)).runner({"x": X}, include_copies=copies)
    assert chosen == ["direct", "direct"]
    assert "the same without it" in copies_note(Target())
    assert "end to end" in copies_note(Target(CUDA))
    assert "always" in copies_note(Target("DmlExecutionProvider"))


def test_a_plain_run_of_a_session_with_a_graph_leaves_it_out() -> None:
    session = Session(MODEL, Target(threads=1))
    session.session = spy = Spy()
    session.target = Target(CUDA, {"enable_cuda_graph": "1"})
    assert session.run({"x": X})["y"].tolist() == [[0, 0, 2]]
    assert spy.runs == ["plain -1"]


def test_tensors_that_cannot_be_bound_are_told_in_one_line() -> None:
    session = Session(MODEL, Target(threads=1))
    session.target = Target(CUDA)
    with pytest.raises(ModelError, match=r"^m\.onnx: ONNX Runtime cannot run it \(") as caught:
        session.runner({"x": X})  # there is no CUDA device in this session
    assert "\n" not in str(caught.value)


def test_fresh_sessions_end_to_end() -> None:
    make = with_copies(Target(threads=1), MODEL, {"x": X})
    assert make() is not make()
    assert [v.tolist() for v in make()()] == [[[0, 0, 2]], [[1, 0, -2]]]  # type: ignore[attr-defined]


def test_tensorrt_leaves_the_rest_to_cuda_on_the_same_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Library:
        SessionOptions = runtime.ort().SessionOptions
        GraphOptimizationLevel = runtime.ort().GraphOptimizationLevel
        ExecutionMode = runtime.ort().ExecutionMode

        @staticmethod
        def InferenceSession(source: Any, options: Any, **settings: Any) -> None:  # noqa: N802
            asked.update(settings)

    monkeypatch.setattr(runtime, "ort", lambda: Library)
    runtime.create(b"", Target(TENSORRT, {"device_id": "1", "trt_fp16_enable": "1"}), runtime.Settings())
    assert asked["providers"] == [
        (TENSORRT, {"device_id": "1", "trt_fp16_enable": "1"}),
        (CUDA, {"device_id": "1"}),
        CPU,
    ]
    assert asked["enable_fallback"] == 0
