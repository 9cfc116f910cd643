"""merge_parallel_convs: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from runtimes import opsets

import onnxtune
from onnxtune.testing import (
    assert_affine_equal,
    assert_declines,
    assert_exact_on_integers,
    assert_rewrites,
    said_by,
)

RULE = "merge_parallel_convs"
ONE_CONV = {"Conv": 1, "Add": 0, "Sum": 0, "BatchNormalization": 0, "AveragePool": 0, "Mul": 0}


def prove(proto: onnx.ModelProto, *, rounds: bool = False, local: bool = True, **contains: int) -> None:
    """One proposal, right in all four ways (`rounds`: averages over 9, which integers do not allow)."""
    assert_rewrites(RULE, proto, count=1, contains=contains or ONE_CONV, local=local)
    assert_affine_equal(RULE, proto)
    if not rounds:
        assert_exact_on_integers(RULE, proto)


def relu(net: Net, x: str = "x") -> onnx.ModelProto:
    return net.model(net.add("Relu", x))


def repvgg(net: Net, c: int = 6, out: int = 6, *, group: int = 1, stride: int = 1) -> str:
    """3x3 + BN, 1x1 + BN and, where it can be, BN alone."""
    strides = [stride, stride]
    three = net.norm(bare(net, "x", c, out, 3, group=group, strides=strides, pads=[1] * 4), out)
    one = net.norm(bare(net, "x", c, out, 1, group=group, strides=strides), out)
    y = str(net.add("Add", three, one))
    return str(net.add("Add", y, net.norm("x", c))) if c == out and stride == 1 else y


def bare(net: Net, x: str, c: int, out: int, k: int | tuple[int, int], *, group: int = 1, **attributes: Any) -> str:
    """A Conv without a bias."""
    kh, kw = (k, k) if isinstance(k, int) else k
    return str(net.add("Conv", x, net.random(out, c // group, kh, kw), group=group, **attributes))


@pytest.mark.parametrize("size", [(2, 6, 8, 7), ("N", 6, 9, 6), ("N", 6, "H", "W")])
def test_repvgg(size: tuple[Any, ...]) -> None:
    net = Net(*size)
    proto = net.model(repvgg(net))
    assert_rewrites(RULE, proto, count=1, contains=ONE_CONV, sizes={"x": (2, 6, 9, 7)} if size[3] == "W" else None)
    assert_exact_on_integers(RULE, proto, sizes={"x": (2, 6, 9, 7)} if size[3] == "W" else None)


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_groups_and_strides(group: int, stride: int) -> None:
    net = Net(1, 6, 8, 7)
    prove(net.model(repvgg(net, 6, 12 if group == 2 else 6, group=group, stride=stride)))


def test_asymmetric_kernels_of_acnet() -> None:
    net = Net("N", 3, 8, 7)
    square = net.conv("x", 3, 5, 3)
    tall = net.norm(bare(net, "x", 3, 5, (3, 1), pads=[1, 0, 1, 0]), 5)
    flat = net.norm(bare(net, "x", 3, 5, (1, 3), pads=[0, 1, 0, 1]), 5)
    prove(net.model(net.add("Sum", square, tall, flat)))


def test_diverse_branch_block() -> None:
    """1x1, 1x1 before 3x3, an average after 1x1, all with scales; the sum has a BatchNormalization of its own."""
    net = Net("N", 4, 8, 7)
    deep = bare(net, bare(net, "x", 4, 8, 1), 8, 4, 3, pads=[1] * 4)
    pooled = net.add("AveragePool", bare(net, "x", 4, 4, 1), kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    one = net.norm(net.conv("x", 4, 4, 1), 4)
    inner = net.norm(net.add("Add", net.norm(deep, 4), net.norm(pooled, 4)), 4)
    y = net.add("Sum", inner, one, net.conv("x", 4, 4, 3), "x")
    proto = net.model(y)
    said = assert_rewrites(RULE, proto)
    assert [n.op_type for n in said[-1].graph.node] == ["Conv"]
    assert_affine_equal(RULE, proto)


def test_average_of_a_power_of_two_at_a_static_size() -> None:
    """The branches' sizes agree for even maps only: known sizes are what allows it."""
    for size, expected in (((1, 4, 8, 6), 1), (("N", 4, "H", "W"), 0)):
        net = Net(*size)
        pool = net.add("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])
        proto = net.model(net.add("Add", pool, net.conv("x", 4, 4, 1, strides=[2, 2])))
        if expected:
            assert_rewrites(RULE, proto, contains=ONE_CONV, settings={"growth": 4.0})
            assert_exact_on_integers(RULE, proto, settings={"growth": 4.0})
            assert_affine_equal(RULE, proto, settings={"growth": 4.0})
        else:
            assert_declines(RULE, proto, "only for some sizes", sizes={"x": (1, 4, 8, 6)}, settings={"growth": 4.0})


def test_dilations_and_offsets() -> None:
    net = Net("N", 3, 11, 10)
    dilated = net.conv("x", 3, 4, 3, dilations=[2, 2], pads=[2] * 4)
    shifted = net.conv("x", 3, 4, 2, pads=[0, 1, 1, 0])
    proto = net.model(net.add("Add", dilated, shifted))
    assert_declines(RULE, proto, "times as much")
    assert_rewrites(RULE, proto, contains=ONE_CONV, settings={"growth": 3.0})
    assert_affine_equal(RULE, proto, settings={"growth": 3.0})


def test_dilations_stay_where_all_taps_keep_to_them() -> None:
    net = Net("N", 3, 11, 10)
    dilated = [net.conv("x", 3, 4, k, dilations=[2, 2], pads=[k - 1] * 4) for k in (3, 1, 5)]
    prove(net.model(net.add("Sum", *dilated)))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
def test_auto_pad(auto: str) -> None:
    net = Net("N", 3, 7, 6)
    even = bare(net, "x", 3, 4, 4, auto_pad=auto)
    prove(net.model(net.add("Add", even, bare(net, "x", 3, 4, 1, auto_pad="VALID"))))


def test_skip_around_a_linear_convolution_with_a_factor() -> None:
    net = Net("N", 4, 7, 6)
    scaled = net.add("Mul", net.conv("x", 4, 4, 3), net.constant(np.float32(0.25)))
    shifted = net.add("Sub", net.random(1, 4, 1, 1), net.add("Div", scaled, net.random(4, 1, 1, low=0.5)))
    prove(net.model(net.add("Add", "x", shifted)), Conv=1, Add=0, Sub=0, Div=0, Mul=0)


def test_a_token_mixer_with_a_difference() -> None:
    """RepMixer: x + s (mixer(x) - norm(x)), depthwise."""
    net = Net("N", 4, 9, 8)
    mixed = net.add("Sum", net.norm(net.conv("x", 4, 4, 3, group=4), 4), net.conv("x", 4, 4, 1, group=4))
    inner = net.add("Mul", net.add("Sub", mixed, net.norm("x", 4)), net.random(4, 1, 1))
    proto = net.model(net.add("Add", "x", inner))
    models = assert_rewrites(RULE, proto, count=2)
    assert any([n.op_type for n in m.graph.node] == ["Conv"] for m in models)
    assert_exact_on_integers(RULE, proto)
    assert_affine_equal(RULE, proto)


def test_signs_in_a_tree() -> None:
    net = Net("N", 4, 7, 6)
    other = net.add("Relu", net.conv("x", 4, 4, 3))
    inner = net.add("Sub", net.add("Sub", net.random(4, 1, 1), net.conv("x", 4, 4, 1)), other)
    y = net.add("Sub", net.add("Sub", net.conv("x", 4, 4, 3), inner), net.add("Add", "x", net.conv("x", 4, 4, 1)))
    proto = net.model(y)
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 2, "Sub": 0, "Add": 1})
    assert_exact_on_integers(RULE, proto)


