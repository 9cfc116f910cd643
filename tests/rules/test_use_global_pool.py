"""use_global_pool: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import Weights, assert_declines, assert_rewrites, model_of

RULE = "use_global_pool"


def model(
    body: str, x: str = "N, 6, 5, 7", y: str = "N, C, 1, 1", kind: str = "float", opset: int = 17, **weights: object
) -> onnx.ModelProto:
    arrays: Weights = {k: np.asarray(v) for k, v in weights.items()}
    return model_of(f"g ({kind}[{x}] x) => ({kind}[{y}] y) {{ {body} }}", arrays, opset=opset)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("attributes", "x"),
    [
        ("kernel_shape = [5, 7]", "N, 6, 5, 7"),
        ("kernel_shape = [5, 7], strides = [5, 7], count_include_pad = 1", "N, 6, 5, 7"),
        ("kernel_shape = [4, 4], strides = [2, 2], ceil_mode = 1", "3, 6, 4, 4"),
        ("kernel_shape = [6, 8], pads = [0, 1, 1, 0]", "N, 6, 5, 7"),
        ('kernel_shape = [5, 7], auto_pad = "VALID"', "N, 6, 5, 7"),
        ("kernel_shape = [1, 7]", "N, 6, 1, 7"),
        ("kernel_shape = [25, 5]", "N, 6, 25, 5"),  # a map that the region check cuts at first
    ],
)
def test_window_over_the_whole_map(attributes: str, x: str) -> None:
    proto = model(f"y = AveragePool <{attributes}> (x)", x)
    assert_rewrites(RULE, proto, count=1, contains={"AveragePool": 0, "GlobalAveragePool": 1})


def test_window_that_leaves_pixels_out_is_a_local_pool() -> None:
    proto = model("y = AveragePool <kernel_shape = [4, 6], strides = [3, 3]> (x)")
    assert_declines(RULE, proto, None)


@pytest.mark.parametrize("opset", [11, 17, 18, 21])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction_over_the_map(axes: list[int], keepdims: int, opset: int) -> None:
    y = "N, C, 1, 1" if keepdims else "N, C"
    if opset < 18:
        proto = model(f"y = ReduceMean <axes = {axes}, keepdims = {keepdims}> (x)", y=y, opset=opset)
    else:
        proto = model(f"y = ReduceMean <keepdims = {keepdims}> (x, a)", y=y, opset=opset, a=np.array(axes, np.int64))
    assert_rewrites(RULE, proto, count=1, contains={"ReduceMean": 0, "GlobalAveragePool": 1, "Flatten": 1 - keepdims})


def test_dynamic_map() -> None:
    proto = model("y = ReduceMean <axes = [2, 3]> (x)", "N, C, H, W")
    assert_rewrites(RULE, proto, sizes={"x": (1, 3, 9, 11)}, count=1)


@pytest.mark.parametrize(
    "body",
    [
        "t = ReduceMean <axes = [3], keepdims = 0> (x) y = ReduceMean <axes = [2], keepdims = 0> (t)",
        "t = ReduceMean <axes = [2], keepdims = 0> (x) y = ReduceMean <axes = [-1], keepdims = 0> (t)",
    ],
)
def test_one_axis_after_the_other(body: str) -> None:
    assert_rewrites(RULE, model(body, y="N, C"), count=1, contains={"ReduceMean": 0, "GlobalAveragePool": 1})


def test_one_axis_after_the_other_with_keepdims() -> None:
    body = "t = ReduceMean <axes = [3]> (x) y = ReduceMean <axes = [2]> (t)"
    assert_rewrites(RULE, model(body), count=1, contains={"ReduceMean": 0, "GlobalAveragePool": 1})


@pytest.mark.parametrize("body", ["GlobalAveragePool", "ReduceMean <axes = [2, 3]>"])
def test_one_pixel(body: str) -> None:
    proto = model(f"t = Relu (x) u = {body} (t) y = Neg (u)", "N, 6, 1, 1")
    assert_rewrites(RULE, proto, count=1, contains={"GlobalAveragePool": 0, "ReduceMean": 0})


def test_one_pixel_between_graph_input_and_output() -> None:
    assert_rewrites(RULE, model("y = GlobalAveragePool (x)", "N, 6, 1, 1"), count=1)


def test_one_pixel_without_keepdims() -> None:
    proto = model("y = ReduceMean <axes = [2, 3], keepdims = 0> (x)", "N, 6, 1, 1", "N, C")
    assert_rewrites(RULE, proto, count=1, contains={"Flatten": 1, "ReduceMean": 0})


def test_half_precision() -> None:
    proto = model("y = ReduceMean <axes = [2, 3], keepdims = 0> (x)", y="N, C", kind="float16")
    assert_rewrites(RULE, proto, count=1, contains={"GlobalAveragePool": 1})


def test_double_precision_stays_a_reduction() -> None:
    body = "t = ReduceMean <axes = [3], keepdims = 0> (x) y = ReduceMean <axes = [2], keepdims = 0> (t)"
    assert_rewrites(RULE, model(body, y="N, C", kind="double"), count=1, contains={"ReduceMean": 1})
    assert_declines(RULE, model("y = ReduceMean <axes = [2, 3]> (x)", kind="double"), None)


@pytest.mark.parametrize(
    "pool", ["GlobalAveragePool", "ReduceMean <axes = [2, 3]>", "AveragePool <kernel_shape = [5, 7]>"]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_moves_before_a_1x1_convolution(pool: str, groups: int) -> None:
    body = f"t = Conv <group = {groups}> (x, w, b) y = {pool} (t)"
    proto = model(body, w=weight(8, 6 // groups, 1, 1), b=weight(8))
    after = assert_rewrites(RULE, proto, contains={"Conv": 1})[-1]
    assert [n.op_type for n in after.graph.node] == ["GlobalAveragePool", "Conv"]


def test_moves_before_a_1x1_convolution_without_keepdims_on_a_dynamic_map() -> None:
    body = "t = Conv (x, w) y = ReduceMean <axes = [2, 3], keepdims = 0> (t)"
    proto = model(body, "N, 6, H, W", "N, 8", w=weight(8, 6, 1, 1))
    after = assert_rewrites(RULE, proto, sizes={"x": (1, 6, 9, 11)}, count=2)[-1]
    assert [n.op_type for n in after.graph.node] == ["GlobalAveragePool", "Conv", "Flatten"]


CONV = {"w": weight(8, 6, 1, 1)}


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model("y = AveragePool <kernel_shape = [5, 7]> (x)", "N, 6, H, 7", "N, 6, A, 1"), "size of the map"),
        (
            model("y = AveragePool <kernel_shape = [6, 8], pads = [0, 1, 1, 0], count_include_pad = 1> (x)"),
            "counts the padding",
        ),
        (model('y = AveragePool <kernel_shape = [5, 7], auto_pad = "SAME_UPPER"> (x)', y="N, 6, 5, 7"), "auto_pad"),
        (model("y = AveragePool <kernel_shape = [5, 5]> (x)", y="N, 6, 1, 3"), None),
        (model("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", y="N, 6, 5, 7"), None),
        (model("y = AveragePool <kernel_shape = [1, 1]> (x)", "N, 6, 1, 1"), None),
        (model("y = GlobalAveragePool (x)"), None),
        (model("y = GlobalAveragePool (x)", "N, 6, 5", "N, 6, 1"), "rank"),
        (model("y = ReduceMean <axes = [1, 2]> (x)", y="N, 1, 1, 7"), None),
        (model("y = ReduceMean <axes = [3]> (x)", y="N, 6, 5, 1"), None),
        (model("y = ReduceMean <axes = [1], keepdims = 0> (x)", "N, 6, 5", "N, 5"), None),
        (model("y = ReduceMean <axes = [2, 3]> (x)", kind="int32"), "int32"),
        (
            model(
                "t = ReduceMean <axes = [1], keepdims = 0> (x) y = ReduceMean <axes = [2], keepdims = 0> (t)", y="N, H"
            ),
            None,
        ),
        (
            model("t = ReduceMean <axes = [3]> (x) y = ReduceMean <axes = [2], keepdims = 0> (t)", y="N, C, 1"),
            None,
        ),
        (model("t = Conv (x, w) u = Relu (t) y = GlobalAveragePool (u)", **CONV), None),
        (model("t = Conv <strides = [2, 2]> (x, w) y = GlobalAveragePool (t)", **CONV), None),
        (model("t = Conv <pads = [0, 1, 0, 1]> (x, w) y = GlobalAveragePool (t)", **CONV), None),
        (model("t = Conv (x, w) y = GlobalAveragePool (t)", w=weight(8, 6, 3, 3)), None),
        (model("t = Conv (x, w) p = GlobalAveragePool (t) y = Mul (t, p)", y="N, 8, 5, 7", **CONV), "second consumer"),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)


def test_declines_when_the_inner_result_is_a_graph_output() -> None:
    text = "g (float[N, 6, 5, 7] x) => (float[N, C, 1, 1] y, float[N, C, 5, {}] t) {{ {} y = {} (t) }}"
    conv = text.format(7, "t = Conv (x, w)", "GlobalAveragePool")
    assert_declines(RULE, model_of(conv, CONV), "graph output")
    mean = text.format(1, "t = ReduceMean <axes = [3]> (x)", "ReduceMean <axes = [2]>")
    assert_declines(RULE, model_of(mean), "graph output")


def test_declines_axes_that_are_not_constant() -> None:
    text = "g (float[N, 6, 5, 7] x, int64[2] a) => (float[N, C, 1, 1] y) { y = ReduceMean (x, a) }"
    proto = model_of(text, opset=18)
    assert_declines(RULE, proto, "axes", sizes={"x": (1, 6, 5, 7)})


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_windows(data: st.DataObject) -> None:
    """Whatever the window, what is proposed is equal; a window over the whole map is always proposed."""
    height, width = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6))
    pads = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    full = [height + pads[0] + pads[2], width + pads[1] + pads[3]]
    kernel = full if data.draw(st.booleans()) else [data.draw(st.integers(2, k)) for k in full]
    strides = data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=2))
    counted = data.draw(st.integers(0, 1))
    attributes = f"kernel_shape = {kernel}, pads = {pads}, strides = {strides}, count_include_pad = {counted}"
    proto = model(f"y = AveragePool <{attributes}> (x)", f"N, 3, {height}, {width}", "N, 3, A, B")
    whole = kernel == full or (
        all(k - b >= n for k, b, n in zip(kernel, pads, (height, width), strict=False))
        and all(f - k < s for f, k, s in zip(full, kernel, strides, strict=True))
    )
    if whole and not (counted and any(pads)):
        assert_rewrites(RULE, proto, count=1)
    else:
        assert_declines(RULE, proto, None)
