"""move_monotone_after_pool: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import opsets

from onnxtune.testing import assert_declines, assert_exact_on_integers, assert_rewrites, model_of, said_by

RULE = "move_monotone_after_pool"
RNG = np.random.default_rng(0)
WEIGHTS = {
    "s": np.array(1.5),
    "half": np.array([0.5]),
    "neg": np.array([-0.5]),
    "c": RNG.random((6, 1, 1)) + 0.5,
    "c4": RNG.random((1, 6, 1, 1)),
    "mixed": RNG.standard_normal((6, 1, 1)),
    "zero": np.array([0.0, 0, 0, 1, 2, 3]).reshape(6, 1, 1),
    "row": RNG.random(7) + 0.5,
    "map": RNG.random((1, 1, 9, 7)),
    "g": RNG.random(6) + 0.1,
    "m": RNG.standard_normal(6),
    "lo": np.array(-0.5),
    "hi": np.array(0.75),
    "w": RNG.standard_normal((6, 6, 1, 1)),
}
HALVE = "kernel_shape = [2, 2], strides = [2, 2]"
POOL = f"y = MaxPool<{HALVE}>(a)"


def model(
    before: str,
    pool: str = POOL,
    *,
    shape: str = "N, 6, 9, 7",
    out: str = "float[N, C, P, Q] y",
    more: str = "",
    opset: int = 17,
    kind: str = "float",
) -> onnx.ModelProto:
    dtype = np.float16 if kind == "float16" else np.float32
    words = re.findall(r"\w+", before + pool)
    weights = {k: v.astype(dtype) for k, v in WEIGHTS.items() if k in words}
    return model_of(f"g ({kind}[{shape}] x{more}) => ({out}) {{ {before} {pool} }}", weights, opset=opset)


def order(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


@pytest.mark.parametrize(
    "function",
    """Relu(x); Sigmoid(x); Tanh(x); Softplus(x); Softsign(x); Exp(x); Erf(x); Atan(x); Ceil(x); Floor(x); Round(x)
    Sign(x); LeakyRelu(x); LeakyRelu<alpha = 0.0>(x); Elu(x); Elu<alpha = 2.0>(x); Celu<alpha = 0.5>(x); HardSigmoid(x)
    Selu(x); ThresholdedRelu(x); ThresholdedRelu<alpha = 0.0>(x); Clip(x, lo, hi); Clip(x, , hi); Clip(x, hi, lo)
    PRelu(x, c); PRelu(x, half); Add(x, c4); Add(mixed, x); Sub(x, mixed); Mul(x, c); Mul(s, x); Mul(x, zero); Div(x, c)
    Max(x, mixed); Min(c, x); Clip(x); Sum(x, mixed, s); BatchNormalization(x, g, m, m, g)""".replace("\n", ";").split(
        ";"
    ),
)
def test_functions(function: str) -> None:
    name = function.strip().split("(")[0].split("<")[0]
    after = assert_rewrites(RULE, model(f"a = {function}"), count=1)[0]
    assert order(after) == ["MaxPool", name]


@pytest.mark.parametrize("opset", opsets(7, 9, 11, 13, 22))
def test_opsets(opset: int) -> None:
    assert_rewrites(RULE, model("a = Sigmoid(x)", opset=opset), count=1)
    limits = "a = Clip<min = -0.5, max = 1.0>(x)" if opset < 11 else "a = Clip(x, lo, hi)"
    assert_rewrites(RULE, model(limits, opset=opset), count=1)


@pytest.mark.parametrize("shape", ["N, 6, H, W", "2, 6, 8, 5"])
@pytest.mark.parametrize(
    "attributes",
    [
        HALVE,
        "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]",
        "kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1",
        "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1",
        "kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 1]",
        'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"',
        'kernel_shape = [2, 3], strides = [2, 2], auto_pad = "VALID"',
        "kernel_shape = [4, 3]",
    ],
)
def test_pools(shape: str, attributes: str) -> None:
    proto = model("a = Tanh(x)", f"y = MaxPool<{attributes}>(a)", shape=shape)
    assert_rewrites(RULE, proto, sizes={"x": (1, 6, 9, 8)} if "H" in shape else None, count=1)


def test_global_pool_half_precision_and_one_axis() -> None:
    assert_rewrites(RULE, model("a = Sigmoid(x)", "y = GlobalMaxPool(a)"), count=1)
    assert_rewrites(RULE, model("a = Mul(x, c)", kind="float16", out="float16[N, C, P, Q] y"), count=1)
    pool = "y = MaxPool<kernel_shape = [2], strides = [2]>(a)"
    assert_rewrites(RULE, model("a = Elu(x)", pool, shape="N, 6, 9", out="float[N, C, P] y"), count=1)


def test_a_chain_moves_together_and_its_last_function_alone() -> None:
    both = assert_rewrites(RULE, model("b = Conv(x, w) d = Mul(b, c) e = Add(mixed, d) a = Relu(e)"), count=2)
    assert [order(p) for p in both] == [
        ["Conv", "MaxPool", "Mul", "Add", "Relu"],
        ["Conv", "Mul", "Add", "MaxPool", "Relu"],
    ]


def test_limits_may_be_fed() -> None:
    proto = model("a = Clip(x, f)", more=", float f")
    assert_rewrites(RULE, proto, sizes={"x": (1, 6, 9, 7), "f": ()}, count=1)


def test_two_pools_that_share_what_is_before_the_function() -> None:
    before = "b = Relu(x) a = Tanh(b) z = Neg(b)"
    after = assert_rewrites(RULE, model(before, out="float[N, C, P, Q] y, float[N, D, R, S] z"), count=1)[0]
    assert sorted(order(after)) == ["MaxPool", "Neg", "Relu", "Tanh"]


TWO = "float[N, C, P, Q] y, float[N, D, R, S] "


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model("a = HardSwish(x)"), "HardSwish decreases somewhere"),
        (model("a = Gelu(x)", opset=20), "Gelu decreases somewhere"),
        (model("a = Abs(x)"), "Abs decreases"),
        (model("b = Sigmoid(x) a = Mul(x, b)"), "Mul of two computed operands"),
        (model("a = LeakyRelu<alpha = -0.1>(x)"), "negative alpha"),
        (model("a = PRelu(x, mixed)"), "PRelu with a negative constant"),
        (model("a = Mul(x, neg)"), "Mul with a negative constant"),
        (model("a = Div(x, neg)"), "Div with a negative constant"),
        (model("a = Sub(c, x)"), "Sub of a constant"),
        (model("a = Div(c, x)"), "Div of a constant"),
        (model("a = BatchNormalization(x, m, g, g, g)"), "negative scale"),
        (model("a = Add(x, map)"), "differs from pixel to pixel"),
        (model("a = Mul(x, row)"), "differs from pixel to pixel"),
        (model("a = PRelu(x, row)"), "differs from pixel to pixel"),
        (model("a = Relu(x)", out=TWO + "a"), "'a' is a graph output"),
        (model("a = Relu(x) z = Neg(a)", out=TWO + "z"), "second consumer (Neg)"),
        (
            model("a = Relu(x)", f"y, i = MaxPool<{HALVE}>(a)", out="float[N, C, P, Q] y, int64[N, D, R, S] i"),
            "Indices",
        ),
        (
            model("a = Relu(x)", f"y = MaxPool<{HALVE}, dilations = [3, 3], pads = [1, 1, 1, 1]>(a)"),
            "nothing but padding",
        ),
        (
            model("a = Relu(x)", "y = MaxPool<kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1>(a)"),
            "nothing but padding",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


def test_a_slope_that_is_fed() -> None:
    proto = model("a = PRelu(x, f)", more=", float[6, 1, 1] f")
    assert_declines(RULE, proto, None, sizes={"x": (1, 6, 9, 7), "f": (6, 1, 1)})


def test_nothing_to_say() -> None:
    quiet = (
        model("a = Relu(x)", "y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a)"),
        model("b = Add(x, x) a = Identity(b)"),
        model("a = Relu(x)", f"y = AveragePool<{HALVE}>(a)"),
        model("a = Conv(x, w)"),
    )
    assert [said_by(RULE, proto) for proto in quiet] == [[], [], [], []]


def test_integers_are_left_alone() -> None:
    text = f"g (int8[N, 3, 8, 8] x) => (int8[N, 3, P, Q] y) {{ a = Clip(x) y = MaxPool<{HALVE}>(a) }}"
    assert said_by(RULE, model_of(text)) == []


@pytest.mark.parametrize("before", ["a = Relu(x)", "b = Mul(x, c) d = Add(b, mixed) a = LeakyRelu<alpha = 0.5>(d)"])
def test_bits_are_equal_on_integers(before: str) -> None:
    assert_exact_on_integers(RULE, model(before))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    function=st.sampled_from(["Relu(x)", "Sigmoid(x)", "Sub(x, s)", "PRelu(x, c)", "HardSigmoid<alpha = 0.5>(x)"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    ceil=st.booleans(),
)
def test_random_parameters(
    function: str, kernel: tuple[int, int], strides: tuple[int, int], pads: list[int], size: tuple[int, int], ceil: bool
) -> None:
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    window = f"kernel_shape = {list(kernel)}, strides = {list(strides)}, pads = {pads}, ceil_mode = {int(ceil)}"
    proto = model(f"a = {function}", f"y = MaxPool<{window}>(a)", shape=f"N, 6, {size[0]}, {size[1]}")
    if ceil and any(e + s > k for e, s, k in zip(pads[2:], strides, kernel, strict=True)):
        assert_declines(RULE, proto, "nothing but padding")
    else:
        assert_rewrites(RULE, proto, count=1)