def test_an_operand_that_is_subtracted_stays_so() -> None:
    net = Net("N", 4, 7, 6)
    y = net.add("Sub", net.add("Add", net.conv("x", 4, 4, 1), net.conv("x", 4, 4, 3)), net.add("Relu", "x"))
    proto = net.model(y)
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 1, "Sub": 1, "Add": 0})
    assert_exact_on_integers(RULE, proto)


def test_a_map_behind_an_identity_stays() -> None:
    net = Net("N", 4, 7, 6)
    grid = net.add("Identity", net.random(1, 1, 7, 6))
    y = net.add("Sub", net.add("Add", net.conv("x", 4, 4, 1), net.conv("x", 4, 4, 3)), grid)
    z = net.add("Sum", net.conv("x", 4, 4, 1), net.add("Identity", net.random(1, 1, 7, 6)), net.conv("x", 4, 4, 3))
    proto = net.model(y, z)
    assert_rewrites(RULE, proto, count=2)
    assert_exact_on_integers(RULE, proto)


def test_constants_join_the_bias_and_other_operands_stay() -> None:
    net = Net("N", 4, 7, 6)
    other = net.add("Relu", net.conv("x", 4, 4, 3))
    y = net.add("Add", net.conv("x", 4, 4, 1), other)
    y = net.add("Sum", y, net.random(4, 1, 1), net.conv("x", 4, 4, 3))
    proto = net.model(y)
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 2, "Add": 1, "Sum": 0})
    assert_exact_on_integers(RULE, proto)


