"""split_concat_conv: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net

from onnxtune.testing import assert_affine_equal, assert_declines, assert_exact_on_integers, assert_rewrites, said_by

RULE = "split_concat_conv"
SIZES = {"x": (1, 3, 9, 8)}


def prove(proto: onnx.ModelProto, *, sizes: Any = None, **contains: int) -> None:
    assert_rewrites(RULE, proto, count=1, contains=contains, sizes=sizes)
    assert_exact_on_integers(RULE, proto, sizes=sizes)


def joined(net: Net, *operands: str, axis: int = 1) -> str:
    return str(net.add("Concat", *operands, axis=axis))


def resized(net: Net, v: str, *, mode: str = "nearest", **attributes: Any) -> str:
    scales = net.constant(np.float32([1, 1, 9, 8]))
    return str(net.add("Resize", v, "", scales, mode=mode, **attributes))


def expanded(net: Net, v: str, *dims: int) -> str:
    return str(net.add("Expand", v, net.ints(*dims)))


# --- one pixel, repeated -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_the_pooled_branch_of_aspp(mode: str) -> None:
    net = Net("N", 3, 9, 8)
    pooled = net.add("Relu", net.conv(net.add("GlobalMaxPool", "x"), 3, 4, 1))
    x = joined(net, net.conv("x", 3, 5, 3), "x", resized(net, pooled, mode=mode))
    prove(net.model(net.conv(x, 12, 6, 1)), Conv=4, Concat=1, Resize=0)


@pytest.mark.parametrize("first", [False, True])
def test_one_other_operand_needs_no_concat(first: bool) -> None:
    net = Net("N", 3, 9, 8)
    v = expanded(net, net.input("v", "N", 4, 1, 1), 1, 4, 9, 8)
    proto = net.model(net.conv(joined(net, *((v, "x") if first else ("x", v))), 7, 6, 1, strides=[2, 1]))
    prove(proto, Conv=2, Concat=0, Expand=0, Add=1)


def test_a_pixel_of_one_batch_and_a_kernel_without_pads() -> None:
    net = Net("N", 3, 9, 8)
    v = net.add("Tile", net.input("v", "N", 4, 1, 1), net.ints(1, 1, 9, 8))
    prove(net.model(net.conv(joined(net, v, "x", axis=-3), 7, 6, 3, pads=[0] * 4, dilations=[2, 1])), Tile=0, Concat=0)
    net = Net(2, 3, 9, 8)
    v = expanded(net, net.input("v", 1, 4, 1, 1), 2, 1, 9, 8)
    prove(net.model(net.conv(joined(net, v, "x"), 7, 6, 3, pads=[0] * 4)), Expand=0, Concat=0)


def test_an_expand_to_the_size_of_another_tensor() -> None:
    """The region alone cannot run on random sizes; the whole model is what is compared."""
    net = Net("N", 3, "H", "W")
    v = net.conv(net.add("GlobalMaxPool", "x"), 3, 4, 1)
    shape = net.add("Shape", "x")
    cut = [net.add("Slice", shape, net.ints(a), net.ints(b)) for a, b in ((0, 1), (2, 4))]
    like = net.add("Concat", cut[0], net.ints(4), cut[1], axis=0)
    proto = net.model(net.conv(joined(net, "x", net.add("Expand", v, like)), 7, 6, 1))
    assert_rewrites(RULE, proto, count=1, contains={"Expand": 0, "Shape": 0, "Concat": 0}, local=False, sizes=SIZES)
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


@pytest.mark.parametrize("static", [True, False])
def test_a_resize_to_sizes(static: bool) -> None:
    """As torch writes it: batch and channels of the pixel itself, height and width of another map."""
    net = Net(2 if static else "N", 3, 9, 8)
    v = net.add("GlobalMaxPool", "x")
    if static:
        sizes = net.ints(2, 3, 9, 8)
    else:
        own = net.add("Slice", net.add("Shape", v), net.ints(0), net.ints(2), net.ints(0))
        sizes = net.add("Concat", own, net.ints(9, 8), axis=0)
    up = net.add("Resize", v, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    proto = net.model(net.conv(joined(net, "x", up), 6, 4, 1))
    assert_rewrites(RULE, proto, count=1, contains={"Resize": 0, "Concat": 0}, local=static)
    assert_exact_on_integers(RULE, proto)


def test_a_repeated_operand_that_others_read_stays_for_them() -> None:
    net = Net("N", 3, 9, 8)
    v = resized(net, net.add("GlobalMaxPool", "x"))
    prove(net.model(net.conv(joined(net, "x", v), 6, 4, 1), net.add("Neg", v)), Resize=1, Concat=0, Conv=2)


def test_old_upsample() -> None:
    net = Net("N", 3, 9, 8, opset=9)
    v = net.add("Upsample", net.add("GlobalMaxPool", "x"), net.constant(np.float32([1, 1, 9, 8])))
    prove(net.model(net.conv(joined(net, "x", v), 6, 4, 1)), Upsample=0, Concat=0)


# --- constants -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pads", [[0] * 4, [1, 0, 2, 1]])
def test_coordinates(pads: list[int]) -> None:
    net = Net(1, 3, 9, 8)
    proto = net.model(net.conv(joined(net, "x", net.random(1, 2, 9, 8)), 5, 4, 3, pads=pads, strides=[1, 2]))
    prove(proto, Concat=0, Conv=1, Add=1)
    assert_affine_equal(RULE, proto)


def test_coordinates_for_any_batch() -> None:
    net = Net(2, 3, 9, 8)
    grid = expanded(net, net.random(1, 2, 9, 8), 2, 1, 1, 1)
    row = expanded(net, net.random(1, 1, 1, 8), 2, 1, 9, 1)
    prove(net.model(net.conv(joined(net, grid, "x", row), 6, 4, 3)), Concat=0, Conv=1, Add=1, Expand=0)


@pytest.mark.parametrize("pads", [0, 1])
def test_a_constant_of_a_shape(pads: int) -> None:
    """Zeros vanish; another number is a bias without pads, a map with pads."""
    for number in (0.0, 2.0):
        net = Net(1, 3, 9, 8)
        value = onnx.numpy_helper.from_array(np.float32([number]))
        fill = net.add("ConstantOfShape", net.ints(1, 5, 9, 8), value=value)
        proto = net.model(net.conv(joined(net, "x", fill), 8, 4, 3, pads=[pads] * 4))
        prove(proto, Concat=0, Conv=1, ConstantOfShape=0, Add=int(bool(pads and number)))


def test_a_shortcut_with_added_channels_of_zeros() -> None:
    net = Net("N", 3, "H", "W")
    fill = net.add("ConstantOfShape", net.add("Shape", "x"))
    proto = net.model(net.conv(joined(net, fill, "x"), 6, 4, 3))
    assert_rewrites(RULE, proto, count=1, contains={"Concat": 0, "Conv": 1, "Add": 0}, local=False, sizes=SIZES)


# --- unused --------------------------------------------------------------------------------------


def test_an_operand_without_weights() -> None:
    net = Net("N", 3, "H", "W")
    w = net.rng.uniform(-1, 1, (4, 8, 3, 3)).astype(np.float32)
    w[:, 3:5] = 0
    unused = net.conv("x", 3, 2, 3)
    x = joined(net, net.conv("x", 3, 3, 3), unused, "x")
    proto = net.model(net.add("Conv", x, net.constant(w), pads=[1] * 4))
    prove(proto, sizes=SIZES, Conv=2, Concat=1)


def test_all_at_once_in_half_precision() -> None:
    net = Net(1, 3, 9, 8, dtype=np.float16)
    v = expanded(net, net.input("v", 1, 2, 1, 1), 1, 2, 9, 8)
    x = joined(net, v, net.constant(np.ones((1, 1, 9, 8), np.float16)), "x", net.add("Neg", "x"))
    prove(net.model(net.conv(x, 9, 4, 1)), Conv=2, Concat=1, Add=2)


# --- refusals ------------------------------------------------------------------------------------


def test_declines_pads_before_a_repeated_operand() -> None:
    net = Net("N", 3, 9, 8)
    v = resized(net, net.add("GlobalMaxPool", "x"))
    assert_declines(RULE, net.model(net.conv(joined(net, "x", v), 6, 4, 3)), "at the border")


def test_declines_what_is_seen() -> None:
    net = Net(1, 3, 9, 8)
    x = joined(net, "x", net.random(1, 2, 9, 8))
    y = net.conv(x, 5, 4, 1)
    assert_declines(RULE, net.model(y, x), "graph output")
    assert_declines(RULE, net.model(y, net.add("Relu", x)), "second consumer")


def test_declines_groups_and_other_axes() -> None:
    net = Net(1, 3, 9, 8)
    assert_declines(RULE, net.model(net.conv(joined(net, "x", net.random(1, 3, 9, 8)), 6, 4, 1, group=2)), "groups")
    net = Net(1, 3, 9, 8)
    x = joined(net, "x", net.random(1, 3, 2, 8), axis=2)
    assert_declines(RULE, net.model(net.conv(x, 3, 4, 1)), None)


def test_declines_weights_that_are_fed() -> None:
    net = Net(1, 3, 9, 8)
    x = joined(net, "x", net.random(1, 3, 9, 8))
    assert_declines(RULE, net.model(net.add("Conv", x, net.input("w", 4, 6, 1, 1))), "not constant")


def test_declines_large_maps() -> None:
    net = Net(1, 3, 9, 8)
    proto = net.model(net.conv(joined(net, "x", net.random(1, 2, 9, 8)), 5, 4, 3))
    assert_declines(RULE, proto, "large", settings={"map_limit": 100})


def test_declines_a_constant_in_front_of_pads_when_the_size_is_not_known() -> None:
    net = Net("N", 3, "H", "W")
    value = onnx.numpy_helper.from_array(np.float32([1]))
    fill = net.add("ConstantOfShape", net.add("Shape", "x"), value=value)
    assert_declines(RULE, net.model(net.conv(joined(net, fill, "x"), 6, 4, 3)), "known size", sizes=SIZES)


def test_declines_numbers_that_are_not_finite() -> None:
    net = Net(1, 3, 9, 8, dtype=np.float16)
    x = joined(net, "x", net.constant(np.full((1, 2, 9, 8), 6e4, np.float16)))
    w = net.constant(np.ones((4, 5, 1, 1), np.float16))
    assert_declines(RULE, net.model(net.add("Conv", x, w)), "not finite")
    net = Net(1, 3, 9, 8)
    w = net.constant(np.full((4, 5, 1, 1), np.nan, np.float32))
    proto = net.model(net.add("Conv", joined(net, "x", net.random(1, 2, 9, 8)), w))
    assert_declines(RULE, proto, "not finite")


def test_declines_when_nothing_is_left() -> None:
    net = Net(1, 3, 9, 8)
    x = joined(net, resized(net, net.add("GlobalMaxPool", "x")), net.random(1, 2, 9, 8))
    assert_declines(RULE, net.model(net.conv(x, 5, 4, 1)), "all operands")


@pytest.mark.parametrize("what", ["cubic", "cropped", "channels", "map"])
def test_says_nothing_about_other_resizes_and_expands(what: str) -> None:
    net = Net(1, 3, 9, 8)
    if what == "cubic":
        v = resized(net, net.add("GlobalMaxPool", "x"), mode="cubic")
    elif what == "cropped":
        scales, roi = net.constant(np.float32([1, 1, 9, 8])), net.constant(np.float32([0, 0, 0, 0, 1, 1, 2, 2]))
        mode = "tf_crop_and_resize"
        v = net.add("Resize", net.add("GlobalMaxPool", "x"), roi, scales, coordinate_transformation_mode=mode)
    elif what == "channels":
        v = expanded(net, net.input("v", 1, 1, 1, 1), 1, 3, 9, 8)
    else:
        v = net.add("Resize", "x", "", net.constant(np.float32([1, 1, 1, 1])))
    assert said_by(RULE, net.model(net.conv(joined(net, "x", v), 6, 4, 1))) == []


def test_declines_what_a_subgraph_reads() -> None:
    net = Net(1, 4, 9, 8)
    x = joined(net, "x", net.random(1, 2, 9, 8))
    y = net.conv(x, 6, 4, 1)
    assert_declines(RULE, net.model(y, net.captured(x)), "second consumer (If)")


# --- random operands -----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_operands(data: st.DataObject) -> None:
    net = Net(2, 3, 9, 8, seed=data.draw(st.integers(0, 99)))
    pads = data.draw(st.sampled_from([[0] * 4, [1, 0, 1, 2]]))
    kinds = data.draw(st.lists(st.sampled_from(["pixel", "map", "number", "other", "unused"]), min_size=1, max_size=4))
    operands, unused = ["x"], np.ones(3, bool)
    for kind in kinds:
        operands.append(
            {
                "pixel": lambda: expanded(net, net.add("GlobalMaxPool", "x"), 2, 1, 9, 8),
                "map": lambda: net.random(2, 3, 9, 8),
                "number": lambda: expanded(net, net.random(1, 3, 1, 1), 2, 1, 9, 8),
                "other": lambda: net.add("Neg", "x"),
                "unused": lambda: net.add("Abs", "x"),
            }[kind]()
        )
        unused = np.append(unused, np.full(3, kind != "unused"))
    w = net.rng.uniform(-1, 1, (4, len(unused), *data.draw(st.sampled_from([(1, 1), (3, 2)]))))
    w = (w * unused[None, :, None, None]).astype(np.float32)
    proto = net.model(net.add("Conv", joined(net, *operands), net.constant(w), net.random(4), pads=pads))
    if set(kinds) - {"other", "pixel"} or ("pixel" in kinds and not any(pads)):
        assert_rewrites(RULE, proto, count=1)
        assert_exact_on_integers(RULE, proto)
    else:
        assert_declines(RULE, proto, "border" if "pixel" in kinds else None)
