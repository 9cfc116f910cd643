"""merge_sibling_convs: fires and is equal, declines with a reason, holds on random parameters."""

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

RULE = "merge_sibling_convs"


def prove(proto: onnx.ModelProto, count: int, **contains: int) -> None:
    sizes = {"x": (1, 3, 9, 8)}
    assert_rewrites(RULE, proto, count=count, contains=contains, sizes=sizes)
    assert_exact_on_integers(RULE, proto, sizes=sizes)


@pytest.mark.parametrize("opset", opsets(7, 12, 13, 18, 22))
def test_outputs_are_split(opset: int) -> None:
    net = Net("N", 3, 9, 8, opset=opset)
    a, b, c = (net.conv("x", 3, out, 3, strides=[2, 1]) for out in (4, 1, 6))
    proto = net.model(a, b, net.add("Neg", c))
    prove(proto, 1, Conv=1, Split=1)
    assert_affine_equal(RULE, proto)


def test_dynamic_map_and_missing_bias() -> None:
    net = Net("N", 3, "H", "W")
    a = net.conv("x", 3, 4, 3)
    b = net.add("Conv", "x", net.random(5, 3, 3, 3), auto_pad="SAME_UPPER")
    prove(net.model(a, b), 1, Conv=1, Split=1)
    net = Net("N", 3, "H", "W")
    prove(net.model(*(net.add("Conv", "x", net.random(5, 3, 1, 1)) for _ in range(2))), 1, Conv=1, Split=1)


@pytest.mark.parametrize(
    ("op", "attributes"), [("Relu", {}), ("LeakyRelu", {"alpha": 0.5}), ("HardSigmoid", {"alpha": 0.25, "beta": 0.5})]
)
def test_equal_activations_stand_before_the_split(op: str, attributes: dict[str, Any]) -> None:
    net = Net("N", 3, 9, 8)
    outputs = [net.add(op, net.conv("x", 3, out, 1), **attributes) for out in (4, 5)]
    prove(net.model(*outputs), 1, Conv=1, Split=1, **{op: 1})


def test_clips_with_limits_that_are_equal_by_value() -> None:
    for limits, clips in (((0.0, 0.0), 1), ((0.0, 1.0), 2)):
        net = Net("N", 3, 9, 8)
        outputs = [net.add("Clip", net.conv("x", 3, 4, 1), net.constant(np.float32(v))) for v in limits]
        prove(net.model(*outputs), 1, Conv=1, Split=1, Clip=clips)


def test_other_activations_stay_behind_the_split() -> None:
    net = Net("N", 3, 9, 8)
    a, b = net.add("Relu", net.conv("x", 3, 4, 1)), net.add("LeakyRelu", net.conv("x", 3, 4, 1), alpha=0.5)
    c = net.add("PRelu", net.conv("x", 3, 4, 1), net.constant(np.full((4, 1, 1), 0.5, np.float32)))
    prove(net.model(a, b, c), 1, Conv=1, Split=1, Relu=1, LeakyRelu=1, PRelu=1)


def test_an_activation_beside_another_reader_stays_too() -> None:
    net = Net("N", 3, 9, 8)
    a, b = net.conv("x", 3, 4, 1), net.conv("x", 3, 4, 1)
    prove(net.model(net.add("Relu", a), net.add("Relu", b), a), 1, Conv=1, Split=1, Relu=2)


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("op", ["", "Relu"])
def test_a_concat_in_order_is_not_needed(axis: int, op: str) -> None:
    net = Net("N", 3, 9, 8)
    parts = [net.conv("x", 3, out, 3) for out in (4, 2, 3)]
    parts = [net.add(op, p) if op else p for p in parts]
    proto = net.model(net.add("Concat", *parts, axis=axis))
    models = assert_rewrites(RULE, proto, count=2)
    assert [n.op_type for n in models[0].graph.node] == (["Conv", op] if op else ["Conv"])
    assert [n.op_type for n in models[1].graph.node] == ["Conv", *([op] if op else []), "Split", "Concat"]
    assert_exact_on_integers(RULE, proto)


def test_rows_in_a_concat_with_other_operands() -> None:
    """Order counts: x comes between, one sibling is read elsewhere, one twice."""
    net = Net("N", 3, 9, 8)
    a, b, c, d, e = (net.conv("x", 3, out, 3) for out in (4, 2, 3, 2, 2))
    joined = net.add("Concat", b, a, "x", c, d, e, e, axis=1)
    proto = net.model(joined, net.add("Neg", d))
    models = assert_rewrites(RULE, proto, count=2)
    row = models[0].graph.node
    assert [n.op_type for n in row if n.op_type in ("Split", "Concat")] == ["Concat"]
    assert sum(n.op_type == "Conv" for n in row) == 4
    assert_exact_on_integers(RULE, proto)