def test_a_map_that_is_added_stays() -> None:
    net = Net("N", 4, 7, 6)
    y = net.add("Sum", net.conv("x", 4, 4, 1), net.random(1, 1, 7, 6), net.conv("x", 4, 4, 3))
    prove(net.model(y), Conv=1, Add=1, Sum=0)


def test_shared_weights_behind_identities() -> None:
    """As exporters write parameters that are equal."""
    net = Net("N", 4, 7, 6)
    scale = net.random(4)
    same = net.add("Identity", scale)
    stats = [net.random(4), net.random(4), net.random(4, low=0.5)]
    a = net.add("BatchNormalization", net.conv("x", 4, 4, 3), scale, *stats)
    b = net.add("BatchNormalization", net.conv("x", 4, 4, 1), same, *stats)
    prove(net.model(net.add("Add", a, b)), Conv=1, Add=0, BatchNormalization=0)


def test_the_same_branch_twice() -> None:
    net = Net("N", 4, 7, 6)
    c = net.conv("x", 4, 4, 3)
    proto = net.model(net.add("Sum", c, c, "x"))
    assert_rewrites(RULE, proto)
    assert_exact_on_integers(RULE, proto)


def test_one_and_three_axes() -> None:
    for shape, kernel, pads in (((1, 3, 9), [3], [1, 1]), ((1, 3, 5, 4, 6), [3, 1, 3], [1, 0, 1, 1, 0, 1])):
        net = Net(*shape)
        wide = net.add("Conv", "x", net.random(3, 3, *kernel), pads=pads)
        point = net.add("Conv", "x", net.random(3, 3, *[1] * len(kernel)))
        prove(net.model(net.add("Sum", wide, point, "x")))


def test_half_precision() -> None:
    net = Net("N", 6, 8, 7, dtype=np.float16)
    proto = net.model(net.add("Sum", net.conv("x", 6, 6, 3), net.conv("x", 6, 6, 1), "x"))
    assert_rewrites(RULE, proto, count=1, contains=ONE_CONV)
    assert_exact_on_integers(RULE, proto)


@pytest.mark.parametrize("opset", opsets(7, 9, 13, 22))
def test_opsets(opset: int) -> None:
    net = Net("N", 6, 8, 7, opset=opset)
    prove(net.model(repvgg(net)))


# --- refusals ------------------------------------------------------------------------------------


