"""remove_dead_channels: fires and is equal, declines with a reason, holds on random graphs with planted channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from onnx import TensorProto, numpy_helper

from onnxtune.proposal import Proposal
from onnxtune.testing import assert_declines, assert_rewrites, said_by

RULE = "remove_dead_channels"


def removed(proto: onnx.ModelProto, *changes: str, local: bool = True, sizes: Any = None) -> list[onnx.ModelProto]:
    """The smallest candidate changes the layers' outputs as `changes` says; all candidates are equal."""
    said = [s for s in said_by(RULE, proto, sizes=sizes) if isinstance(s, Proposal)]
    assert said, "nothing was proposed"
    found = [sorted(f"{t['from']} -> {t['to']}" for t in s.details["tensors"]) for s in said]
    assert sorted(changes) in found, found
    return assert_rewrites(RULE, proto, local=local, sizes=sizes)


def set_weights(net: Net, name: str, index: Any, value: Any) -> None:
    """Overwrite a part of a stored weight."""
    place = next(i for i, w in enumerate(net.weights) if w.name == name)
    array = numpy_helper.to_array(net.weights[place]).copy()
    array[index] = value
    net.weights[place] = numpy_helper.from_array(array, name)


def inputs_of(net: Net, tensor: str) -> Sequence[str]:
    return next(list(n.input) for n in net.nodes if tensor in n.output)


def mute(net: Net, tensor: str, channels: Any, value: float | None = None) -> str:
    """The filters of a convolution's output channels become 0; `value`: the bias too."""
    _, w, b = inputs_of(net, tensor)
    set_weights(net, w, channels, 0.0)
    if value is not None:
        set_weights(net, b, channels, value)
    return tensor


def ignore(net: Net, tensor: str, channels: Any) -> str:
    """The weights of a convolution for some input channels become 0."""
    set_weights(net, inputs_of(net, tensor)[1], (slice(None), channels), 0.0)
    return tensor


# --- constants --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 2, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_constant_channels_before_a_convolution(pads: list[int], value: float) -> None:
    net = Net("N", 3, 5, 7)
    y = net.add("Relu", mute(net, net.conv("x", 3, 6), [1, 4], value))
    stays = value > 0 and any(pads)  # one carries both
    removed(net.model(net.conv(y, 6, 4, pads=pads)), "6 -> 5" if stays else "6 -> 4")


def test_the_border_is_not_in_the_bias() -> None:
    """The trap: with zero padding the share of a constant is smaller at the border."""
    net = Net(1, 2, 5, 5)
    y = mute(net, net.conv("x", 2, 5), [0, 3], 1.0)
    set_weights(net, inputs_of(net, y)[2], [0, 3], [1.0, -3.0])
    (first, *_) = removed(net.model(net.conv(y, 5, 4)), "5 -> 4")
    weights = [numpy_helper.to_array(i) for i in first.graph.initializer]
    carried = next(w for w in weights if w.shape == (4, 4, 3, 3))
    before = numpy_helper.to_array(next(w for w in net.weights if tuple(w.dims) == (4, 5, 3, 3)))
    np.testing.assert_allclose(carried[:, 2], before[:, 3] - before[:, 0] / 3, rtol=1e-6)


def test_normalization_with_scale_0() -> None:
    net = Net("N", 3, 5, 7)
    y = net.norm(net.conv("x", 3, 9), 9)
    set_weights(net, inputs_of(net, y)[1], [0, 2, 3, 8], 0.0)
    set_weights(net, inputs_of(net, y)[2], [0, 2, 3, 8], [0.5, -1.0, 2.0, -0.1])
    removed(net.model(net.conv(net.add("Relu", y), 9, 4)), "9 -> 6")


def test_filters_of_a_carrier_need_nothing() -> None:
    """Channel 0 stays as a carrier of 0 and 1; what its filter reads is not needed for that."""
    net = Net("N", 3, 5, 7)
    a = net.conv("x", 3, 5)
    b = ignore(net, net.conv(net.add("Relu", a), 5, 6), [0, 2, 4])
    w = inputs_of(net, b)[1]
    set_weights(net, w, (0, [0, 4]), 1.0)
    y = net.norm(b, 6)
    set_weights(net, inputs_of(net, y)[1], [0, 1], 0.0)
    set_weights(net, inputs_of(net, y)[2], [0, 1], 1.0)
    removed(net.model(net.conv(y, 6, 4)), "5 -> 2", "6 -> 5")


