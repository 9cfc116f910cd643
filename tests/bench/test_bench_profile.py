"""Where the time goes: on a real model in a real process, and the arithmetic on made-up times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from onnxtune.bench import profile as profiles
from onnxtune.bench.attribution import Part, named
from onnxtune.bench.profile import Observed, compute_type, layers, medians, profile, region_bytes, rules_of
from onnxtune.bench.roofline import Roofline, copies, gemm, roofline
from onnxtune.bench.tracing import parsed
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.feeds import random_feeds
from onnxtune.model import Model
from onnxtune.provenance import stamp
from onnxtune.render.profile import show, title
from onnxtune.runtime import CPU, CUDA, Target
from onnxtune.testing import model_of

W = {"w": np.ones((8, 4, 3, 3), np.float32)}
NET = "g (float[1, 4, 34, 34] x) => (float[1, 8, 32, 32] y) { c = Conv (x, w)  y = Relu (c) }"
MACS = 8 * 32 * 32 * 4 * 9
LIMITS = Roofline(flops=2e9, bandwidth=1e8, dtype="float32")


def facts(text: str = NET, weights: Any = W) -> Facts:
    return Facts(Model(named(model_of(text, weights))))


# --- limits --------------------------------------------------------------------------------------------------


def test_the_roofline_has_two_slopes() -> None:
    assert LIMITS.seconds(4e9, 1) == 2
    assert LIMITS.seconds(1, 2e8) == 2
    assert LIMITS.bound(4e9, 1e8) == "compute"
    assert LIMITS.bound(1e8, 1e8) == "memory"


def test_peaks_are_the_fastest_of_all() -> None:
    found = roofline([2.0, 1.0, 4.0], 10.0, {"copy": 20.0, "add": 30.0}, {"copy": [4.0, 2.0], "add": [2.5]}, "float16")
    assert found == Roofline(10.0, 12.0, "float16")


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_probes_are_models_that_run(dtype: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxtune.bench import roofline as module
    from onnxtune.runtime import Session

    monkeypatch.setattr(module, "GEMM", {False: 8})
    monkeypatch.setattr(module, "COPY", {False: 64})
    model, feeds, operations = gemm(False, dtype)
    assert operations == 2 * 8**3
    assert Session(model, Target(threads=1)).run(feeds)["c"].shape == (8, 8)
    model, feeds, moved = copies(False)
    assert moved == {"copy": 128, "add": 192}
    assert Session(model, Target(threads=1)).run(feeds)["y"] == 2 * feeds["x"].max()


# --- arithmetic ----------------------------------------------------------------------------------------------


def test_operations_bytes_and_limits_of_a_fused_node() -> None:
    part = Part("Conv_0", "FusedConv", ("c", "y"))
    (layer,) = layers(facts(), [part], {"Conv_0": ("FusedConv", 1e-3)}, 2e-3, LIMITS, ())
    size = 4 * (4 * 34 * 34 + 8 * 4 * 9 + 8 * 32 * 32)
    assert (layer.flops, layer.bytes, layer.share) == (2 * MACS, size, 0.5)
    assert layer.gflops == pytest.approx(2 * MACS / 1e-3 / 1e9)
    assert layer.gbytes == pytest.approx(size / 1e-3 / 1e9)
    assert layer.bound == "memory"
    assert layer.of_limit == pytest.approx(size / 1e8 / 1e-3)
    assert layer.nodes == ("Conv 'Conv_0'", "Relu 'Relu_1'")
    assert title(layer) == "Conv Conv_0 + Relu"


def test_the_runtimes_own_has_no_limit() -> None:
    part = Part("ReorderOutput", "ReorderOutput", (), "c")
    (layer,) = layers(facts(), [part], {"ReorderOutput": ("ReorderOutput", 1e-3)}, 2e-3, LIMITS, ())
    assert (layer.own, layer.bound, layer.of_limit, layer.bytes) == (True, None, None, None)
    assert title(layer) == "(ReorderOutput of the runtime, for Conv_0)"


def test_tensors_that_stay_inside_are_not_moved() -> None:
    inside, outside = region_bytes(facts(), ["c", "y"]), [region_bytes(facts(), [k]) for k in ("c", "y")]
    assert inside == sum(outside) - 2 * 4 * 8 * 32 * 32  # type: ignore[arg-type]


def test_sizes_that_only_a_run_tells() -> None:
    text = "g (float[1, 6] x, int64[2] s) => (float[A, B] y) { r = Reshape (x, s)  y = Relu (r) }"
    found = Model(named(model_of(text)))
    sizes = {"x": (1, 6), "s": (2,)}
    assert region_bytes(Facts(found, sizes), ["y"]) is None
    seen = {"Reshape_0": [("float", (2, 3))], "Relu_1": [("float", (2, 3))]}
    assert region_bytes(Observed(found, sizes, seen), ["y"]) == 2 * 6 * 4


def test_medians_over_runs_and_repeats_within_one() -> None:
    runs = [{"nodes": [["a", "Conv", t, []], ["a", "Conv", 1.0, []], ["b", "Relu", 0.5, []]]} for t in (1.0, 2.0, 9.0)]
    assert medians(runs) == {"a": ("Conv", 3.0), "b": ("Relu", 0.5)}


def test_a_trace() -> None:
    def event(name: str, category: str = "Node", **arguments: Any) -> dict[str, Any]:
        return {"cat": category, "name": name, "dur": 5, "args": arguments}

    node = event("a_kernel_time", op_name="Conv", output_type_shape=[{"float": [1, 2]}])
    run = event("model_run", "Session")
    other = [event("session_initialization", "Session"), event("a_fence_before"), event("k", "Kernel")]
    assert parsed([*other, node, node, run, node, run]) == [
        {"total": 5e-6, "nodes": [["a", "Conv", 5e-6, [["float", [1, 2]]]]] * n} for n in (2, 1)
    ]


def test_rewrites_by_the_names_that_rules_give() -> None:
    text = "g (float[1, 4, 34, 34] x) => (float[1, 8, 32, 32] y) { c = Conv (x, w)  y = Relu (c) }"
    proto = model_of(text, W)
    proto.graph.node[0].name = "c/fold_pad/Conv_1"
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = "y/fold_batchnorm/weight_2"
    model = stamp(Model(proto), {"rules": {"fold_pad": 1, "fold_batchnorm": 1, "pad_channels": 2}})
    rules = rules_of(model)
    assert rules_of(Model(proto)) == ()
    part = Part("c/fold_pad/Conv_1", "Conv", ("c",))
    (layer,) = layers(Facts(model), [part], {part.name: ("Conv", 1.0)}, 1.0, LIMITS, rules)
    assert layer.rewrites == ("fold_batchnorm", "fold_pad")
    assert title(layer) == "Conv c/../Conv_1 [fold_batchnorm, fold_pad]"


def test_the_type_that_most_is_computed_in() -> None:
    assert compute_type(facts()) == onnx.TensorProto.FLOAT
    half = NET.replace("float[", "float16[")
    assert compute_type(facts(half, {"w": W["w"].astype(np.float16)})) == onnx.TensorProto.FLOAT16
    assert compute_type(facts("g (float[2] x) => (float[2] y) { y = Relu (x) }", {})) == onnx.TensorProto.FLOAT


# --- the whole -----------------------------------------------------------------------------------------------


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.bench.roofline.GEMM", {False: 128, True: 128})
    monkeypatch.setattr("onnxtune.bench.roofline.COPY", {False: 2**20, True: 2**20})


def test_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    model = Model(model_of(NET, W), "net.onnx")
    sizes = {"x": (1, 4, 34, 34)}
    found = profile(model, random_feeds(model, sizes), sizes, Target(CPU, threads=1), seconds=0.02)
    assert found.model == "net.onnx"
    assert sum(x.share for x in found.layers) + found.between / found.total == pytest.approx(1)
    assert sum(x.flops for x in found.layers) == 2 * MACS
    assert all(x.seconds > 0 for x in found.layers if not x.own)
    assert found.roofline.flops > 0
    assert found.roofline.bandwidth > 0
    assert found.runs >= 10
    assert found.of_limit is not None
    assert found.as_json()["layers"][0]["gflops"] == found.layers[0].gflops
    out = Console(record=True, width=140)
    show(found, console=out)
    said = out.export_text()
    assert "Conv Conv_0 + Relu" in said
    assert "GFLOP/s (float32 matrix product)" in said
    assert "more nodes" not in said


def test_dynamic_sizes_that_depend_on_values(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    text = "g (float[1, 6] x, int64[2] s) => (float[A, B] y) { r = Reshape (x, s)  y = Exp (r) }"
    model = Model(model_of(text))
    feeds = {"x": np.ones((1, 6), np.float32), "s": np.array([2, 3], np.int64)}
    found = profile(model, feeds, {"x": (1, 6), "s": (2,)}, Target(CPU, threads=1), seconds=0.02)
    assert {x.nodes[0]: x.bytes for x in found.layers}["Exp 'Exp_1'"] == 48


def test_a_model_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    model = Model(model_of(NET, W), "net.onnx")
    with pytest.raises(ModelError, match=r"^net\.onnx: ONNX Runtime cannot load or run it \(.*\)$"):
        profile(model, {"z": np.ones(3, np.float32)}, {"x": (1, 4, 34, 34)}, Target(CPU, threads=1), seconds=0.02)


def test_on_a_gpu_kernels_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider played by another: the process is started so that host times are the kernels' times."""
    small(monkeypatch)
    asked: dict[str, Any] = {}

    def ask(module: str, request: Any, name: str, *, environment: Any) -> dict[str, Any]:
        asked.update(environment=environment, target=request.target)
        node = ["TRTKernel_0", "TRTKernel_0", 2e-3, []]
        product, copy = ["gemm", "MatMul", 1e-3, []], ["copy", "Relu", 1e-3, []]
        add = ["add", "Add", 1e-3, []]
        run = {"total": 3e-3, "nodes": [node]}
        return {"runs": [[run], [{"nodes": [product]}], [{"nodes": [copy, add]}], [{"nodes": []}]]}

    monkeypatch.setattr(profiles, "ask", ask)
    model = Model(model_of(NET, W), "net.onnx")
    found = profile(model, {}, {"x": (1, 4, 34, 34)}, Target(CUDA, {"device_id": "1", "enable_cuda_graph": "1"}))
    assert asked["target"] == Target(CUDA, {"device_id": "1"}), "a replayed graph has no nodes to time"
    assert asked["environment"] == {"CUDA_LAUNCH_BLOCKING": "1"}
    assert "waited for" in found.how
    assert (found.layers[0].own, found.between) == (True, pytest.approx(1e-3))


def test_the_table_counts_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [Part(f"n{i}", "Relu", ("y",)) for i in range(30)]
    times = {p.name: ("Relu", 1e-4) for p in rows}
    made = layers(facts(), rows, times, 4e-3, LIMITS, ())
    found = profiles.Profile("m", tuple(made), 4e-3, 1e-3, 10, LIMITS, "so")
    for verbose, says in ((0, True), (1, False)):
        out = Console(record=True, width=140)
        show(found, verbose=verbose, console=out)
        assert ("... and 10 more nodes, 25.0% of the time" in out.export_text()) is says