def test_declines_an_activation_between() -> None:
    net = Net("N", 4, 7, 6)
    proto = net.model(net.add("Add", net.add("Relu", net.conv("x", 4, 4, 3)), net.add("Relu", net.conv("x", 4, 4, 1))))
    assert_declines(RULE, proto, None)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"strides": [2, 2], "pads": [4] * 4}, "strides"),
        ({"auto_pad": "SAME_UPPER", "strides": [1, 2], "pads": None}, "depends on the input's size"),
    ],
)
def test_declines_other_windows(attributes: dict[str, Any], reason: str) -> None:
    net = Net(1, 4, 7, 7) if reason == "strides" else Net("N", 4, 7, "W")
    attributes = {k: v for k, v in attributes.items() if v is not None}
    w = net.random(4, 4, 3, 3)
    other = net.add("Conv", "x", w, **attributes)
    size = {"strides": [1, 2]} if "auto_pad" in attributes else {}
    proto = net.model(net.add("Add", other, net.conv("x", 4, 4, 1, **size)))
    assert_declines(RULE, proto, reason, sizes={"x": (1, 4, 7, 7)})


def test_declines_a_padded_conv_after_a_biased_one() -> None:
    net = Net("N", 4, 7, 6)
    deep = net.conv(net.conv("x", 4, 8, 1), 8, 4, 3)
    assert_declines(RULE, net.model(net.add("Add", deep, net.conv("x", 4, 4, 3))), "has a bias")


def test_declines_a_padded_conv_after_a_wide_one() -> None:
    net = Net("N", 4, 7, 6)
    deep = net.conv(bare(net, "x", 4, 8, 3, pads=[1] * 4), 8, 4, 3)
    assert_declines(RULE, net.model(net.add("Add", deep, net.conv("x", 4, 4, 3))), "border")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"pads": [1] * 4}, "does not count"), ({"ceil_mode": 1, "pads": [1] * 4, "count_include_pad": 1}, "ceil_mode")],
)
def test_declines_averages_that_divide_by_less(attributes: dict[str, Any], reason: str) -> None:
    net = Net("N", 4, 7, 6)
    pool = net.add("AveragePool", "x", kernel_shape=[3, 3], **attributes)
    assert_declines(RULE, net.model(net.add("Add", pool, net.conv("x", 4, 4, 3))), reason)


def test_declines_weights_that_are_fed() -> None:
    net = Net("N", 4, 7, 6)
    fed = net.add("Conv", "x", net.input("w", 4, 4, 3, 3), pads=[1] * 4)
    assert_declines(RULE, net.model(net.add("Add", fed, net.conv("x", 4, 4, 1))), "not constant")


def test_declines_a_branch_that_is_seen() -> None:
    net = Net("N", 4, 7, 6)
    c = net.conv("x", 4, 4, 3)
    y = net.add("Add", c, net.conv("x", 4, 4, 1))
    assert_declines(RULE, net.model(y, c), "graph output")
    assert_declines(RULE, net.model(y, net.add("Neg", c)), "second consumer (Neg)")


def test_a_sum_that_is_seen_inside_the_tree_is_a_root_of_its_own() -> None:
    net = Net("N", 4, 7, 6)
    inner = net.add("Add", net.conv("x", 4, 4, 3), net.conv("x", 4, 4, 1))
    proto = net.model(net.add("Add", inner, net.conv("x", 4, 4, 5)), inner)
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 2, "Add": 1})


def test_declines_broadcasting_branches() -> None:
    net = Net("N", 4, 7, 6)
    assert_declines(RULE, net.model(net.add("Add", net.conv("x", 4, 4, 3), net.conv("x", 4, 1, 3))), "channels")
    net = Net("N", 1, 7, 6)
    assert_declines(RULE, net.model(net.add("Add", net.conv("x", 1, 4, 3), "x")), "channels")


def test_declines_what_would_multiply_much_more() -> None:
    net = Net("N", 8, 7, 6)
    proto = net.model(net.add("Add", net.conv("x", 8, 8, 3, group=8), net.conv("x", 8, 8, 1)))
    assert_declines(RULE, proto, "times as much")


