"""merge_conv_average_pool: fires and is equal, declines with a reason, holds on random parameters."""

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

RULE = "merge_conv_average_pool"
RNG = np.random.default_rng(0)
HALVE = "kernel_shape = [2, 2], strides = [2, 2]"
SAME = "pads = [1, 1, 1, 1]"


def model(
    conv: str = SAME,
    pool: str = HALVE,
    *,
    bias: bool = True,
    shape: str = "N, 4, 9, 7",
    weight: tuple[int, ...] = (6, 4, 3, 3),
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


def attributes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    assert [n.op_type for n in proto.graph.node] == ["Conv"]
    return {a.name: list(a.ints) for a in proto.graph.node[0].attribute if a.ints}


@pytest.mark.parametrize("opset", opsets(7, 11, 17, 22))
@pytest.mark.parametrize("bias", [True, False])
def test_three_by_three_before_two_by_two(opset: int, bias: bool) -> None:
    after = assert_rewrites(RULE, model(opset=opset, bias=bias), count=1)[0]
    assert attributes(after) == {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}


@pytest.mark.parametrize("shape", ["N, 4, H, W", "2, 4, 8, 10", "N, 4, 2, 3"])
def test_sizes(shape: str) -> None:
    assert_rewrites(RULE, model(shape=shape), sizes={"x": (1, 4, 9, 8)} if "H" in shape else None, count=1)


@pytest.mark.parametrize(
    ("conv", "pool", "expected"),
    [
        ("pads = [0, 2, 1, 1]", HALVE, {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [0, 2, 1, 1]}),
        ('auto_pad = "SAME_LOWER"', HALVE, {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("strides = [2, 1]", HALVE, {"kernel_shape": [5, 4], "strides": [4, 2]}),
        (
            "dilations = [2, 1], strides = [2, 1]",
            HALVE,
            {"kernel_shape": [4, 4], "strides": [4, 2], "dilations": [2, 1]},
        ),
        (
            SAME,
            "kernel_shape = [3, 3], strides = [3, 3]",
            {"kernel_shape": [5, 5], "strides": [3, 3], "pads": [1, 1, 1, 1]},
        ),
        (
            SAME,
            "kernel_shape = [3, 2], strides = [2, 2]",
            {"kernel_shape": [5, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        ),
        (
            SAME,
            "kernel_shape = [1, 2], strides = [2, 2]",
            {"kernel_shape": [3, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        ),
    ],
)
def test_windows(conv: str, pool: str, expected: dict[str, list[int]]) -> None:
    after = assert_rewrites(RULE, model(conv, pool), count=1)[0]
    assert attributes(after) == expected


@pytest.mark.parametrize(("group", "weight"), [(2, (6, 2, 3, 3)), (4, (4, 1, 3, 3)), (4, (8, 1, 3, 3))])
def test_groups(group: int, weight: tuple[int, ...]) -> None:
    assert_rewrites(RULE, model(f"{SAME}, group = {group}", weight=weight), count=1)


def test_half_precision_and_one_axis() -> None:
    assert_rewrites(RULE, model(kind="float16", out="float16[N, C, P, Q] y"), count=1)
    pool = "kernel_shape = [2], strides = [2]"
    proto = model("pads = [1, 1]", pool, shape="N, 4, 9", weight=(6, 4, 3), out="float[N, C, P] y")
    assert_rewrites(RULE, proto, count=1)


TWO = "float[N, C, P, Q] y, float[N, D, R, S] "


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model(pool=HALVE + ", pads = [1, 0, 0, 0]"), "the pool has pads"),
        (model(pool=HALVE + ", pads = [0, 0, 1, 1], count_include_pad = 1"), "the pool has pads"),
        (model(pool=HALVE + ", ceil_mode = 1"), "ceil_mode = 1"),
        (model(pool=HALVE + ", dilations = [2, 1]", opset=19), "dilations"),
        (model(weight=(6, 4, 1, 1)), "4 products per pixel instead of 4"),
        (model(pool="kernel_shape = [3, 3]"), "25 products per pixel instead of 9"),
        (model("strides = [3, 3]"), "36 products per pixel instead of 36"),
        (model(out=TWO + "c"), "'c' is a graph output"),
        (model(out=TWO + "z", after="z = Relu(c)"), "second consumer (Relu)"),
        (model('auto_pad = "SAME_UPPER", strides = [2, 2]'), "auto_pad SAME_UPPER"),
        (model(pool='kernel_shape = [3, 3], strides = [3, 3], auto_pad = "SAME_UPPER"'), "auto_pad SAME_UPPER"),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


def test_declines_weights_that_are_fed() -> None:
    text = f"""g (float[N, 3, 6, 5] x, float[4, 3, 3, 3] w) => (float[N, 4, P, Q] y) {{
        c = Conv(x, w) y = AveragePool<{HALVE}>(c) }}"""
    sizes = {"x": (1, 3, 6, 5), "w": (4, 3, 3, 3)}
    assert_declines(RULE, model_of(text), "'w' is a graph input, not a constant", sizes=sizes)


def test_shared_weights_stay_for_the_other_reader() -> None:
    proto = model(after="z = Conv(x, w)", out=TWO + "z")
    assert len(assert_rewrites(RULE, proto, count=1)[0].graph.node) == 2


def test_bits_are_equal_on_integers() -> None:
    for conv, pool in (
        (SAME, HALVE),
        ("strides = [2, 1], dilations = [1, 2]", "kernel_shape = [2, 4], strides = [2, 4]"),
    ):
        assert_exact_on_integers(RULE, model(conv, pool, shape="N, 4, 12, 14"))


@pytest.mark.parametrize("size", ["13, 10", "8, 9", "2, 3"])
def test_affine_function_is_the_same(size: str) -> None:
    assert_affine_equal(RULE, model("pads = [2, 1, 1, 2]", shape=f"1, 4, {size}"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(2, 4), st.integers(3, 4)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    over=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    by=st.tuples(st.integers(2, 4), st.integers(1, 3)),
    size=st.tuples(st.integers(14, 18), st.integers(14, 18)),
)
def test_random_parameters(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: list[int],
    over: tuple[int, int],
    by: tuple[int, int],
    size: tuple[int, int],
) -> None:
    conv = f"strides = {list(strides)}, dilations = {list(dilations)}, pads = {pads}"
    pool = f"kernel_shape = {list(over)}, strides = {list(by)}"
    proto = model(conv, pool, weight=(3, 4, *kernel), shape=f"N, 4, {size[0]}, {size[1]}")
    common = np.gcd(strides, dilations)
    merged = (np.array(strides) * (np.array(over) - 1) + np.array(dilations) * (np.array(kernel) - 1)) // common + 1
    if np.prod(merged) < np.prod(kernel) * np.prod(by):
        assert_rewrites(RULE, proto, count=1, contains={"Conv": 1, "AveragePool": 0})
    else:
        assert_declines(RULE, proto, "products per pixel")