@pytest.mark.parametrize(
    "op", ["Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Softplus", "Exp", "Neg", "Elu", "Identity", "Abs", "Erf"]
)
def test_activations_of_constants(op: str) -> None:
    net = Net("N", 3, 5, 7)
    y = net.add(op, mute(net, net.conv("x", 3, 6), [0, 1, 5], -0.6))
    removed(net.model(net.conv(y, 6, 4)), "6 -> 4")


@pytest.mark.parametrize("opset", [9, 17])
def test_clip_takes_constants_to_zero(opset: int) -> None:
    net = Net("N", 3, 5, 7, opset=opset)
    y = mute(net, net.conv("x", 3, 6), [0, 1, 5], -0.6)
    if opset == 9:
        y = net.add("Clip", y, min=0.0, max=6.0)
    else:
        y = net.add("Clip", y, net.constant(np.float32(0)), net.constant(np.float32(6)))
    removed(net.model(net.conv(y, 6, 4)), "6 -> 3")


def test_prelu_of_constants() -> None:
    net = Net("N", 3, 5, 7)
    y = net.add("PRelu", mute(net, net.conv("x", 3, 6), [0, 5], -0.6), net.random(6, 1, 1, low=0.5))
    removed(net.model(net.conv(y, 6, 4, 3, pads=[0] * 4)), "6 -> 4")


@pytest.mark.parametrize(
    ("op", "attributes", "constant"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, True),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, True),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "count_include_pad": 1}, True),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, False),
        ("LpPool", {"kernel_shape": [2, 2]}, False),
        ("GlobalMaxPool", {}, True),
        ("ReduceMean", {"axes": [2, -1]}, True),
        ("ReduceSum", {}, False),
    ],
)
def test_pools_of_constants(op: str, attributes: dict[str, Any], constant: bool) -> None:
    net = Net("N", 3, 5, 7)
    y = mute(net, net.conv("x", 3, 6), [0, 5], 0.6)
    y = net.add(op, y, net.ints(2, 3)) if op == "ReduceSum" else net.add(op, y, **attributes)
    proto = net.model(net.conv(y, 6, 4, 1))
    if constant:
        removed(proto, "6 -> 4")
    else:
        assert not [s for s in said_by(RULE, proto) if isinstance(s, Proposal)]


@pytest.mark.parametrize(("value", "constant"), [(0.6, True), (0.0, False)])
def test_spatial_pad(value: float, constant: bool) -> None:
    net = Net("N", 3, 5, 7)
    y = mute(net, net.conv("x", 3, 6), [0, 5], 0.6)
    y = net.add("Pad", y, net.ints(0, 0, 1, 0, 0, 0, 0, 2), net.constant(np.float32(value)))
    proto = net.model(net.conv(y, 6, 4, 1))
    if constant:
        removed(proto, "6 -> 4")
    else:
        assert not [s for s in said_by(RULE, proto) if isinstance(s, Proposal)]


def test_pad_with_a_value_beside_zeros() -> None:
    net = Net("N", 3, 5, 7)
    y = mute(net, net.conv("x", 3, 6), [0, 5], 0.0)
    y = net.add("Pad", y, net.ints(0, 0, 1, 0, 0, 0, 0, 2), net.constant(np.float32(2)))
    assert not [s for s in said_by(RULE, net.model(net.conv(y, 6, 4, 1))) if isinstance(s, Proposal)]


def test_resize_of_constants() -> None:
    net = Net(2, 3, 5, 6)
    y = mute(net, net.conv("x", 3, 6), [0, 5], 0.6)
    y = net.add("Resize", y, "", net.constant(np.array([1, 1, 2, 1.5], np.float32)), mode="nearest")
    removed(net.model(net.conv(y, 6, 4)), "6 -> 5", local=False)


