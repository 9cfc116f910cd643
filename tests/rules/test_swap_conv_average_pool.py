"""swap_conv_average_pool: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import opsets

from onnxtune.testing import (
    assert_affine_equal,
    assert_declines,
    assert_exact_on_integers,
    assert_rewrites,
    model_of,
)

RULE = "swap_conv_average_pool"
RNG = np.random.default_rng(0)
HALVE = "kernel_shape = [2, 2], strides = [2, 2]"
PADDED = "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]"


def model(
    pool: str = HALVE,
    conv: str = "group = 1",
    *,
    bias: bool = True,
    shape: str = "N, 6, 9, 7",
    weight: tuple[int, ...] = (4, 6, 1, 1),
    out: str = "float[N, C, P, Q] y",
    opset: int = 17,
    kind: str = "float",
    after: str = "",
) -> onnx.ModelProto:
    dtype = np.float16 if kind == "float16" else np.float32
    weights = {"w": RNG.standard_normal(weight).astype(dtype)}
    if bias:
        weights["b"] = RNG.standard_normal(weight[0]).astype(dtype)
    body = f"c = Conv<{conv}>(x, w{', b' if bias else ''}) y = AveragePool<{pool}>(c) {after}"
    return model_of(f"g ({kind}[{shape}] x) => ({out}) {{ {body} }}", weights, opset=opset)


def order(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


@pytest.mark.parametrize("opset", opsets(7, 10, 11, 17, 19, 22))
def test_transition_layer(opset: int) -> None:
    after = assert_rewrites(RULE, model(opset=opset), count=1)[0]
    assert order(after) == ["AveragePool", "Conv"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", ["N, 6, H, W", "3, 6, 8, 5", "N, 6, 3, 2"])
def test_sizes(shape: str, bias: bool) -> None:
    sizes = {"x": (1, 6, 9, 8)} if "H" in shape else None
    assert_rewrites(RULE, model(shape=shape, bias=bias), sizes=sizes, count=1)


@pytest.mark.parametrize(
    "pool",
    [
        PADDED,
        "kernel_shape = [3, 2], strides = [1, 2], pads = [1, 0, 0, 1]",
        "kernel_shape = [2, 3], strides = [2, 2], ceil_mode = 1",
        HALVE + ", count_include_pad = 1",
        'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"',
        "kernel_shape = [9, 7]",
    ],
)
def test_pools(pool: str) -> None:
    assert_rewrites(RULE, model(pool), count=1)


@pytest.mark.parametrize("more", ["", ", ceil_mode = 1"])
def test_a_conv_without_bias_passes_a_pool_that_counts_its_padding(more: str) -> None:
    assert_rewrites(RULE, model(PADDED + ", count_include_pad = 1" + more, bias=False), count=1)


def test_groups_half_precision_and_one_axis() -> None:
    assert_rewrites(RULE, model(conv="group = 2", weight=(4, 3, 1, 1)), count=1)
    assert_rewrites(RULE, model(kind="float16", out="float16[N, C, P, Q] y"), count=1)
    pool = "kernel_shape = [2], strides = [2]"
    proto = model(pool, shape="N, 6, 9", weight=(4, 6, 1), out="float[N, C, P] y")
    assert_rewrites(RULE, proto, count=1)


def test_weights_may_be_fed() -> None:
    text = f"""g (float[N, 3, 6, 5] x, float[4, 3, 1, 1] w) => (float[N, 4, P, Q] y) {{
        c = Conv(x, w) y = AveragePool<{HALVE}>(c) }}"""
    assert_rewrites(RULE, model_of(text), sizes={"x": (1, 3, 6, 5), "w": (4, 3, 1, 1)}, count=1)


TWO = "float[N, C, P, Q] y, float[N, D, R, S] "


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model(PADDED + ", count_include_pad = 1"), "counts its padding"),
        (model(HALVE + ", count_include_pad = 1, ceil_mode = 1"), "counts its padding"),
        (
            model('kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER", count_include_pad = 1'),
            "counts its padding",
        ),
        (model(HALVE + ", dilations = [3, 3], pads = [1, 1, 1, 1]", opset=19), "nothing but padding"),
        (model(conv="strides = [2, 1]"), "a stride or pads"),
        (model(conv="pads = [1, 0, 0, 0]"), "a stride or pads"),
        (model(weight=(4, 6, 3, 1)), "a kernel above 1x1"),
        (model('kernel_shape = [3, 3], auto_pad = "SAME_UPPER"'), "does not make the map smaller"),
        (model(out=TWO + "c"), "'c' is a graph output"),
        (model(out=TWO + "z", after="z = Relu(c)"), "second consumer (Relu)"),
        (model(conv='auto_pad = "SAME_UPPER", strides = [2, 2]'), "auto_pad SAME_UPPER"),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


def test_an_activation_between_is_no_near_miss() -> None:
    text = (
        f"g (float[N, 3, 6, 5] x) => (float[N, 4, P, Q] y) {{ c = Conv(x, w) r = Relu(c) y = AveragePool<{HALVE}>(r) }}"
    )
    assert_declines(RULE, model_of(text, {"w": RNG.standard_normal((4, 3, 1, 1)).astype(np.float32)}), None)


def test_bits_are_equal_on_integers() -> None:
    for pool in (HALVE, "kernel_shape = [2, 4], strides = [2, 1]"):
        assert_exact_on_integers(RULE, model(pool))
    assert_exact_on_integers(RULE, model("kernel_shape = [2, 2], strides = [2, 1], pads = [1, 0, 1, 1]"))


@pytest.mark.parametrize("size", ["9, 7", "8, 10", "3, 4"])
def test_affine_function_is_the_same(size: str) -> None:
    assert_affine_equal(RULE, model(PADDED, shape=f"1, 6, {size}"))
    assert_affine_equal(RULE, model(PADDED + ", count_include_pad = 1", bias=False, shape=f"1, 6, {size}"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    bias=st.booleans(),
    counts=st.booleans(),
    ceil=st.booleans(),
)
def test_random_parameters(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: list[int],
    size: tuple[int, int],
    bias: bool,
    counts: bool,
    ceil: bool,
) -> None:
    pads = [min(p, k // 2) for p, k in zip(pads, kernel * 2, strict=True)]
    pool = f"kernel_shape = {list(kernel)}, strides = {list(strides)}, pads = {pads}"
    pool += f", count_include_pad = {int(counts)}, ceil_mode = {int(ceil)}"
    proto = model(pool, bias=bias, shape=f"N, 6, {size[0]}, {size[1]}")
    hangs_over = ceil and any(e + s > k for e, s, k in zip(pads[2:], strides, kernel, strict=True))
    if bias and counts and (any(pads) or ceil):
        assert_declines(RULE, proto, "counts its padding")
    elif bias and hangs_over:
        assert_declines(RULE, proto, "nothing but padding")
    else:
        assert_rewrites(RULE, proto, count=1)
