"""merge_linear_convs: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from runtimes import opsets

from onnxtune.testing import assert_affine_equal, assert_declines, assert_exact_on_integers, assert_rewrites, said_by

RULE = "merge_linear_convs"
ONE_CONV = {"Conv": 1, "Add": 0, "BatchNormalization": 0, "Mul": 0}
SIZES = {"x": (1, 3, 9, 8)}
ANY = {"growth": 100.0}


def prove(proto: onnx.ModelProto, *, settings: Any = None, count: int | None = 1, **contains: int) -> None:
    assert_rewrites(RULE, proto, count=count, contains=contains or ONE_CONV, settings=settings, sizes=sized(proto))
    assert_exact_on_integers(RULE, proto, settings=settings, sizes=sized(proto))
    assert_affine_equal(RULE, proto, settings=settings, sizes=sized(proto))


def sized(proto: onnx.ModelProto) -> Any:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return SIZES if any(d.dim_param for d in dims[1:]) else None


def bare(net: Net, x: str, c: int, out: int, k: int | tuple[int, int], *, group: int = 1, **attributes: Any) -> str:
    """A Conv without a bias."""
    kh, kw = (k, k) if isinstance(k, int) else k
    return str(net.add("Conv", x, net.random(out, c // group, kh, kw), group=group, **attributes))


SHAPES: list[tuple[Any, ...]] = [("N", 3, 9, 8), ("N", 3, "H", "W"), (2, 3, 8, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_pointwise_before_a_padded_convolution(shape: tuple[Any, ...]) -> None:
    net = Net(*shape)
    prove(net.model(net.conv(bare(net, "x", 3, 12, 1), 12, 5, 3, pads=[1, 0, 2, 1], strides=[2, 1])))


@pytest.mark.parametrize("shape", SHAPES)
def test_pointwise_after_a_padded_convolution(shape: tuple[Any, ...]) -> None:
    net = Net(*shape)
    prove(net.model(net.conv(net.conv("x", 3, 12, 3, strides=[2, 1]), 12, 5, 1)))


def test_pointwise_with_a_stride_before_a_padded_convolution() -> None:
    for size in (8, 9, 10, 11):
        net = Net("N", 3, size, 7)
        proto = net.model(net.conv(bare(net, "x", 3, 12, 1, strides=[2, 2]), 12, 5, 3, dilations=[1, 2]))
        prove(proto, settings=ANY)


def test_without_inner_pads_kernels_grow() -> None:
    net = Net("N", 3, 11, 10)
    y = net.conv(net.conv("x", 3, 60, 3, strides=[1, 2]), 60, 2, 2, pads=[0] * 4, dilations=[2, 1])
    prove(net.model(y), settings=ANY)


def test_separable_axes_with_their_own_pads() -> None:
    net = Net("N", 3, 9, 8)
    tall = bare(net, "x", 3, 24, (3, 1), pads=[1, 0, 1, 0], strides=[2, 1])
    flat = net.add("Conv", tall, net.random(4, 24, 1, 3), net.random(4), pads=[0, 1, 0, 1], strides=[1, 2])
    prove(net.model(flat), settings=ANY)


def test_what_stands_between() -> None:
    """BatchNormalization and constants between the layers; the shift falls where nothing is padded."""
    net = Net("N", 3, 9, 8)
    t = net.norm(bare(net, "x", 3, 12, 3, pads=[1] * 4), 12)
    t = net.add("Div", net.add("Mul", t, net.random(12, 1, 1)), net.constant(np.float32(-2)))
    prove(net.model(net.conv(net.add("Sub", net.constant(np.float32(0.5)), t), 12, 4, 1)))


def test_groups() -> None:
    net = Net("N", 4, 9, 8)
    prove(net.model(net.conv(bare(net, "x", 4, 8, 1, group=2), 8, 4, 3, group=2)))
    net = Net("N", 4, 9, 8)
    prove(net.model(net.conv(net.conv("x", 4, 8, 3, group=4), 8, 4, 1)), settings=ANY)
    net = Net("N", 4, 9, 8)
    prove(net.model(net.conv(bare(net, "x", 4, 8, 1, group=4), 8, 8, 3, group=8)))


def test_three_in_a_row() -> None:
    """1x1, 3x3 and 1x1: pairs and all of them."""
    net = Net("N", 3, 9, 8)
    y = net.conv(net.conv(bare(net, "x", 3, 16, 1), 16, 16, 3), 16, 4, 1)
    proto = net.model(y)
    models = assert_rewrites(RULE, proto, count=3)
    assert sorted(sum(n.op_type == "Conv" for n in m.graph.node) for m in models) == [1, 2, 2]
    assert_exact_on_integers(RULE, proto)
    assert_affine_equal(RULE, proto)


def test_a_bias_before_pads_at_a_known_size() -> None:
    """The border is a constant map; where the size may vary it is declined."""
    for shape, fires in ((("N", 3, 9, 8), True), (("N", 3, "H", 8), False)):
        net = Net(*shape)
        proto = net.model(net.conv(net.conv("x", 3, 12, 1, strides=[2, 1]), 12, 5, 3, pads=[1, 0, 2, 1]))
        if fires:
            prove(proto, settings=ANY, Conv=1, Add=1)
        else:
            assert_declines(RULE, proto, "size is not known", settings=ANY, sizes=SIZES)
        assert_declines(RULE, proto, "large", settings={**ANY, "map_limit": 10}, sizes=SIZES)


def test_a_normalization_before_a_padded_convolution() -> None:
    """Two forms: a constant map after, or what is left of the shift before."""
    net = Net("N", 3, 9, 8)
    prove(net.model(net.conv(net.norm("x", 3), 3, 4, 3)), count=2, Conv=1, Add=1, BatchNormalization=0)
    net = Net("N", 3, "H", "W")
    prove(net.model(net.conv(net.norm("x", 3), 3, 4, 3)), count=1, Conv=1, Add=1, BatchNormalization=0)


def test_a_normalization_before_a_convolution_without_pads_or_a_factor_before_pads() -> None:
    net = Net("N", 3, "H", "W")
    x = net.add("Div", net.add("Sub", "x", net.random(1, 3, 1, 1)), net.random(3, 1, 1, low=0.5))
    prove(net.model(net.conv(x, 3, 4, 3, pads=[0] * 4)), Conv=1, Sub=0, Div=0)
    net = Net("N", 3, "H", "W")
    prove(net.model(net.conv(net.add("Mul", net.constant(np.float32([2])), "x"), 3, 4, 3)))


def test_a_shift_that_pads_of_the_first_layer_do_not_reach() -> None:
    """One number per channel with pads of its own: outside is the shift, not 0. Only the map knows that."""
    net = Net("N", 3, 9, 8)
    scaled = net.add("Conv", "x", net.random(3, 1, 1, 1), net.random(3), group=3, pads=[1, 0, 1, 0])
    proto = net.model(net.add("Conv", scaled, net.random(4, 3, 2, 3), pads=[0, 1, 0, 1]))
    prove(proto, settings=ANY, count=1, Conv=1, Add=1)


def test_a_factor_of_zero_leaves_the_map_only() -> None:
    net = Net("N", 3, 9, 8)
    scale = net.constant(np.float32([1, 0, 2]).reshape(3, 1, 1))
    x = net.add("Add", net.add("Mul", "x", scale), net.random(3, 1, 1))
    prove(net.model(net.conv(x, 3, 4, 3)), Conv=1, Add=1, Mul=0)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(auto: str) -> None:
    net = Net("N", 3, 9, 8)
    prove(net.model(bare(net, bare(net, "x", 3, 12, 1), 12, 4, 4, auto_pad=auto)))


@pytest.mark.parametrize("opset", opsets(7, 13, 22))
def test_opsets(opset: int) -> None:
    net = Net("N", 3, 9, 8, opset=opset)
    prove(net.model(net.conv(net.norm(net.conv("x", 3, 12, 3), 12), 12, 5, 1)))


def test_one_axis() -> None:
    net = Net("N", 3, 9)
    t = net.add("Conv", "x", net.random(12, 3, 3), pads=[1, 1])
    prove(net.model(net.add("Conv", t, net.random(4, 12, 1))))


def test_half_precision() -> None:
    net = Net("N", 3, 9, 8, dtype=np.float16)
    assert_rewrites(RULE, net.model(net.conv(net.conv("x", 3, 12, 3), 12, 5, 1)), count=1, contains=ONE_CONV)


# --- refusals ------------------------------------------------------------------------------------


def test_declines_what_would_multiply_more() -> None:
    net = Net("N", 8, 9, 8)
    assert_declines(RULE, net.model(net.conv(bare(net, "x", 8, 3, 1), 3, 8, 3)), "times as much")
    net = Net("N", 8, 9, 8)
    assert_declines(RULE, net.model(net.conv(net.conv("x", 8, 8, 3, group=8), 8, 8, 1)), None)


def test_declines_pads_after_a_spread() -> None:
    net = Net("N", 3, 9, 8)
    assert_declines(RULE, net.model(net.conv(bare(net, "x", 3, 9, 3), 9, 3, 3)), "border")
    net = Net("N", 3, 9, 8)
    assert_declines(RULE, net.model(net.conv(bare(net, "x", 3, 9, 1, pads=[1] * 4), 9, 3, 3)), "border")


def test_declines_what_is_seen() -> None:
    net = Net("N", 3, 9, 8)
    t = net.conv("x", 3, 12, 3)
    y = net.conv(t, 12, 3, 1)
    assert_declines(RULE, net.model(y, t), "graph output")
    assert_declines(RULE, net.model(y, net.add("Relu", t)), "second consumer")


def test_declines_weights_that_are_fed_or_computed() -> None:
    net = Net("N", 3, 9, 8)
    t = net.add("Conv", "x", net.input("w", 12, 3, 3, 3))
    assert_declines(RULE, net.model(net.conv(t, 12, 3, 1)), "not constant")
    net = Net("N", 3, 9, 8)
    t = net.add("Conv", net.conv("x", 3, 12, 3), net.input("w", 3, 12, 1, 1))
    assert_declines(RULE, net.model(t), "not constant")


def test_declines_a_training_normalization_and_a_map_of_factors() -> None:
    net = Net("N", 3, 9, 8)
    args = [net.random(3), net.random(3), net.random(3), net.random(3, low=0.5)]
    t = net.add("BatchNormalization", "x", *args, outputs=3, training_mode=1)[0]
    assert_declines(RULE, net.model(net.conv(t, 3, 4, 3)), "training")
    net = Net("N", 3, 9, 8)
    assert_declines(RULE, net.model(net.conv(net.add("Mul", "x", net.random(9, 8)), 3, 4, 3)), "per channel")


def test_declines_overflow() -> None:
    net = Net("N", 3, 9, 8, dtype=np.float16)
    t = net.add("Conv", "x", net.constant(np.full((8, 3, 1, 1), 3e4, np.float16)))
    y = net.add("Conv", t, net.constant(np.full((2, 8, 1, 1), 3e4, np.float16)))
    assert_declines(RULE, net.model(y), "not finite")


def test_says_nothing_where_another_rule_folds_or_nothing_is_gained() -> None:
    net = Net("N", 3, 9, 8)
    y = net.conv(net.add("Add", "x", net.random(3, 1, 1)), 3, 4, 3)  # one Add before pads stays one Add
    z = net.conv(net.norm(net.add("ConvTranspose", "x", net.random(3, 4, 2, 2)), 4), 4, 5, 3)  # fold_batchnorm
    w = net.conv(net.add("Relu", net.conv("x", 3, 4, 3)), 4, 5, 1)
    assert said_by(RULE, net.model(y, z, w)) == []


def test_declines_what_a_subgraph_reads() -> None:
    net = Net(1, 4, 9, 8)
    t = net.conv("x", 4, 12, 3)
    y = net.conv(t, 12, 3, 1)
    assert_declines(RULE, net.model(y, net.captured(t)), "second consumer (If)")


# --- random pairs --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_pairs(data: st.DataObject) -> None:
    net = Net(2, 4, data.draw(st.integers(9, 12)), 10, seed=data.draw(st.integers(0, 99)))

    def pair(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(2)]

    wide_first = data.draw(st.booleans())
    one, two = (pair(1, 3), pair(1, 2)) if wide_first else ([1, 1], pair(1, 3))
    pads = [[*pair(0, 2), *pair(0, 2)] if wide is wide_first else [0] * 4 for wide in (True, False)]
    first = {
        "pads": pads[0],
        "strides": pair(1, 2),
        "dilations": pair(1, 2),
        "group": data.draw(st.sampled_from([1, 2])),
    }
    second = {
        "pads": pads[1],
        "strides": pair(1, 2),
        "dilations": pair(1, 2),
        "group": data.draw(st.sampled_from([1, 2])),
    }
    bias = [net.random(6)] if data.draw(st.booleans()) else []
    t = net.add("Conv", "x", net.random(6, 4 // first["group"], *one), *bias, **first)
    t = net.norm(t, 6) if data.draw(st.booleans()) else t
    proto = net.model(net.add("Conv", t, net.random(4, 6 // second["group"], *two), net.random(4), **second))
    assert_rewrites(RULE, proto, settings=ANY, count=1)
    assert_exact_on_integers(RULE, proto, settings=ANY)
