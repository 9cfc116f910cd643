"""merge_duplicate_channels: fires and is equal, declines with a reason, holds on random graphs with planted copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from onnx import numpy_helper

from onnxtune.proposal import Proposal
from onnxtune.testing import assert_declines, assert_rewrites, said_by

RULE = "merge_duplicate_channels"


def merged(proto: onnx.ModelProto, *changes: str, local: bool = True) -> list[onnx.ModelProto]:
    """The smallest candidate changes the layers' outputs as `changes` says; all candidates are equal."""
    said = [s for s in said_by(RULE, proto) if isinstance(s, Proposal)]
    assert said, "nothing was proposed"
    found = [sorted(f"{t['from']} -> {t['to']}" for t in s.details["tensors"]) for s in said]
    assert sorted(changes) in found, found
    return assert_rewrites(RULE, proto, local=local)


def nothing(proto: onnx.ModelProto) -> None:
    assert not [s.title for s in said_by(RULE, proto) if isinstance(s, Proposal)]


def inputs_of(net: Net, tensor: str) -> Sequence[str]:
    return next(list(n.input) for n in net.nodes if tensor in n.output)


def copy(net: Net, tensor: str, source: int, *targets: int, factor: float = 1.0, axis: int = 0) -> str:
    """Weights, biases, statistics of the targets' channels become `factor` times those of the source."""
    for name in inputs_of(net, tensor)[1:]:
        place = next(i for i, w in enumerate(net.weights) if w.name == name)
        array = numpy_helper.to_array(net.weights[place]).copy()
        for target in targets:
            if array.ndim > 1:
                at = (slice(None),) * axis
                array[(*at, target)] = array[(*at, source)] * array.dtype.type(factor)
            else:
                array[target] = array[source] * array.dtype.type(factor)
        net.weights[place] = numpy_helper.from_array(array, name)
    return tensor


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.3])
def test_proportional_filters(factor: float) -> None:
    net = Net("N", 3, 5, 7)
    y = copy(net, net.conv("x", 3, 7), 1, 3, 6, factor=factor)
    y = net.add("MaxPool", net.add("Relu", y), kernel_shape=[2, 3], pads=[0, 1, 1, 0])
    merged(net.model(net.conv(y, 7, 4)), "7 -> 5")


@pytest.mark.parametrize("op", ["LeakyRelu", "GlobalAveragePool", "Neg", "Abs", "Identity"])
def test_homogeneous_functions(op: str) -> None:
    net = Net("N", 3, 5, 7)
    y = net.add(op, copy(net, net.conv("x", 3, 7), 1, 3, factor=0.7))
    merged(net.model(net.conv(y, 7, 4)), "7 -> 6")


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "HardSwish", "Softplus", "Exp"])
def test_other_functions_need_equal_filters(op: str) -> None:
    for factor in (1.0, 0.7):
        net = Net("N", 3, 5, 7)
        y = net.add(op, copy(net, net.conv("x", 3, 7), 1, 3, factor=factor))
        proto = net.model(net.conv(y, 7, 4))
        merged(proto, "7 -> 6") if factor == 1 else nothing(proto)


def test_negative_multiples_are_not_merged() -> None:
    net = Net("N", 3, 5, 7)
    y = net.add("Relu", copy(net, net.conv("x", 3, 7), 1, 3, factor=-1.0))
    nothing(net.model(net.conv(y, 7, 4)))


def test_filters_that_are_equal_but_for_a_little() -> None:
    for change, same in ((2.0**-24, True), (1e-5, False)):
        net = Net("N", 3, 5, 7)
        y = copy(net, net.conv("x", 3, 7), 1, 3)
        copy(net, y, 3, 3, factor=1 + change)  # rounding of all, or none
        name = inputs_of(net, y)[1]
        place = next(i for i, w in enumerate(net.weights) if w.name == name)
        array = numpy_helper.to_array(net.weights[place]).copy()
        array[3, 0, 0, 0] += np.float32(change * np.abs(array[3]).max())
        net.weights[place] = numpy_helper.from_array(array, name)
        proto = net.model(net.conv(net.add("Relu", y), 7, 4))
        merged(proto, "7 -> 6") if same else nothing(proto)