def test_sums_products_and_constants() -> None:
    net = Net("N", 3, 5, 7)
    a, b = (mute(net, net.conv("x", 3, 6), c, 0.6) for c in ([0, 1, 5], [0, 5]))
    y = net.add("Mul", net.add("Sub", a, b), net.add("Sigmoid", b))
    y = net.add("Add", y, net.constant(np.float32(0.5)))
    removed(net.model(net.conv(y, 6, 4)), "6 -> 5", "6 -> 5")  # 0 and 5 are 0.5 everywhere


def test_product_with_zero() -> None:
    net = Net("N", 3, 5, 7)
    scale = np.array([0, 1, 2, 0, 3], np.float32).reshape(5, 1, 1)
    y = net.add("Mul", net.conv("x", 3, 5), net.constant(scale))
    removed(net.model(net.conv(y, 5, 4)), "5 -> 3")


def test_concat_split_and_slice() -> None:
    net = Net("N", 3, 5, 7)
    a, b = mute(net, net.conv("x", 3, 6), [0, 5], 0.6), mute(net, net.conv("x", 3, 5), [1], 0.0)
    first, second = net.add("Split", net.add("Concat", a, b, axis=1), net.ints(4, 7), outputs=2, axis=1)
    y = net.add("Slice", second, net.ints(1), net.ints(6), net.ints(1))
    # a: 0 alone in the first part, 5 alone in the second; b: 1 is 0
    proto = net.model(net.conv(first, 4, 4, 1), net.conv(y, 5, 4, 1), net.conv(second, 7, 3, 1))
    removed(proto, "6 -> 4", "5 -> 4")


def test_flatten_before_gemm_and_matmul() -> None:
    for gemm in (True, False):
        net = Net("N", 3, 3, 2)
        y = net.add("Flatten", mute(net, net.conv("x", 3, 5), [1, 2], 0.6))
        proto = net.model(net.gemm(y, 30, 7) if gemm else net.add("MatMul", y, net.random(30, 7)))
        removed(proto, "5 -> 3")


def test_gemm_with_factors() -> None:
    net = Net("N", 3, 3, 2)
    y = net.add("Flatten", mute(net, net.conv("x", 3, 5), [1, 2], 0.6))
    y = net.add("Gemm", y, net.random(30, 7), net.random(1, 7), alpha=0.5, beta=3.0)
    removed(net.model(y), "5 -> 3")


def test_depthwise_convolutions_of_constants() -> None:
    net = Net("N", 3, 5, 7)
    y = mute(net, net.conv("x", 3, 6), [0, 5, 2], 0.6)
    set_weights(net, inputs_of(net, y)[2], 2, 0.0)
    y = net.conv(y, 6, 6, group=6)
    removed(net.model(net.conv(net.add("Neg", y), 6, 4, 1)), "6 -> 5")  # 2 is its bias


def test_transposed_convolution_carries() -> None:
    net = Net("N", 3, 5, 4)
    y = net.add("Relu", mute(net, net.conv("x", 3, 6), [0, 5], 0.6))
    removed(net.model(net.transposed(y, 6, 4)), "6 -> 5")


def test_half_precision() -> None:
    net = Net("N", 3, 6, 7, dtype=np.float16)
    y = net.add("Sigmoid", mute(net, net.conv("x", 3, 6), [0, 5], 0.6))
    removed(net.model(net.conv(y, 6, 4)), "6 -> 5", local=False)


def test_symbolic_height_and_width() -> None:
    net = Net("N", 3, "H", "W")
    y = net.add("Relu", mute(net, net.conv("x", 3, 6), [0, 5], 0.6))
    removed(net.model(net.conv(y, 6, 4)), "6 -> 5", sizes={"x": (1, 3, 6, 7)})


def test_weights_that_two_layers_share() -> None:
    net = Net("N", 5, 5, 7)
    w, b = net.random(5, 5, 3, 3), net.constant(np.array([0.3, 0.5, 0, 0, 0], np.float32))
    set_weights(net, w, [0, 1], 0.0)
    y = net.add("Conv", net.add("Conv", "x", w, b, pads=[1] * 4), w, b, pads=[1] * 4)
    removed(net.model(y), "5 -> 4")


# --- channels that nobody needs ----------------------------------------------------------------------


