"""fold_pad: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import assert_declines, assert_rewrites, model_of, said_by

RULE = "fold_pad"
PADS = [0, 0, 1, 2, 0, 0, 0, 3]
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32)


def padded(
    node: str,
    pads: list[int] = PADS,
    value: float | None = None,
    *,
    before: str = "p = Pad{}(x{})",
    mode: str = "constant",
    shape: str = "N, 3, 9, 7",
    out: str = "float[N, C, P, Q] y",
    opset: int = 17,
    axes: list[int] | None = None,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    """Pad with its parameters as the opset has them, then `node`, which reads p and makes y."""
    weights: dict[str, Any] = {"w": WEIGHT.astype(dtype)} if "w" in node else {}
    if opset < 11:
        fill = "" if value is None else f", value = {value:f}"
        text = before.format(f'<mode = "{mode}", pads = {pads}{fill}>', "")
    else:
        extra = ", k" + (", v" if value is not None else ", " if axes else "") + (", a" if axes else "")
        text = before.format(f'<mode = "{mode}">', extra)
        weights["k"] = np.array(pads)
        if value is not None:
            weights["v"] = np.array(value, dtype)
        if axes:
            weights["a"] = np.array(axes)
    kind = "float16" if dtype == np.float16 else "float"
    return model_of(f"g ({kind}[{shape}] x) => ({out}) {{ {text} {node} }}", weights, opset=opset)


CONV = "y = Conv<strides = [2, 1], pads = [1, 0, 0, 1]>(p, w)"


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 18, 21])
def test_convolution(opset: int) -> None:
    assert_rewrites(RULE, padded(CONV, opset=opset), count=1, contains={"Pad": 0, "Conv": 1})


def test_explicit_zero_and_symbolic_map() -> None:
    proto = padded(CONV, value=-0.0, shape="N, 3, H, W")
    assert_rewrites(RULE, proto, sizes={"x": (1, 3, 6, 5)}, count=1, contains={"Pad": 0})


def test_negative_and_unordered_axes() -> None:
    proto = padded(CONV, [2, 1, 3, 0], opset=18, axes=[-1, 2])
    assert_rewrites(RULE, proto, count=1, contains={"Pad": 0})


@pytest.mark.parametrize("auto", ["VALID", "SAME_UPPER", "SAME_LOWER"])
def test_auto_pad_that_depends_on_no_size(auto: str) -> None:
    assert_rewrites(RULE, padded(f'y = Conv<auto_pad = "{auto}">(p, w)'), count=1, contains={"Pad": 0})


def test_pads_larger_than_the_kernel_and_dilations() -> None:
    node = "y = Conv<dilations = [2, 3]>(p, w)"
    assert_rewrites(RULE, padded(node, [0, 0, 5, 1, 0, 0, 7, 4]), count=1, contains={"Pad": 0})


def test_one_axis() -> None:
    text = "g (float[N, 3, 9] x) => (float[N, 4, P] y) { p = Pad(x, k) y = Conv(p, w) }"
    weights = {"k": np.array([0, 0, 1, 0, 0, 2]), "w": WEIGHT[..., 0]}
    assert_rewrites(RULE, model_of(text, weights), count=1, contains={"Pad": 0})


def test_half_precision() -> None:
    proto = padded(CONV, dtype=np.float16, out="float16[N, C, P, Q] y")
    assert_rewrites(RULE, proto, count=1, contains={"Pad": 0})


SMALL = [0, 0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "attributes", ["", "count_include_pad = 1, pads = [1, 0, 1, 1], ", "count_include_pad = 1, strides = [2, 2], "]
)
def test_average_pool(attributes: str) -> None:
    node = f"y = AveragePool<{attributes}kernel_shape = [3, 3]>(p)"
    assert_rewrites(RULE, padded(node, SMALL), count=1, contains={"Pad": 0})


@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_max_pool_of_minus_infinity(strides: list[int]) -> None:
    proto = padded(f"y = MaxPool<kernel_shape = [3, 2], strides = {strides}, pads = [1, 0, 1, 0]>(p)", SMALL)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "v"))
    proto.graph.node[0].input.append("v")
    assert_rewrites(RULE, proto, count=1, contains={"Pad": 0, "MaxPool": 1})


@pytest.mark.parametrize(
    ("bound", "value", "opset"),
    [
        ("r = Relu(x)", 0.0, 17),
        ("r = Relu(x)", -1.0, 17),
        ("r = Sigmoid(x)", None, 13),
        ("r = HardSigmoid(x)", None, 9),
        ("r = Clip<min = 0.5, max = 6.0>(x)", 0.5, 9),
    ],
)
def test_max_pool_of_bounded_input(bound: str, value: float | None, opset: int) -> None:
    node = "y = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(p)"
    proto = padded(node, SMALL, value, before=bound + " p = Pad{}(r{})", opset=opset)
    assert_rewrites(RULE, proto, count=1, contains={"Pad": 0, "MaxPool": 1})


def test_the_bounding_node_stays_for_its_other_readers() -> None:
    node = "y = MaxPool<kernel_shape = [3, 2]>(p) z = Neg(r)"
    proto = padded(node, SMALL, before="r = Relu(x) p = Pad{}(r{})", out="float[N, C, P, Q] y, float[N, C, R, S] z")
    assert_rewrites(RULE, proto, count=1, contains={"Pad": 0, "Relu": 1})


def clipped(low: Any, high: Any, *, fed: bool = False) -> onnx.ModelProto:
    body = "r = Clip(x, lo, hi) p = Pad(r, k) y = MaxPool<kernel_shape = [3, 2]>(p)"
    text = f"g (float[N, 3, 9, 7] x{', float hi' if fed else ''}) => (float[N, 3, P, Q] y) {{ {body} }}"
    weights = {"lo": np.float32(low), "k": np.array(SMALL)} | ({} if fed else {"hi": np.float32(high)})
    return model_of(text, weights)


def test_clip_with_constant_limits() -> None:
    assert_rewrites(RULE, clipped(0, 6), count=1, contains={"Pad": 0})


MAX = "y = MaxPool<kernel_shape = [3, 2]>(p)"
TWO = "float[N, C, P, Q] y, float[N, C, R, S] p"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (padded(CONV, value=0.5), "value is 0.5, not 0"),
        (padded(CONV, mode="reflect"), "mode 'reflect'"),
        (padded(CONV, mode="edge", opset=9), "mode 'edge'"),
        (padded(CONV, [0, 0, 1, -1, 0, 0, 0, 0]), "negative pads"),
        (padded("y = Conv(p, w)", [0, 1, 1, 0, 0, 0, 0, 0], shape="N, 2, 9, 7"), "batch or the channels"),
        (padded('y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(p, w)'), "auto_pad SAME_UPPER"),
        (padded(CONV, out=TWO), "'p' is a graph output"),
        (padded(CONV + " z = Neg(p)", out="float[N, C, P, Q] y, float[N, 3, R, S] z"), "second consumer (Neg)"),
        (padded("y = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 1, 1]>(p)", SMALL), "does not count"),
        (padded("y = AveragePool<kernel_shape = [3, 3], ceil_mode = 1>(p)", SMALL), "ceil_mode = 1"),
        (padded("y = AveragePool<kernel_shape = [2, 2]>(p)"), "reach the kernel"),
        (padded(MAX, SMALL), "not proven to be at least 0"),
        (padded(MAX, SMALL, before="r = Tanh(x) p = Pad{}(r{})"), "not proven to be at least 0"),
        (padded(MAX, SMALL, 0.1, before="r = Relu(x) p = Pad{}(r{})"), "not proven to be at least 0.1"),
        (padded(MAX, before="r = Relu(x) p = Pad{}(r{})"), "nothing but padding"),
        (padded(MAX[:-4] + ", dilations = [2, 1]>(p)", SMALL, before="r = Relu(x) p = Pad{}(r{})"), "nothing but"),
        (padded(MAX[:-4] + ", ceil_mode = 1>(p)", SMALL, before="r = Relu(x) p = Pad{}(r{})"), "ceil_mode = 1"),
        (
            padded(
                "y, i =" + MAX[3:], SMALL, before="r = Relu(x) p = Pad{}(r{})", out=TWO[:19] + ", int64[N, C, P, Q] i"
            ),
            "Indices",
        ),
        (clipped(0, -1), "not proven to be at least 0"),
        (clipped(0, 6, fed=True), "not proven to be at least 0"),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


def test_declines_pads_that_are_fed() -> None:
    text = "g (float[N, 3, 9, 7] x, int64[8] k) => (float[N, 4, P, Q] y) { p = Pad(x, k) y = Conv(p, w) }"
    assert_declines(RULE, model_of(text, {"w": WEIGHT}), "'k' is not constant", sizes={"x": (1, 3, 9, 7), "k": (8,)})


def test_other_readers_are_no_near_miss() -> None:
    assert said_by(RULE, padded("y = Neg(p)")) == []


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    op=st.sampled_from(["Conv", "AveragePool", "MaxPool"]),
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    own=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    size=st.tuples(st.integers(4, 8), st.integers(4, 8)),
)
def test_random_parameters(
    op: str, kernel: tuple[int, int], strides: tuple[int, int], pads: list[int], own: list[int], size: tuple[int, int]
) -> None:
    half = [min(p, (k - 1) // 2) for p, k in zip(pads, kernel * 2, strict=True)]  # so that all pads stay below k
    mine = [min(p, k // 2) for p, k in zip(own, kernel * 2, strict=True)]
    count = ", count_include_pad = 1" if op == "AveragePool" else ""
    inputs = "(p, w)" if op == "Conv" else "(p)"
    node = f"y = {op}<kernel_shape = {list(kernel)}, strides = {list(strides)}, pads = {mine}{count}>{inputs}"
    weights: dict[str, Any] = {"k": np.array([0, 0, *half[:2], 0, 0, *half[2:]])}
    if op == "Conv":
        weights["w"] = np.random.default_rng(1).standard_normal((2, 3, *kernel)).astype(np.float32)
    text = f"g (float[N, 3, {size[0]}, {size[1]}] x) => (float[N, C, P, Q] y) {{ r = Relu(x) p = Pad(r, k) {node} }}"
    assert_rewrites(RULE, model_of(text, weights), count=1, contains={"Pad": 0})