def test_declines_a_training_normalization() -> None:
    net = Net("N", 4, 7, 6)
    args = [net.random(4), net.random(4), net.random(4), net.random(4, low=0.5)]
    first = net.add("BatchNormalization", net.conv("x", 4, 4, 3), *args, outputs=3, training_mode=1)
    assert_declines(RULE, net.model(net.add("Add", first[0], net.conv("x", 4, 4, 1))), "training")


def test_declines_weights_that_overflow() -> None:
    net = Net("N", 4, 7, 6, dtype=np.float16)
    w = net.constant(np.full((4, 4, 1, 1), 6e4, np.float16))
    y = net.add("Sum", net.add("Conv", "x", w), net.add("Conv", "x", w), net.conv("x", 4, 4, 1))
    assert_declines(RULE, net.model(y), "not finite")


@pytest.mark.parametrize("where", ["variance", "weight", "divisor"])
def test_declines_numbers_that_are_not_finite(where: str) -> None:
    net = Net("N", 4, 7, 6)
    c = net.conv("x", 4, 4, 3)
    if where == "variance":
        c = net.add("BatchNormalization", c, *(net.random(4) for _ in range(3)), net.random(4, low=-2, high=-1))
    elif where == "weight":
        c = net.add("Conv", "x", net.constant(np.full((4, 4, 1, 1), np.inf, np.float32)))
    else:
        c = net.add("Div", c, net.constant(np.float32([0])))
    assert_declines(RULE, net.model(net.add("Add", c, net.conv("x", 4, 4, 1))), "not finite")


def test_says_nothing_about_sums_of_other_things() -> None:
    net = Net("N", 4, 7, 6)
    y = net.add("Add", net.add("Add", "x", net.random(4, 1, 1)), net.add("Relu", "x"))
    z = net.add("Add", y, net.conv(net.add("Relu", y), 4, 4, 3))
    assert said_by(RULE, net.model(z)) == []


def test_declines_what_a_subgraph_reads() -> None:
    net = Net(1, 4, 9, 8)
    c = net.conv("x", 4, 4, 3)
    y = net.add("Add", c, net.conv("x", 4, 4, 1))
    assert_declines(RULE, net.model(y, net.captured(c)), "second consumer (If)")


# --- random blocks -------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_blocks(data: st.DataObject) -> None:
    """Branches of one size with random kernels, dilations, places, groups and scales."""
    group = data.draw(st.sampled_from([1, 2, 4]))
    stride = data.draw(st.sampled_from([1, 2]))
    net = Net(2, 4, data.draw(st.integers(8, 11)), 7, seed=data.draw(st.integers(0, 99)))
    leaves = []
    for _ in range(data.draw(st.integers(2, 4))):
        k, d = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
        total = d * (k - 1)
        top, left = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
        pads = [top, left, total - top, total - left]
        g = data.draw(st.sampled_from([group, 4]))
        y = net.conv("x", 4, 4, k, group=g, dilations=[d, d], pads=pads, strides=[stride, stride])
        leaves.append(net.norm(y, 4) if data.draw(st.booleans()) else y)
    if stride == 1 and data.draw(st.booleans()):
        leaves.append("x" if data.draw(st.booleans()) else net.norm("x", 4))
    proto = net.model(net.add("Sum", *leaves))
    assert_rewrites(RULE, proto, count=1, contains=ONE_CONV, settings={"growth": 1e3})
    assert_exact_on_integers(RULE, proto, settings={"growth": 1e3})


# --- a real model --------------------------------------------------------------------------------


def test_every_block_of_a_trained_repvgg(shared: Path) -> None:
    proto = onnx.load(shared / "models" / "own_repvgg_cifar10.onnx")
    assert_rewrites(RULE, proto, count=8)


def test_a_trained_repvgg_as_a_whole(shared: Path, quick: None) -> None:
    path = shared / "models" / "own_repvgg_cifar10.onnx"
    result = onnxtune.optimize(path, providers="cpu", threads=1, only=(RULE,), force_rules=(RULE,))
    kinds = [n.op_type for n in result.model.graph.node]
    assert kinds.count("Conv") == 8
    assert "Add" not in kinds
    assert "BatchNormalization" not in kinds
