"""What the channel engine knows of single operators: each fires in a small network, and near misses say why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from nets import Net
from onnx import numpy_helper
from test_remove_dead_channels import ignore, mute, removed

from onnxtune.proposal import Proposal
from onnxtune.testing import assert_declines, assert_rewrites, said_by

ALL = {"policy": "multiple:4", "min_channels": 1, "max_overhead": 1000.0}


def padded(proto: onnx.ModelProto, *tensors: str, sizes: Any = None, local: bool = True) -> onnx.ModelProto:
    """The channels of these tensors are padded (among others), and everything stays equal."""
    first, *_ = assert_rewrites("pad_channels", proto, settings=ALL, sizes=sizes, local=local)
    said = [s for s in said_by("pad_channels", proto, ALL, sizes) if hasattr(s, "details")]
    classes = {c["tensor"] for s in said for c in s.details["classes"]}
    assert classes >= set(tensors), f"padded: {classes}"
    return first


def refused(net: Net, outputs: str | Sequence[str], reason: str) -> None:
    proto = net.model(*([outputs] if isinstance(outputs, str) else outputs))
    assert_declines("pad_channels", proto, reason, settings=ALL)


def weights(proto: onnx.ModelProto, rank: int = 4) -> list[tuple[int, ...]]:
    return sorted(tuple(i.dims) for i in proto.graph.initializer if len(i.dims) == rank)


def start(c: int = 6, n: int | str = "N", h: int | str = 5, w: int | str = 7, **options: Any) -> tuple[Net, str]:
    net = Net(n, 3, h, w, **options)
    return net, net.conv("x", 3, c)


# --- groups -----------------------------------------------------------------------------------------


def test_groups_stay_equally_large() -> None:
    net, y = start(6)
    z = net.conv(net.add("Sigmoid", y), 6, 10, group=2)
    proto = net.model(net.conv(z, 10, 4))
    assert weights(padded(proto, y, z)) == [(4, 16, 3, 3), (8, 3, 3, 3), (16, 4, 3, 3)]
    first = said_by("pad_channels", proto, ALL)[0]
    assert isinstance(first, Proposal)
    assert first.settings["channels"] == {y: 8, z: 16}


def test_transposed_convolutions_in_groups() -> None:
    net, y = start(6)
    z = net.transposed(y, 6, 9, group=3)
    assert weights(padded(net.model(net.conv(z, 9, 4)), y, z)) == [(4, 12, 3, 3), (12, 3, 3, 3), (12, 4, 2, 2)]


@pytest.mark.parametrize("transposed", [False, True])
def test_several_filters_for_each_channel(transposed: bool) -> None:
    net, y = start(5)
    z = net.transposed(y, 5, 10, group=5) if transposed else net.conv(y, 5, 10, group=5)
    padded(net.model(net.conv(net.norm(z, 10), 10, 4)), y)


def test_half_precision_in_groups() -> None:
    net, y = start(6, dtype=np.float16)
    padded(net.model(net.conv(net.add("Relu", net.conv(y, 6, 6, group=2)), 6, 4)), y, local=False)


def test_channels_at_one_place_of_all_groups_are_removed() -> None:
    net, y = start(6)
    z = net.conv(net.add("Relu", mute(net, y, [1, 4], -0.6)), 6, 8, group=2)
    ignored = ignore(net, net.conv(z, 8, 4), [0, 4])
    removed(net.model(ignored), "6 -> 4", "8 -> 6")


def test_constants_go_into_the_biases_of_groups() -> None:
    net, y = start(6)
    z = net.conv(net.add("Relu", mute(net, y, [1, 4], 0.6)), 6, 8, group=2, pads=[0] * 4)
    removed(net.model(z), "6 -> 4")


def test_no_carrier_across_groups() -> None:
    net, y = start(6)
    z = net.conv(net.add("Relu", mute(net, y, [1, 4], 0.6)), 6, 8, group=2)
    assert not [s for s in said_by("remove_dead_channels", net.model(z)) if hasattr(s, "details")]


def test_groups_of_the_graph_input_stay() -> None:
    net = Net(1, 6, 5, 7)
    refused(net, net.conv("x", 6, 10, group=2), "is a graph output")


# --- shuffles and depth -------------------------------------------------------------------------------


def shuffled(net: Net, y: str, group: int, c: int, h: int = 5, w: int = 7) -> str:
    y = net.add("Reshape", y, net.ints(-1, group, c // group, h, w))
    return str(net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3, 4]), net.ints(-1, c, h, w)))


def test_shuffle_between_groups() -> None:
    net, y = start(18)
    z = net.conv(shuffled(net, net.norm(net.conv(y, 18, 18, 1, group=3), 18), 3, 18), 18, 18, group=18)
    after = padded(net.model(net.conv(net.conv(z, 18, 18, 1, group=3), 18, 4)), y)
    assert (18, 6, 1, 1) not in weights(after)


def test_shuffle_of_each_half() -> None:
    net, y = start(10)
    first, second = net.add("Split", y, net.ints(5, 5), outputs=2, axis=1)
    z = shuffled(net, net.add("Concat", first, net.add("Relu", net.conv(second, 5, 5)), axis=1), 2, 10)
    first, second = net.add("Split", z, net.ints(5, 5), outputs=2, axis=1)
    padded(net.model(net.conv(first, 5, 4), net.conv(second, 5, 4)))


def test_dead_places_go_through_a_shuffle() -> None:
    net, y = start(6)
    z = shuffled(net, mute(net, y, [1, 4], 0.0), 2, 6)  # they become 2 and 3
    removed(net.model(ignore(net, net.conv(z, 6, 4), [2, 3])), "6 -> 4")


def test_reshape_that_is_no_shuffle() -> None:
    net, y = start(13, n=1)
    y = net.add("Transpose", y, perm=[0, 2, 1, 3])
    refused(net, net.conv(net.add("Reshape", y, net.ints(1, 7, 13, 5)), 7, 4), "mixes channels")


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    net, y = start(12)
    z = net.add("DepthToSpace", net.add("Softplus", y), blocksize=2, mode=mode)
    padded(net.model(net.conv(net.norm(z, 3), 3, 4)))


@pytest.mark.parametrize("shape", [(2, 2, 3), (3, 2, 2)])
def test_depth_to_space_as_reshapes(shape: tuple[int, ...]) -> None:
    net, y = start(12)
    perm = [0, 1, 4, 2, 5, 3] if shape[0] == 3 else [0, 3, 4, 1, 5, 2]
    z = net.add("Transpose", net.add("Reshape", y, net.ints(0, *shape, 5, 7)), perm=perm)
    padded(net.model(net.conv(net.add("Reshape", z, net.ints(0, 3, 10, 14)), 3, 4)))


def test_blocks_of_both_modes_fit_into_each_other() -> None:
    net, y = start(16, h=3, w=2)
    z = net.add("DepthToSpace", net.add("DepthToSpace", y, blocksize=2, mode="CRD"), blocksize=2)
    padded(net.model(net.conv(z, 1, 4)))


def test_dead_blocks_are_removed() -> None:
    net, y = start(12)
    z = ignore(net, net.conv(net.add("DepthToSpace", y, blocksize=2, mode="CRD"), 3, 4), [1])
    removed(net.model(z), "12 -> 8")


def test_depth_to_space_of_a_graph_output() -> None:
    net, y = start(20)
    refused(net, net.add("DepthToSpace", y, blocksize=2), "is a graph output")


def test_space_to_depth() -> None:
    net, y = start(3, h=4, w=6)
    padded(net.model(net.conv(net.add("SpaceToDepth", net.add("Exp", net.add("Tanh", y)), blocksize=2), 12, 4)), y)


def test_space_to_depth_before_an_unknown_operator() -> None:
    net, y = start(5, n=1, h=4, w=6)
    refused(net, net.add("Softmax", net.add("SpaceToDepth", y, blocksize=2), axis=1), "Softmax may mix channels")


def test_decoder_from_a_vector() -> None:
    net = Net("N", 6)
    y = net.add("Reshape", net.gemm("x", 6, 5 * 3 * 2), net.ints(-1, 5, 3, 2))
    padded(net.model(net.conv(net.norm(y, 5), 5, 4)))


# --- Gather, LRN, reductions --------------------------------------------------------------------------


def test_gather_takes_channels_in_any_order() -> None:
    net, y = start(5)
    z = net.add("Gather", net.add("Sigmoid", y), net.ints(4, -5, 2, 2), axis=1)
    padded(net.model(net.conv(y, 5, 4), net.conv(z, 4, 4)))


def test_gather_of_rows_leaves_channels() -> None:
    net, y = start(5)
    padded(net.model(net.conv(net.add("Gather", y, net.ints(3, 0), axis=2), 5, 4)), y)


def test_dead_channels_that_a_gather_leaves_out() -> None:
    net, y = start(5)
    removed(net.model(net.conv(net.add("Gather", y, net.ints(4, 0, 1), axis=1), 3, 4)), "5 -> 3")


def test_gather_with_computed_indices() -> None:
    net, y = start(5, n=1)
    indices = net.add("Cast", net.input("i", 3), to=7)
    refused(net, net.conv(net.add("Gather", y, indices, axis=1), 3, 4), "computed at run time")


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn_with_zeros_at_the_end(size: int) -> None:
    net, y = start(5)
    z = net.add("LRN", net.add("Relu", y), size=size, alpha=0.9, bias=2.0)
    padded(net.model(net.conv(z, 5, 4)), y, local=False)


def test_lrn_declines_zeros_between_channels_and_other_pads() -> None:
    net, y = start(5, n=1)
    z = net.add("LRN", net.add("Concat", y, net.conv("x", 3, 5), axis=1), size=3)
    said = said_by("pad_channels", net.model(net.conv(z, 10, 4)), ALL)
    assert any("LRN looks at neighbours" in s.reason for s in said if not hasattr(s, "details"))
    net, y = start(5, n=1)
    refused(net, net.conv(net.add("LRN", net.add("Sigmoid", y), size=3), 5, 4), "pad channels that are not 0")


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL1", "ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [[1], [1, 2, 3], [-3]])
def test_reductions_over_channels_of_zeros(op: str, axes: list[int]) -> None:
    net, y = start(5, opset=18)
    y = net.add("Relu", y)
    padded(net.model(net.conv(net.add("Mul", y, net.add("Sigmoid", net.add(op, y, net.ints(*axes)))), 5, 4)))


def test_declines_reductions_over_channels() -> None:
    for op, function, reason in (
        ("ReduceMean", "Sigmoid", "ReduceMean over channels with pads that are not 0"),
        ("ReduceMax", "Tanh", "ReduceMax over channels that may all be below 0"),
        ("ReduceMin", "Relu", "ReduceMin over channels"),
        ("ReduceProd", "Relu", "ReduceProd may mix channels"),
    ):
        net, y = start(5, n=1)
        refused(net, net.add(op, net.add(function, y), axes=[1]), reason)


def test_constants_of_channels_are_not_those_of_rows() -> None:
    """The mean over 5 channels has 5 rows along the same axis."""
    net, y = start(5)
    z = net.add("ReduceMean", mute(net, y, [0, 1, 2, 3, 4], 0.0), axes=[1], keepdims=0)
    (bias,) = [i for i in net.weights if list(i.dims) == [5]]
    bias.CopyFrom(numpy_helper.from_array(np.arange(5, dtype=np.float32), bias.name))
    other = net.add("ReduceMean", net.conv("x", 3, 2), axes=[1], keepdims=0)
    proto = net.model(net.add("Add", z, other))
    if any(hasattr(s, "details") for s in said_by("remove_dead_channels", proto)):
        assert_rewrites("remove_dead_channels", proto)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_over_places(keepdims: int) -> None:
    net, y = start(5)
    z = net.add("ReduceL2", y, axes=[3], keepdims=keepdims)
    z = net.add("ReduceMean", z, axes=[2], keepdims=keepdims)
    padded(net.model(net.gemm(z if keepdims == 0 else net.add("Flatten", z), 5, 4)), y)


# --- channels last ------------------------------------------------------------------------------------


def test_products_over_the_last_axis() -> None:
    net, y = start(5)
    z = net.add("Transpose", net.add("Relu", y), perm=[0, 2, 3, 1])
    z = net.add("Add", net.add("MatMul", z, net.random(5, 6)), net.random(6))
    z = net.add("Transpose", net.add("Mul", z, net.random(1, 1, 6)), perm=[0, 3, 1, 2])
    padded(net.model(net.conv(z, 6, 4)), y)


def test_products_over_places_carry_the_channels() -> None:
    net, y = start(5)
    z = net.add("MatMul", net.add("Reshape", net.add("Sigmoid", y), net.ints(0, 0, -1)), net.random(35, 8))
    padded(net.model(net.add("MatMul", net.add("ReduceMean", z, axes=[2], keepdims=0), net.random(5, 3))), y)


def test_flatten_after_a_change_to_channels_last() -> None:
    net, y = start(5)
    z = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 3, 1]), net.ints(-1, 175))
    padded(net.model(net.gemm(z, 175, 3)), y)


def test_pooled_head_as_in_exports_from_channels_last() -> None:
    net, y = start(5)
    z = net.add("Transpose", net.add("AveragePool", y, kernel_shape=[5, 7]), perm=[0, 2, 3, 1])
    z = net.add("MatMul", net.add("Reshape", z, net.ints(-1, 5)), net.random(5, 3))
    padded(net.model(z), y)


def test_dead_channels_of_products_over_the_last_axis() -> None:
    net, y = start(6)
    z = net.add("Transpose", net.add("Relu", mute(net, y, [1, 4], 0.6)), perm=[0, 2, 3, 1])
    removed(net.model(net.add("MatMul", z, net.random(6, 3))), "6 -> 4")


def test_graph_input_with_channels_last() -> None:
    net = Net("N", 5, 7, 3)
    y = net.conv(net.add("Transpose", net.add("Add", "x", net.random(3)), perm=[0, 3, 1, 2]), 3, 5)
    padded(net.model(net.conv(y, 5, 4)), y)
    net = Net("N", 5, 7, 3)
    y = net.add("Relu", net.add("MatMul", "x", net.random(3, 5)))
    padded(net.model(net.add("MatMul", y, net.random(5, 4))))


def test_graph_input_that_is_read_along_two_axes() -> None:
    net = Net("N", 5, 5, 7)
    y = net.add("Concat", "x", net.conv("x", 5, 5), axis=1)
    z = net.add("MatMul", "x", net.random(7, 7))
    padded(net.model(net.conv(net.add("Relu", y), 10, 4), z))
    assert not [s for s in said_by("remove_dead_channels", net.model(y, z)) if hasattr(s, "details")]


def test_convolution_over_what_were_channels() -> None:
    net, y = start(5, n=1)
    z = net.add("Transpose", y, perm=[0, 2, 3, 1])
    refused(net, net.conv(z, 5, 4), "lie along another axis")


def test_sum_of_channels_and_places() -> None:
    net, y = start(5, n=1, h=5, w=5)
    refused(net, net.conv(net.add("Add", y, net.add("Transpose", y, perm=[0, 2, 1, 3])), 5, 4), "another axis")


# --- quantised ---------------------------------------------------------------------------------------


def quantised(net: Net, y: str, c: int = 0) -> str:
    """Per channel when `c` is given."""
    scale = np.full(c, 1 / 16, np.float32) if c else np.float32(1 / 16)
    zero = np.arange(c, dtype=np.uint8) if c else np.uint8(3)
    both = net.constant(np.array(scale)), net.constant(np.array(zero))
    return str(net.add("DequantizeLinear", net.add("QuantizeLinear", y, *both), *both))


def stored(net: Net, c: int, out: int, along: int | None, *, zero: bool = True) -> str:
    size = () if along is None else ((out, c)[along],)
    w = net.constant(net.rng.integers(-100, 100, (out, c, 3, 3)).astype(np.int8))
    scale = net.constant(np.full(size, 1 / 128, np.float32))
    zeros = [net.constant(net.rng.integers(-9, 9, size).astype(np.int8))] if zero else []
    return str(net.add("DequantizeLinear", w, scale, *zeros, axis=along or 0))


@pytest.mark.parametrize("c", [0, 5])
def test_quantised_maps(c: int) -> None:
    net, y = start(5)
    padded(net.model(net.conv(quantised(net, y, c), 5, 4)), y, local=False)


@pytest.mark.parametrize("along", [None, 0, 1])
@pytest.mark.parametrize("zero", [False, True])
def test_quantised_weights(along: int | None, zero: bool) -> None:
    net = Net("N", 3, 5, 7)
    bias = net.add("DequantizeLinear", net.constant(np.arange(5, dtype=np.int32)), net.constant(np.float32(0.01)))
    y = net.add("Conv", quantised(net, "x"), stored(net, 3, 5, along, zero=zero), bias, pads=[1] * 4)
    z = quantised(net, net.add("Relu", y))
    after = padded(net.model(net.add("Conv", z, stored(net, 5, 4, along, zero=zero))), y, local=False)
    kinds = [numpy_helper.to_array(i).dtype for i in after.graph.initializer if len(i.dims) == 4]
    assert kinds == [np.dtype(np.int8)] * 2
    assert sum(n.op_type == "DequantizeLinear" for n in after.graph.node) == 5


def test_quantised_depthwise_and_gemm() -> None:
    net, y = start(5, h=2, w=2)
    w = net.add("DequantizeLinear", net.constant(np.ones((5, 1, 3, 3), np.int8)), net.constant(np.float32(0.1)))
    y = quantised(net, net.add("Conv", quantised(net, y), w, group=5, pads=[1] * 4))
    m = net.add("DequantizeLinear", net.constant(np.ones((3, 20), np.int8)), net.constant(np.float32(0.1)))
    b = net.add("DequantizeLinear", net.constant(np.ones(3, np.int32)), net.constant(np.float32(0.1)))
    padded(net.model(net.add("Gemm", net.add("Flatten", y), m, b, transB=1)), local=False)


def test_quantised_weight_that_two_convolutions_read() -> None:
    net = Net("N", 5, 5, 7)
    w = stored(net, 5, 5, 0)
    y = net.add("Conv", "x", w, pads=[1] * 4)
    padded(net.model(net.add("Conv", net.add("Relu", y), w)), y, local=False)


def test_declines_computed_scales() -> None:
    net, y = start(5, n=1)
    z = net.add("QuantizeLinear", y, net.input("s"), net.constant(np.array(0, np.uint8)))
    refused(net, net.conv(net.add("DequantizeLinear", z, net.constant(np.float32(1))), 5, 4), "scales are not constant")


def test_quantised_layers_keep_their_weights() -> None:
    """Channels that a layer with integer weights reads stay: it cannot take a constant into its weights."""
    net, y = start(6)
    z = net.add("Conv", net.add("Relu", mute(net, y, [1, 4], 0.6)), stored(net, 6, 4, 0))
    assert not [s for s in said_by("remove_dead_channels", net.model(z)) if hasattr(s, "details")]


# --- Where, Pow, Expand, Resize ---------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"])
def test_where_with_a_comparison(op: str) -> None:
    net, y = start(5)
    z = net.add("Where", net.add(op, y, net.random(5, 1, 1)), y, net.random(5, 1, 1))
    padded(net.model(net.conv(z, 5, 4)), y)


def test_where_with_a_constant_mask() -> None:
    net, y = start(5)
    mask = net.constant(np.array([True, False, True, True, False]).reshape(5, 1, 1))
    padded(net.model(net.conv(net.add("Where", mask, y, net.conv("x", 3, 5)), 5, 4)), y)


def test_where_with_an_infinite_constant() -> None:
    net, y = start(5, n=1)
    z = net.add("Where", net.constant(np.array([[[True]]])), y, net.constant(np.float32(-np.inf)))
    refused(net, net.conv(z, 5, 4), "not finite")


def test_powers() -> None:
    net, y = start(5)
    z = net.add("Pow", net.add("Exp", net.add("Tanh", y)), net.random(5, 1, 1))
    z = net.add("Pow", net.random(5, 1, 1, low=0.5, high=2.0), net.add("Tanh", net.conv(z, 5, 5)))
    padded(net.model(net.conv(net.add("Pow", net.conv(z, 5, 5), net.constant(np.float32(3))), 5, 4)), y)


@pytest.mark.parametrize(("exponent", "function"), [(0.5, "Tanh"), (-1.0, "Relu")])
def test_powers_that_may_not_be_finite(exponent: float, function: str) -> None:
    net, y = start(5, n=1)
    z = net.add("Sub", net.add(function, y), net.constant(np.float32(0.5 if exponent > 0 else 0)))
    z = net.add("Pow", z, net.constant(np.float32(exponent)))
    refused(net, net.conv(z, 5, 4), "may not be finite")


def test_expanded_gate() -> None:
    net, y = start(5)
    gate = net.add("Expand", net.add("Sigmoid", net.add("GlobalAveragePool", y)), net.ints(1, 5, 5, 7))
    padded(net.model(net.conv(net.add("Mul", y, gate), 5, 4)), y)


def test_gate_expanded_to_the_shape_of_what_it_gates() -> None:
    net, y = start(5, h="H", w="W")
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", y), 5, 5, 1))
    gate = net.add("Expand", gate, net.add("Shape", y))
    padded(net.model(net.conv(net.add("Mul", y, gate), 5, 4)), y, sizes={"x": (1, 3, 6, 8)})


def test_expand_to_the_shape_of_others() -> None:
    for other in ("x", "mean"):
        net, y = start(5, n=1)
        like = "x" if other == "x" else net.add("ReduceMean", y, axes=[1])
        one = net.conv(net.add("GlobalAveragePool", "x"), 3, 5 if other == "mean" else 1)
        z = net.add("Expand", one, net.add("Shape", like if other == "mean" else y))
        refused(net, net.conv(net.add("Mul", y, z), 5, 4), "Expand")


def test_expand_over_channels() -> None:
    net, y = start(5, n=1)
    one = net.add("Expand", net.conv(y, 5, 1), net.ints(1, 5, 1, 1))
    refused(net, net.conv(net.add("Add", y, one), 5, 4), "Expand: its output has another number of channels")


def resize_to(net: Net, y: str, *, channels_of: str) -> str:
    size = net.add("Slice", net.add("Shape", channels_of), net.ints(0), net.ints(2), net.ints(0))
    places = net.add("Slice", net.add("Shape", "x"), net.ints(2), net.ints(4), net.ints(0))
    return str(net.add("Resize", y, "", "", net.add("Concat", size, places, axis=0), mode="nearest"))


def test_resize_to_sizes_that_copy_the_channels() -> None:
    net, y = start(5, h="H", w="W")
    z = net.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    z = net.add("Add", y, resize_to(net, z, channels_of=z))
    padded(net.model(net.conv(z, 5, 4)), y, sizes={"x": (1, 3, 6, 8)}, local=False)


def test_resize_to_sizes_that_copy_the_channels_of_another_tensor() -> None:
    net, y = start(5, n=1, h=6, w=8)
    other = net.conv("x", 3, 5)
    refused(net, net.conv(resize_to(net, y, channels_of=other), 5, 4), "computed")


def test_resize_with_channels_last() -> None:
    net, y = start(5, n=2)
    z = net.add("Resize", net.add("Transpose", y, perm=[0, 2, 3, 1]), "", "", net.ints(2, 10, 14, 5), mode="nearest")
    padded(net.model(net.conv(net.add("Transpose", z, perm=[0, 3, 1, 2]), 5, 4)), y, local=False)