def test_normalization_of_copies() -> None:
    for copies in (True, False):
        net = Net("N", 3, 5, 7)
        y = net.norm(copy(net, net.conv("x", 3, 7), 1, 3), 7)
        y = copy(net, y, 1, 3) if copies else y
        proto = net.model(net.conv(net.add("Relu", y), 7, 4))
        merged(proto, "7 -> 6") if copies else nothing(proto)


def test_slopes() -> None:
    for copies in (True, False):
        net = Net("N", 3, 5, 7)
        y = net.add("PRelu", copy(net, net.conv("x", 3, 7), 1, 3, factor=0.6), net.random(7, 1, 1))
        y = copy(net, y, 1, 3) if copies else y
        proto = net.model(net.conv(y, 7, 4))
        merged(proto, "7 -> 6") if copies else nothing(proto)


def test_depthwise_copies() -> None:
    net = Net("N", 3, 5, 7)
    y = net.add("Relu", copy(net, net.conv("x", 3, 7), 1, 3))
    y = copy(net, net.conv(y, 7, 7, group=7), 1, 3, factor=2.0)
    merged(net.model(net.conv(net.add("Relu", y), 7, 4)), "7 -> 6")


def test_copies_in_both_operands_of_a_sum() -> None:
    for both in (True, False):
        net = Net("N", 3, 5, 7)
        a, b = copy(net, net.conv("x", 3, 7), 1, 3, factor=0.5), net.conv("x", 3, 7)
        b = copy(net, b, 1, 3, factor=0.5) if both else b
        proto = net.model(net.conv(net.add("Relu", net.add("Add", a, b)), 7, 4))
        merged(proto, "7 -> 6", "7 -> 6") if both else nothing(proto)


def test_sums_with_other_factors_and_with_constants() -> None:
    net = Net("N", 3, 5, 7)
    a, b = (copy(net, net.conv("x", 3, 7), 1, 3, factor=f) for f in (0.5, 0.25))
    nothing(net.model(net.conv(net.add("Add", a, b), 7, 4)))
    net = Net("N", 3, 5, 7)
    y = copy(net, net.conv("x", 3, 7), 1, 3, factor=0.5)
    nothing(net.model(net.conv(net.add("Add", y, net.constant(np.float32(1))), 7, 4)))
    net = Net("N", 3, 5, 7)
    a, b = (copy(net, net.conv("x", 3, 7), 1, 3, factor=f) for f in (0.5, 0.25))
    merged(net.model(net.conv(net.add("Mul", a, b), 7, 4)), "7 -> 6", "7 -> 6")


def test_duplicates_of_duplicates() -> None:
    """Rows that differ on two copies of a channel, but have the same sum there."""
    net = Net("N", 3, 5, 7)
    x = copy(net, net.conv("x", 3, 4), 0, 2)
    y = net.conv(net.add("Relu", x), 4, 6)
    copy(net, y, 1, 5)
    w = inputs_of(net, y)[1]
    place = next(i for i, t in enumerate(net.weights) if t.name == w)
    array = numpy_helper.to_array(net.weights[place]).copy()
    array[5, [0, 2]] = array[5, [2, 0]]
    net.weights[place] = numpy_helper.from_array(array, w)
    merged(net.model(net.conv(net.add("Relu", y), 6, 4)), "4 -> 3", "6 -> 5")


def test_flatten_before_gemm() -> None:
    net = Net("N", 3, 3, 2)
    y = net.gemm(net.add("Flatten", copy(net, net.conv("x", 3, 5), 1, 3, factor=0.4)), 30, 7)
    y = net.add("Relu", copy(net, y, 2, 6, factor=3.0))
    merged(net.model(net.gemm(y, 7, 4, transB=0)), "5 -> 4", "7 -> 6")