def test_dead_channels_and_what_only_they_need() -> None:
    net = Net("N", 3, 5, 7)
    a = net.conv("x", 3, 7)
    b = ignore(net, net.conv(net.add("Tanh", a), 7, 6), [0, 6])
    set_weights(net, inputs_of(net, b)[1], (slice(0, 5), 3), 0.0)  # only filter 5 reads channel 3
    proto = net.model(ignore(net, net.conv(net.add("Sigmoid", b), 6, 4), [5]))
    removed(proto, "7 -> 4", "6 -> 5")
    said = said_by(RULE, proto)[0]
    assert isinstance(said, Proposal)
    assert said.details["why"] == {"dead": 4}


def test_all_readers_must_ignore_it() -> None:
    net = Net("N", 3, 5, 7)
    y = net.conv("x", 3, 5)
    proto = net.model(
        ignore(net, net.conv(y, 5, 4), [0, 1, 2]), ignore(net, net.conv(net.add("Relu", y), 5, 4), [2, 3])
    )
    removed(proto, "5 -> 4")


def test_added_channels_go_together() -> None:
    net = Net("N", 3, 5, 7)
    a = mute(net, net.conv("x", 3, 6), [0, 1, 2], 0.2)
    b = mute(net, net.conv("x", 3, 6), [1, 2, 3], 0.3)
    proto = net.model(ignore(net, net.conv(net.add("Add", a, b), 6, 4), [3]))
    removed(proto, "6 -> 4", "6 -> 4")  # 1 is carried by 2, 3 is ignored; 0 is constant in `a` only


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_residual_branch_that_was_never_trained(shift: float) -> None:
    net = Net("N", 6, 5, 7)
    a = net.conv("x", 6, 6)
    b = net.norm(net.conv(net.add("Relu", net.conv(a, 6, 9)), 9, 6), 6)
    set_weights(net, inputs_of(net, b)[1], slice(None), 0.0)
    set_weights(net, inputs_of(net, b)[2], slice(None), shift)
    proto = net.model(net.conv(net.add("Relu", net.add("Add", a, b)), 6, 4))
    for result in removed(proto, "6 -> 0", "9 -> 0"):
        assert [n.op_type for n in result.graph.node].count("Conv") == 2


def test_a_whole_tensor_keeps_one_channel() -> None:
    net = Net("N", 3, 5, 7)
    y = mute(net, net.conv(net.add("Relu", net.conv("x", 3, 5)), 5, 6), slice(None), 0.5)
    removed(net.model(net.conv(y, 6, 4)), "5 -> 1", "6 -> 1")


def test_gate_that_is_half_dead() -> None:
    net = Net("N", 3, 6, 7)
    y = net.add("Relu", mute(net, net.conv("x", 3, 13), [0, 1, 2, 12], 0.0))
    gate = net.gemm(net.add("Relu", net.gemm(net.pooled(y), 13, 3)), 3, 13)
    gate = net.add("Unsqueeze", net.add("Sigmoid", gate), net.ints(2, 3))
    removed(net.model(net.conv(net.add("Mul", y, gate), 13, 4)), "13 -> 9", "13 -> 9")


def test_it_is_a_fixed_point() -> None:
    net = Net("N", 3, 5, 7)
    y = net.add("Relu", mute(net, net.conv("x", 3, 6), [1, 3, 4], 0.7))
    for result in removed(net.model(net.conv(y, 6, 4)), "6 -> 4"):
        shapes = [tuple(i.dims) for i in result.graph.initializer]
        if (4, 4, 3, 3) in shapes:
            assert not [s for s in said_by(RULE, result) if isinstance(s, Proposal)]


def test_the_real_one(shared: Any) -> None:
    proto = onnx.load(shared / "models" / "own_slim_l1_cifar10.onnx")
    said = [s for s in said_by(RULE, proto) if isinstance(s, Proposal)]
    assert all(sum(s.details["why"].values()) > 200 for s in said)
    assert_rewrites(RULE, proto)


# --- refusals --------------------------------------------------------------------------------------


