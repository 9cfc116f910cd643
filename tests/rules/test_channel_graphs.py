"""The channel engine on random networks of all its operators: any classes padded, any dead channels removed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from channel_graphs import Draw, network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.apply import apply
from onnxtune.channels.axis import Integers
from onnxtune.channels.flow import Channels, analyse, analyse_cutting
from onnxtune.channels.linear import layers
from onnxtune.channels.resized import resize
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.propose import propose
from onnxtune.sizes import bind
from onnxtune.testing import rule_named

LEVELS = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
WIDE = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


RULES: dict[str, dict[str, Any]] = {
    "pad_channels": {"policy": "multiple:4", "min_channels": 1, "max_overhead": 1000.0},
    "remove_dead_channels": {},
    "merge_duplicate_channels": {},
}


def outputs(proto: onnx.ModelProto, x: NDArray[Any], level: Any) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, {"x": x})]


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, draw: Draw) -> None:
    """Equal outputs. Where values jump (QuantizeLinear, Greater) a rounding may show: then other inputs are tried."""
    onnx.checker.check_model(after, full_check=True)
    batch, *sizes = (d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    number = batch or draw(st.integers(1, 3))
    tries = 3 if any(n.op_type in ("QuantizeLinear", "Greater") for n in before.graph.node) else 1
    for _ in range(tries):
        worst = distance(before, after, rng.standard_normal((number, *sizes)).astype(np.float32))
        if worst <= 1e-4:
            return
    raise AssertionError(f"the outputs differ by {worst:g}")


def distance(before: onnx.ModelProto, after: onnx.ModelProto, x: NDArray[Any]) -> float:
    """The largest of all outputs at both levels, relative to the largest value (at least 1).

    ONNX Runtime computes in integers what stands between DequantizeLinear and QuantizeLinear, and rounds more,
    but not the same nodes in both networks: what that changes in each of them is forgiven.
    """
    found, plain = 0.0, [outputs(p, x, LEVELS[0]) for p in (before, after)]
    integers = any(n.op_type == "QuantizeLinear" for n in before.graph.node)
    for level in LEVELS:
        wanted = _outputs_or_none(before, x, level)
        if wanted is None:
            continue
        for a, b, exact_a, exact_b in zip(wanted, outputs(after, x, level), *plain, strict=True):
            assert a.shape == b.shape
            assert np.isfinite(b).all() or not np.isfinite(a).all()
            rounding = 2 * sum(np.abs(v - e).max(initial=0) for v, e in ((a, exact_a), (b, exact_b))) if integers else 0
            found = max(found, float((np.abs(a - b).max(initial=0) - rounding) / max(1.0, np.abs(a).max(initial=0))))
    return found


def _outputs_or_none(proto: onnx.ModelProto, x: NDArray[Any], level: Any) -> list[NDArray[Any]] | None:
    """None: ONNX Runtime has merged a Pad into a pool that is smaller than it."""
    try:
        return outputs(proto, x, level)
    except Exception as error:
        if "Pad should be smaller than kernel" not in str(error):
            raise
        return None


def resized(channels: Channels, counts: Integers) -> onnx.ModelProto:
    removes, fragment = resize(channels, counts, "resize")
    return apply(channels.facts.model, [Proposal("resize", "", removes, fragment)]).proto


def analysed(proto: onnx.ModelProto, *, cutting: bool = False) -> Channels:
    model = Model(proto)
    return (analyse_cutting if cutting else analyse)(Facts(model, bind(model).sizes))


@WIDE
@given(data=st.data())
def test_any_classes_can_be_padded(data: st.DataObject) -> None:
    """Also across graph inputs, outputs and barriers, by copies."""
    proto = network(data.draw)
    channels = analysed(proto, cutting=data.draw(st.booleans()))
    free = [r for r in channels.runs if not r.reason]
    sizes = {r.index: r.size + data.draw(st.integers(1, 4)) for r in free if data.draw(st.integers(0, 3))}
    if sizes:
        assert_same(proto, resized(channels, channels.padded(sizes)), data.draw)


@WIDE
@given(data=st.data())
def test_any_dead_channels_can_be_removed(data: st.DataObject) -> None:
    """Channels become dead by zero weights in all layers that read them."""
    proto = network(data.draw)
    channels = analysed(proto)
    counts = np.ones(channels.count, np.int64)
    free = np.flatnonzero(channels.held == 0)
    for i in free.tolist():
        counts[i] = data.draw(st.sampled_from([0, 1, 1]))
    for axis in channels.axes.values():
        counts[axis.ids[0]] = max(counts[axis.ids[0]], int((counts[axis.ids] == 0).all()))
    if (counts == 1).all():
        return
    dead = without_weights(channels, counts)
    pads = {r.index: r.size + 1 for r in channels.runs if not r.reason and counts[r.last] and data.draw(st.booleans())}
    both = np.where(counts > 0, channels.padded(pads), 0)
    assert_same(dead, resized(analysed(dead), both), data.draw)


def without_weights(channels: Channels, counts: Integers) -> onnx.ModelProto:
    """The model with zeros for the channels that are to go, in the weights of all layers that read them."""
    facts = channels.facts
    proto = onnx.ModelProto()
    proto.CopyFrom(facts.model.proto)
    stored = {i.name: i for i in proto.graph.initializer}
    for node in layers(channels):
        axis = channels.axes.get(node.input(0))
        if axis is None:
            continue
        gone = np.repeat(counts[axis.ids] == 0, axis.blocks)
        name, zero = node.input(1), np.zeros(())
        maker = facts.producer(name)
        if maker is not None:
            name, zero = maker.input(0), numpy_helper.to_array(stored[maker.input(2)])
        w = numpy_helper.to_array(stored[name]).copy()
        along = 0 if node.op_type in ("ConvTranspose", "MatMul") else 1
        if node.op_type == "Gemm":
            along = 1 if node.attribute("transB", 0) else 0
        group = node.attribute("group", 1)
        gone = gone if node.op_type == "ConvTranspose" else gone[: len(gone) // group]
        if zero.ndim:
            own = maker.attribute("axis", 1) if maker is not None else 0
            zero = zero.reshape([-1 if a == own else 1 for a in range(w.ndim)])
        shape = [-1 if a == along else 1 for a in range(w.ndim)]
        stored[name].CopyFrom(numpy_helper.from_array(np.where(gone.reshape(shape), zero.astype(w.dtype), w), name))
    return proto


@WIDE
@given(data=st.data())
def test_the_rules_keep_the_function(data: st.DataObject) -> None:
    """Filters without weights (their channels are constant) and equal filters, in any convolution."""
    proto = network(data.draw)
    plant(proto, data.draw)
    model = Model(proto)
    facts = Facts(model, bind(model).sizes)
    for rule, chosen in RULES.items():
        proposals = [p for p in propose(facts, [rule_named(rule)], {rule: chosen}) if isinstance(p, Proposal)]
        for proposal in proposals[:2]:
            assert_same(proto, apply(model, [proposal]).proto, data.draw)


def plant(proto: onnx.ModelProto, draw: Draw) -> None:
    stored = {i.name: i for i in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "Conv" or node.input[1] not in stored or not draw(st.booleans()):
            continue
        w = numpy_helper.to_array(stored[node.input[1]]).copy()
        rows = [i for i in range(len(w)) if draw(st.sampled_from([True, False, False]))]
        if draw(st.booleans()):
            w[rows] = 0.0
        else:
            w[rows] = w[rows[:1]]
            bias = numpy_helper.to_array(stored[node.input[2]]).copy()
            bias[rows] = bias[rows[:1]]
            stored[node.input[2]].CopyFrom(numpy_helper.from_array(bias, node.input[2]))
        stored[node.input[1]].CopyFrom(numpy_helper.from_array(w, node.input[1]))