def test_transposed_convolution() -> None:
    net = Net("N", 3, 5, 4)
    y = copy(net, net.transposed(copy(net, net.conv("x", 3, 5), 0, 4), 5, 6), 1, 2, axis=1)
    merged(net.model(net.conv(y, 6, 4)), "5 -> 4", "6 -> 5")


def test_a_map_and_its_reshaped_form_are_two() -> None:
    net = Net("N", 3, 3, 4)
    y = copy(net, net.conv("x", 3, 5), 1, 3)
    turned = net.add("Reshape", net.add("Reshape", y, net.ints(0, 0, 4, 3)), net.ints(0, 0, 4, 3))
    turned = net.add("Transpose", turned, perm=[0, 1, 3, 2])
    z = net.conv(net.add("Concat", y, turned, axis=1), 10, 6)
    w = inputs_of(net, z)[1]
    copy(net, z, 0, 1)
    place = next(i for i, t in enumerate(net.weights) if t.name == w)
    array = numpy_helper.to_array(net.weights[place]).copy()
    array[1] = np.roll(array[0], 5, axis=0)  # equal if `y` and `turned` were
    net.weights[place] = numpy_helper.from_array(array, w)
    nothing(net.model(net.conv(z, 6, 4)))  # `y` itself stands in the Concat twice: that is left alone


def test_split_concat_and_gates() -> None:
    net = Net("N", 3, 6, 7)
    y = net.add("Relu", copy(net, net.conv("x", 3, 9), 1, 3, 8))
    gate = net.gemm(net.add("Relu", net.gemm(net.pooled(y), 9, 3)), 3, 9)
    gate = net.add("Unsqueeze", net.add("Sigmoid", copy(net, gate, 1, 3)), net.ints(2, 3))
    y = net.add("Mul", y, gate)
    a, b = net.add("Split", y, net.ints(5, 4), outputs=2, axis=1)
    merged(net.model(net.conv(net.add("Concat", b, a, axis=1), 9, 4)), "9 -> 8", "9 -> 8")


def test_half_precision() -> None:
    net = Net("N", 3, 6, 7, dtype=np.float16)
    y = net.add("Relu", copy(net, net.conv("x", 3, 6), 0, 5, factor=0.5))
    merged(net.model(net.conv(y, 6, 4)), "6 -> 5", local=False)


def test_it_is_a_fixed_point_and_leaves_padding_alone() -> None:
    net = Net("N", 3, 5, 7)
    y = copy(net, net.conv("x", 3, 9), 1, 3, 6)
    for result in merged(net.model(net.conv(net.add("Relu", y), 9, 4)), "9 -> 7"):
        nothing(result)


# --- refusals --------------------------------------------------------------------------------------


def refused(build: Any, reason: str | None) -> None:
    """`build(net, y)` continues from 6 channels of which two are equal."""
    net = Net(1, 3, 6, 8, opset=18)
    outputs = build(net, copy(net, net.conv("x", 3, 6), 1, 4))
    assert_declines(RULE, net.model(*(outputs if isinstance(outputs, tuple) else (outputs,))), reason)


def test_declines_graph_outputs() -> None:
    refused(lambda net, y: (net.conv(y, 6, 4), y), "'conv0_0' is a graph output")


def test_declines_softmax_over_channels() -> None:
    refused(lambda net, y: (net.conv(y, 6, 4), net.add("Softmax", y, axis=1)), "Softmax may mix channels")


def test_declines_grouped_convolutions() -> None:
    refused(lambda net, y: (net.conv(y, 6, 4), net.conv(y, 6, 4, group=2)), None)


def test_declines_computed_weights() -> None:
    refused(lambda net, y: net.add("Conv", y, net.input("w", 4, 6, 1, 1)), None)


def test_declines_constants_that_differ() -> None:
    refused(lambda net, y: net.conv(net.add("Add", y, net.random(6, 6, 8)), 6, 4), None)
    refused(lambda net, y: net.conv(net.add("Mul", y, net.random(6, 6, 8)), 6, 4), None)
    refused(lambda net, y: net.conv(net.add("Max", y, net.random(6, 1, 1)), 6, 4), None)