def refused(build: Any, reason: str | None) -> None:
    """`build(net, y)` continues from 6 channels of which two are 0.6 everywhere."""
    net = Net(1, 3, 6, 8, opset=18)
    outputs = build(net, mute(net, net.conv("x", 3, 6), [1, 4], 0.6))
    assert_declines(RULE, net.model(*(outputs if isinstance(outputs, tuple) else (outputs,))), reason)


def test_declines_graph_outputs() -> None:
    refused(lambda net, y: (net.conv(y, 6, 4), y), "2 constant channels: 'conv0_0' is a graph output")


def test_declines_softmax_over_channels() -> None:
    refused(lambda net, y: net.conv(net.add("Softmax", y, axis=1), 6, 4), "Softmax may mix channels")


def test_declines_channels_at_one_place_of_some_groups() -> None:
    refused(lambda net, y: net.conv(y, 6, 4, group=2), None)  # at another place in each group


def test_declines_computed_weights() -> None:
    refused(lambda net, y: net.add("Conv", y, net.input("w", 4, 6, 1, 1)), "weights are not constant")


def test_declines_reductions_over_channels() -> None:
    refused(lambda net, y: net.add("ReduceMean", y, net.ints(1, 2)), "ReduceMean over channels")
    refused(lambda net, y: net.conv(net.add("LRN", y, size=3), 6, 4), "LRN looks at neighbours")


def test_declines_a_use_of_the_number_of_channels() -> None:
    refused(lambda net, y: (net.conv(y, 6, 4), net.add("Shape", y)), "sizes are used")


def test_declines_a_single_constant_before_zero_padding() -> None:
    net = Net(1, 3, 6, 8)
    y = mute(net, net.conv("x", 3, 6), [1], 0.6)
    assert_declines(RULE, net.model(net.conv(y, 6, 4)), None)


def test_declines_constants_added_to_others() -> None:
    refused(lambda net, y: net.conv(net.add("Add", y, net.conv("x", 3, 6)), 6, 4), None)


def test_declines_maps_that_are_not_constant() -> None:
    refused(lambda net, y: net.conv(net.add("Add", y, net.random(6, 6, 8)), 6, 4), None)
    refused(lambda net, y: net.conv(net.add("Mul", y, net.input("m", 1, 1, 6, 8)), 6, 4), None)
    refused(lambda net, y: net.conv(net.conv(y, 6, 6, group=6), 6, 4), None)


def test_declines_constants_that_are_not_finite() -> None:
    refused(lambda net, y: net.conv(net.add("Log", net.add("Neg", y)), 6, 4), None)


def test_declines_weights_that_a_caller_may_feed() -> None:
    net = Net(1, 3, 6, 8)
    y = mute(net, net.conv("x", 3, 6), [1, 4], 0.0)
    w = inputs_of(net, y)[1]
    net.inputs.append(onnx.helper.make_tensor_value_info(w, TensorProto.FLOAT, [6, 3, 3, 3]))
    assert_declines(RULE, net.model(net.conv(y, 6, 4)), None)


def test_declines_branches_that_nobody_uses() -> None:
    def idle(net: Net, y: str) -> str:
        net.add("Add", y, net.conv("x", 3, 6))
        net.conv(mute(net, net.conv("x", 3, 6), slice(None), 0.0), 6, 2)
        return net.conv("x", 3, 4)

    refused(idle, None)


# --- random graphs -----------------------------------------------------------------------------------


def some(draw: Any, c: int) -> list[int]:
    return sorted(draw(st.sets(st.integers(0, c - 1), max_size=c)))


def planted(net: Net, draw: Any, y: str, c: int) -> str:
    """Mute filters of a convolution, make it ignore inputs, or follow it by a normalization with scales of 0."""
    kind = draw(st.sampled_from(["mute", "mute", "ignore", "norm", "nothing"]))
    if kind == "mute":
        mute(net, y, some(draw, c), draw(st.sampled_from([0.0, 0.5, -0.5, None])))
    elif kind == "ignore":
        into = next(w.dims[1] for w in net.weights if w.name == inputs_of(net, y)[1])
        ignore(net, y, some(draw, into))
    elif kind == "norm":
        y = net.norm(y, c)
        set_weights(net, inputs_of(net, y)[1], some(draw, c), 0.0)
    return y