def test_a_concat_along_the_map_keeps_the_split() -> None:
    net = Net("N", 3, 9, 8)
    prove(net.model(net.add("Concat", net.conv("x", 3, 4, 3), net.conv("x", 3, 4, 3), axis=2)), 1, Split=1, Concat=1)


def test_an_inception_block() -> None:
    """Three 1x1 are siblings, the others are not."""
    net = Net("N", 3, 9, 8)
    one, two, three = (net.add("Relu", net.conv("x", 3, out, 1)) for out in (4, 3, 2))
    pooled = net.add("MaxPool", "x", kernel_shape=[3, 3], pads=[1] * 4)
    parts = [one, net.conv(two, 3, 6, 3), net.conv(three, 2, 3, 5), net.conv(pooled, 3, 3, 1)]
    prove(net.model(net.add("Concat", *parts, axis=1)), 1, Conv=4, Split=1, Relu=1, Concat=1)


def test_half_precision_and_one_axis() -> None:
    net = Net("N", 3, 9, 8, dtype=np.float16)
    prove(net.model(net.conv("x", 3, 4, 3), net.conv("x", 3, 2, 3)), 1, Conv=1, Split=1)
    net = Net("N", 3, 9)
    a, b = (net.add("Conv", "x", net.random(4, 3, 3), pads=[1, 1]) for _ in range(2))
    proto = net.model(net.add("Concat", a, b, axis=-2))
    assert_rewrites(RULE, proto, count=2, contains={"Conv": 1})
    assert_exact_on_integers(RULE, proto)


def test_outputs_that_a_subgraph_reads() -> None:
    net = Net(1, 3, 9, 8)
    a, b = net.conv("x", 3, 4, 3), net.conv("x", 3, 2, 3)
    proto = net.model(net.add("Relu", a), net.add("Relu", b), net.captured(a))
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 1, "Split": 1, "Relu": 2})


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"pads": [1, 1, 0, 1]},
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pads": [2] * 4},
    ],
)
def test_declines_other_windows(other: dict[str, Any]) -> None:
    net = Net("N", 3, 9, 8)
    proto = net.model(net.conv("x", 3, 4, 3), net.conv("x", 3, 4, **({"k": 3} | other)))
    assert_declines(RULE, proto, "differ in stride")


def test_says_nothing_about_other_kernels() -> None:
    net = Net("N", 3, 9, 8)
    assert said_by(RULE, net.model(net.conv("x", 3, 4, 3), net.conv("x", 3, 4, 1))) == []


def test_declines_groups() -> None:
    net = Net("N", 4, 9, 8)
    proto = net.model(*(net.conv("x", 4, 4, 3, group=2) for _ in range(2)))
    assert_declines(RULE, proto, "groups")


def test_declines_weights_that_are_fed() -> None:
    net = Net("N", 3, 9, 8)
    proto = net.model(net.add("Conv", "x", net.input("w", 4, 3, 3, 3), pads=[1] * 4), net.conv("x", 3, 4, 3))
    assert_declines(RULE, proto, "not constant")


def test_declines_pads_that_depend_on_the_size() -> None:
    net = Net("N", 3, 9, 8)
    convs = [net.add("Conv", "x", net.random(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]) for _ in range(2)]
    assert_declines(RULE, net.model(*convs), "auto_pad")


def test_a_tensor_that_is_data_here_and_weight_there() -> None:
    """The tensor is data of one Conv and weight of the other."""
    net = Net(4, 3, 3, 2)
    proto = net.model(net.conv("x", 3, 4, 1), net.add("Conv", net.random(1, 3, 9, 8), "x"))
    assert_declines(RULE, proto, None)


def test_says_nothing_about_a_single_convolution() -> None:
    net = Net("N", 3, 9, 8)
    assert said_by(RULE, net.model(net.conv("x", 3, 4, 3), net.add("Neg", "x"))) == []


# --- random families -----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_families(data: st.DataObject) -> None:
    net = Net(2, 3, 9, 8, seed=data.draw(st.integers(0, 99)))
    windows = [{"k": data.draw(st.integers(1, 3)), "strides": [data.draw(st.integers(1, 2))] * 2} for _ in range(2)]
    outputs = []
    for _ in range(data.draw(st.integers(3, 5))):
        y = net.conv("x", 3, data.draw(st.integers(1, 5)), **data.draw(st.sampled_from(windows)))
        outputs.append(net.add("Relu", y) if data.draw(st.booleans()) else y)
    proto = net.model(*outputs)
    assert_rewrites(RULE, proto)
    assert_exact_on_integers(RULE, proto)