def test_declines_statistics_of_instances() -> None:
    refused(lambda net, y: net.conv(net.add("InstanceNormalization", y, net.random(6), net.random(6)), 6, 4), None)


# --- random graphs -----------------------------------------------------------------------------------

STEPS = ["conv", "conv", "depthwise", "norm", "unary", "unary", "add", "mul", "concat", "split", "pool", "shared"]


def copies(net: Net, draw: Any, y: str, c: int, factor: float = 1.0) -> str:
    targets = draw(st.sets(st.integers(0, c - 1), max_size=3))
    return copy(net, y, draw(st.integers(0, c - 1)), *sorted(targets), factor=factor)


def grow(net: Net, draw: Any, tensors: list[tuple[str, int, int, int]]) -> None:
    """Add one random step; `tensors` holds (name, channels, height, width)."""
    name, c, h, w = draw(st.sampled_from(tensors[-3:]))
    step, factor = draw(st.sampled_from(STEPS)), draw(st.sampled_from([1.0, 1.0, 0.5, 1.7]))
    if step == "conv":
        out, k = draw(st.sampled_from([c, 5, 7])), draw(st.sampled_from([1, 3]))
        tensors.append((copies(net, draw, net.conv(name, c, out, k), out, factor), out, h, w))
    elif step == "depthwise":
        tensors.append((copies(net, draw, net.conv(name, c, c, group=c), c, factor), c, h, w))
    elif step == "norm":
        tensors.append((copies(net, draw, net.norm(name, c), c), c, h, w))
    elif step == "unary":
        op = draw(st.sampled_from(["Relu", "Relu", "Sigmoid", "LeakyRelu", "Abs"]))
        tensors.append((net.add(op, name), c, h, w))
    elif step in ("add", "mul"):
        op = draw(st.sampled_from(["Add", "Sub", "Max"])) if step == "add" else "Mul"
        other = draw(st.sampled_from([t for t in tensors if t[1:] == (c, h, w)]))[0]
        tensors.append((net.add(op, name, other), c, h, w))
    elif step == "concat":
        other, more, _, _ = draw(st.sampled_from([t for t in tensors if t[2:] == (h, w)]))
        tensors.append((net.add("Concat", name, other, axis=1), c + more, h, w))
    elif step == "split" and c > 1:
        cut = draw(st.integers(1, c - 1))
        first, second = net.add("Split", name, net.ints(cut, c - cut), outputs=2, axis=1)
        tensors.extend([(first, cut, h, w), (second, c - cut, h, w)])
    elif step == "pool":
        tensors.append((net.add("AveragePool", name, kernel_shape=[2, 3], pads=[1, 1, 0, 1]), c, h, w))
    elif step == "shared":
        op = draw(st.sampled_from(["Add", "Mul", "Max"]))
        tensors.append((net.add(op, name, net.random(*draw(st.sampled_from([(1,), (1, 1, h, w)])))), c, h, w))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    draw = data.draw
    c, h, w = draw(st.integers(1, 5)), draw(st.integers(3, 6)), draw(st.integers(3, 7))
    net = Net(draw(st.sampled_from([1, 2, 3, "N"])), c, h, w, seed=draw(st.integers(0, 99)))
    first = draw(st.integers(4, 7))
    tensors = [(copies(net, draw, net.conv("x", c, first), first), first, h, w)]
    for _ in range(draw(st.integers(2, 10))):
        grow(net, draw, tensors)
    outputs = []
    for name, c, h, w in tensors[-2:]:
        outputs.append(
            net.gemm(net.add("Flatten", name), c * h * w, 3) if draw(st.booleans()) else net.conv(name, c, 4)
        )
    proto = net.model(*outputs)
    if any(isinstance(s, Proposal) for s in said_by(RULE, proto)):
        assert_rewrites(RULE, proto)