STEPS = ["conv", "conv", "conv", "depthwise", "unary", "unary", "add", "add", "mul", "concat", "split", "pool", "gate"]


def grow(net: Net, draw: Any, tensors: list[tuple[str, int, int, int]]) -> None:
    """Add one random step; `tensors` holds (name, channels, height, width)."""
    name, c, h, w = draw(st.sampled_from(tensors[-4:]))
    step = draw(st.sampled_from(STEPS))
    same = [t for t in tensors if t[1:] == (c, h, w)]
    if step == "conv":
        out, k = draw(st.sampled_from([c, 2, 5, 7])), draw(st.sampled_from([1, 3]))
        tensors.append((planted(net, draw, net.conv(name, c, out, k), out), out, h, w))
    elif step == "depthwise":
        tensors.append((mute(net, net.conv(name, c, c, group=c), some(draw, c)), c, h, w))
    elif step == "unary":
        op = draw(st.sampled_from(["Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu"]))
        tensors.append((net.add(op, name), c, h, w))
    elif step in ("add", "mul"):
        op = {"add": "Add", "mul": "Mul"}[step]
        tensors.append((net.add(op, name, draw(st.sampled_from(same))[0]), c, h, w))
    elif step == "concat":
        other, more, _, _ = draw(st.sampled_from([t for t in tensors if t[2:] == (h, w)]))
        tensors.append((net.add("Concat", name, other, axis=1), c + more, h, w))
    elif step == "split" and c > 1:
        cut = draw(st.integers(1, c - 1))
        first, second = net.add("Split", name, net.ints(cut, c - cut), outputs=2, axis=1)
        tensors.extend([(first, cut, h, w), (second, c - cut, h, w)])
    elif step == "pool":
        attributes = {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": draw(st.integers(0, 1))}
        tensors.append((net.add("AveragePool", name, **attributes), c, h, w))
    elif step == "gate":
        y = net.gemm(net.pooled(name), c, c)
        mute(net, y, some(draw, c))
        y = net.add("Unsqueeze", net.add("Sigmoid", y), net.ints(2, 3))
        tensors.append((net.add("Mul", name, y), c, h, w))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    draw = data.draw
    c, h, w = draw(st.integers(1, 5)), draw(st.integers(3, 6)), draw(st.integers(3, 7))
    net = Net(draw(st.sampled_from([1, 2, 3, "N"])), c, h, w, seed=draw(st.integers(0, 99)))
    first = draw(st.integers(2, 7))
    tensors = [(net.add("Relu", planted(net, draw, net.conv("x", c, first), first)), first, h, w)]
    for _ in range(draw(st.integers(2, 10))):
        grow(net, draw, tensors)
    outputs = []
    for name, c, h, w in tensors[-2:]:
        if draw(st.booleans()):
            outputs.append(net.gemm(net.add("Flatten", name), c * h * w, 3))
        else:
            outputs.append(net.conv(name, c, 4))
    proto = net.model(*outputs)
    if any(isinstance(s, Proposal) for s in said_by(RULE, proto)):
        assert_rewrites(RULE, proto)


# --- bounds -----------------------------------------------------------------------------------------


def below_zero(bias: float, weight: float, pads: int, activation: str = "Relu") -> onnx.ModelProto:
    """Channel 4 of 6 has equal weights and this bias before the activation."""
    net = Net("N", 2, 7, 9)
    a = net.conv("x", 2, 6, pads=[pads] * 4)
    _, w, b = inputs_of(net, a)
    set_weights(net, w, slice(None), 0.2)  # the others reach above 0, not always 6
    set_weights(net, b, slice(None), 0.5)
    set_weights(net, w, 4, weight)
    set_weights(net, b, 4, bias)
    limits = (net.constant(np.float32(0)), net.constant(np.float32(6))) if activation == "Clip" else ()
    return net.model(net.conv(net.add(activation, a, *limits), 6, 5))


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
@pytest.mark.parametrize(
    ("low", "high", "bias", "weight", "pads"),
    [(0, 1, -0.5, -0.1, 1), (-1, 1, -2.0, 0.1, 1), (1, 2, 0.5, -0.1, 0), (-3, -1, -0.1, 0.05, 1), (0, 1, 0.0, -0.1, 1)],
)
def test_channels_that_are_never_above_zero_in_the_declared_range(
    low: float, high: float, bias: float, weight: float, pads: int, activation: str
) -> None:
    proto, ranges = below_zero(bias, weight, pads, activation), {"x": (low, high)}
    said = [s for s in said_by(RULE, proto, ranges=ranges) if isinstance(s, Proposal)]
    assert said[0].details["tensors"][0]["to"] == 5
    assert said[0].details["input_ranges"] == {"x": [low, high]}
    assert_rewrites(RULE, proto, ranges=ranges)
    assert not said_by(RULE, proto), "nothing is known of the input without the declaration"


@pytest.mark.parametrize(
    ("low", "high", "bias", "weight", "pads"),
    [
        (1, 2, 0.5, -0.04, 1),  # in the middle never above -0.22, in the corner 0.18
        (0, 1.1, -1.8, 0.1, 1),  # 18 taps of 1.1
        (0, 1, 1e-3, -0.1, 1),
    ],
)
def test_bounds_hold_at_the_border_and_are_exact(
    low: float, high: float, bias: float, weight: float, pads: int
) -> None:
    assert_declines(RULE, below_zero(bias, weight, pads), None, ranges={"x": (low, high)})


def test_bounds_from_activations_in_the_graph() -> None:
    net = Net("N", 3, 7, 6)
    y = net.add("Relu", net.conv("x", 3, 5))
    a = net.conv(y, 5, 6)
    _, w, b = inputs_of(net, a)
    set_weights(net, w, 2, -0.1)
    set_weights(net, b, 2, -0.0)
    y = net.conv(net.add("Relu", a), 6, 4, pads=[0] * 4)
    gate = net.add("Sigmoid", net.conv(y, 4, 4, 1))
    c = net.conv(net.add("Mul", gate, net.add("HardSigmoid", y)), 4, 5, 1)
    _, w, b = inputs_of(net, c)
    set_weights(net, w, 3, 1.0)
    set_weights(net, b, 3, -4.0)  # four products of numbers below 1
    removed(net.model(net.conv(net.add("Relu", c), 5, 3)), "6 -> 5", "5 -> 4")


def test_bounds_through_sums_norms_pools_and_concat() -> None:
    net = Net("N", 2, 8, 8)
    y = net.add("Clip", net.conv("x", 2, 4), net.constant(np.float32(-1)), net.constant(np.float32(1)))
    z = net.add("AveragePool", net.add("Add", y, y), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    n = net.add("BatchNormalization", z, *(net.constant(np.full(4, v, np.float32)) for v in (2, -5, 0, 1)), epsilon=0.0)
    other = net.conv("x", 2, 4, 2, strides=[2, 2], pads=[1, 1, 1, 1])
    both = net.add("Concat", net.add("Relu", n), other, axis=1)  # 2 * [-2, 2] - 5 < 0
    removed(net.model(net.conv(both, 8, 3)), "4 -> 1")


def test_bounds_do_not_pass_what_is_not_understood() -> None:
    net = Net("N", 2, 7, 7)
    y = net.add("LpPool", net.add("Sigmoid", net.conv("x", 2, 4)), kernel_shape=[2, 2])
    a = net.conv(y, 4, 5, 1)
    _, w, b = inputs_of(net, a)
    set_weights(net, w, 2, 1.0)
    set_weights(net, b, 2, -4.5)
    assert_declines(RULE, net.model(net.conv(net.add("Relu", a), 5, 3)), None)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_graphs_stay_within_their_bounds(data: st.DataObject) -> None:
    from onnxtune.channels.bounds import ANY, bounds
    from onnxtune.facts import Facts
    from onnxtune.feeds import cases
    from onnxtune.model import Model
    from onnxtune.runtime import Session, Target
    from onnxtune.sizes import bind

    draw = data.draw
    c, h, w = draw(st.integers(1, 4)), draw(st.integers(4, 6)), draw(st.integers(4, 7))
    net = Net(2, c, h, w, seed=draw(st.integers(0, 99)))
    tensors = [("x", c, h, w)]
    for _ in range(draw(st.integers(3, 12))):
        grow(net, draw, tensors)
    names = [t[0] for t in tensors[1:]]
    if not names:
        return
    low = draw(st.floats(-3, 2))
    ranges = {"x": (low, low + draw(st.floats(0.1, 4)))}
    model = Model(net.model(*dict.fromkeys(names)))
    sizes = bind(model).sizes
    found = Facts(model, sizes, ranges).once(bounds)
    session = Session(model, Target(threads=1), "disable")
    for case in cases(model, sizes, ranges=ranges):
        for name, value in session.run(case.feeds).items():
            axes = tuple(a for a in range(value.ndim) if a != 1)
            lowest, highest = found.get(name, ANY)
            slack = 1e-4 * (1 + np.abs(value).max())
            least, most = value.min(axis=axes), value.max(axis=axes)
            if value.ndim == 2 and len(lowest) not in (1, value.shape[1]):
                continue  # flattened maps: bounds are by channel
            assert (least >= lowest - slack).all(), name
            assert (most <= highest + slack).all(), name


# --- removal and padding are chosen together ----------------------------------------------------------


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.channels.cost.cpu_features", lambda: frozenset({"avx", "avx512f"}))


def most_of(net: Net, x: str, into: int, c: int = 100, dead: int = 38) -> str:
    """A convolution with Relu of which some channels are 0."""
    return str(net.add("Relu", mute(net, net.conv(x, into, c), range(5, 5 + dead), 0.0)))


def widths(proposal: Proposal) -> set[tuple[int, int]]:
    return {(t["from"], t["to"]) for t in proposal.details["tensors"]}


@pytest.mark.usefixtures("avx512")
def test_what_is_left_is_padded_to_what_the_kernels_want() -> None:
    net = Net("N", 16, 14, 14)
    y = most_of(net, most_of(net, "x", 16), 100)
    proto = net.model(net.conv(y, 100, 64))
    said = [s for s in said_by(RULE, proto) if isinstance(s, Proposal)]
    assert widths(said[0]) == {(100, 64)}, "first what the cost model expects to be the fastest"
    assert {(100, 62)} in [widths(s) for s in said], "and the bare removal, to be measured as well"
    assert max(to for s in said for _, to in widths(s)) <= 100
    after = assert_rewrites(RULE, proto)
    assert (64, 64, 3, 3) in {tuple(i.dims) for i in after[0].graph.initializer}
    again = [s for s in said_by(RULE, after[0]) if isinstance(s, Proposal)]
    assert all(s.details["why"].keys() == {"padding"} for s in again), "nothing but the padding itself is left"
    assert not [s for s in said_by("pad_channels", after[0]) if isinstance(s, Proposal)]


@pytest.mark.usefixtures("avx512")
def test_padding_of_classes_that_are_added_and_of_a_dead_branch() -> None:
    net = Net("N", 16, 14, 14)
    a = most_of(net, "x", 16)
    b = most_of(net, a, 100)
    y = net.add("Relu", net.add("Add", a, b))
    never = net.norm(net.conv(net.add("Relu", net.conv(y, 100, 50)), 50, 100), 100)
    scale, shift = inputs_of(net, never)[1:3]
    set_weights(net, scale, slice(None), 0.0)
    set_weights(net, shift, slice(None), 0.0)
    y = net.add("Relu", net.add("Add", y, never))
    proto = net.model(net.conv(y, 100, 64))
    first = next(s for s in said_by(RULE, proto) if isinstance(s, Proposal))
    assert widths(first) == {(100, 64), (50, 0), (100, 0)}
    after = assert_rewrites(RULE, proto)
    assert sum(n.op_type == "Add" for n in after[0].graph.node) == 1
    assert sum(n.op_type == "Conv" for n in after[0].graph.node) == 3


@pytest.mark.usefixtures("avx512")
def test_a_class_is_not_padded_above_what_it_was() -> None:
    net = Net("N", 16, 14, 14)
    y = most_of(net, "x", 16, 63, 1)
    said = [s for s in said_by(RULE, net.model(net.conv(y, 63, 64))) if isinstance(s, Proposal)]
    assert {to for s in said for _, to in widths(s)} <= {62, 63}
