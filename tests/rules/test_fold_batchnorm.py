"""fold_batchnorm: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import assert_declines, assert_rewrites, model_of, said_by

RULE = "fold_batchnorm"


def statistics(channels: int, seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    """gamma, beta, mean, variance: (channels,)."""
    rng = np.random.default_rng(seed)
    signed = {n: rng.standard_normal(channels).astype(dtype) for n in ("s", "t", "m")}
    return signed | {"v": (rng.random(channels) + 0.1).astype(dtype)}


def normal(*shape: int, seed: int = 1, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


NORM = "z = BatchNormalization<epsilon = 0.01>(y, s, t, m, v)"


def conv(
    conv_text: str = "y = Conv<strides = [2, 1], pads = [1, 0, 0, 1]>(x, w, b)",
    rest: str = NORM,
    *,
    w: tuple[int, ...] = (5, 3, 3, 3),
    outputs: str = "float[N, 5, P, Q] z",
    opset: int = 17,
    more: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    weights = {"w": normal(*w), "b": normal(5)} | statistics(5) | (more or {})
    text = f"g (float[N, 3, 9, 7] x) => ({outputs}) {{ {conv_text} {rest} }}"
    used = {k: v for k, v in weights.items() if any(f"{a}{k}{c}" in text for a in "( " for c in ",)")}
    return model_of(text, used, opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 15, 17])
def test_convolution(opset: int) -> None:
    assert_rewrites(RULE, conv(opset=opset), count=1, contains={"BatchNormalization": 0, "Conv": 1})


def test_without_bias_and_with_symbolic_map() -> None:
    proto = conv("y = Conv(x, w)")
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "HW"[axis - 2]
    assert_rewrites(RULE, proto, sizes={"x": (1, 3, 8, 11)}, count=1, contains={"BatchNormalization": 0})


def test_grouped_convolution() -> None:
    text = "g (float[N, 4, 9, 7] x) => (float[N, 6, P, Q] z) { y = Conv<group = 2>(x, w) " + NORM + " }"
    proto = model_of(text, {"w": normal(6, 2, 3, 3)} | statistics(6))
    assert_rewrites(RULE, proto, count=1, contains={"BatchNormalization": 0})


@pytest.mark.parametrize("group", [1, 2, 3])
def test_transposed_convolution(group: int) -> None:
    head = "g (float[N, 6, 5, 4] x) => (float[N, 12, P, Q] z)"
    text = f"{head} {{ y = ConvTranspose<group = {group}, strides = [2, 1], output_padding = [1, 0]>(x, w, b) {NORM} }}"
    proto = model_of(text, {"w": normal(6, 12 // group, 3, 2), "b": normal(12)} | statistics(12))
    assert_rewrites(RULE, proto, count=1, contains={"BatchNormalization": 0})


@pytest.mark.parametrize(("rank", "shape"), [("9", (5, 3, 2)), ("9, 7", (5, 3, 2, 4)), ("9, 7, 4", (5, 3, 2, 3, 1))])
def test_any_number_of_axes(rank: str, shape: tuple[int, ...]) -> None:
    out = ", ".join("PQR"[: len(shape) - 2])
    text = f"g (float[N, 3, {rank}] x) => (float[N, 5, {out}] z) {{ y = Conv(x, w) {NORM} }}"
    assert_rewrites(RULE, model_of(text, {"w": normal(*shape)} | statistics(5)), count=1)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (), (1, 1)])
def test_gemm(trans_b: int, bias: tuple[int, ...] | None) -> None:
    third = "" if bias is None else ", b"
    node = f"y = Gemm<alpha = 0.5, beta = 2.0, transB = {trans_b}>(x, w{third})"
    weights = {"w": normal(*((5, 8) if trans_b else (8, 5)))} | statistics(5)
    if bias is not None:
        weights["b"] = normal(*bias)
    proto = model_of(f"g (float[N, 8] x) => (float[N, 5] z) {{ {node} {NORM} }}", weights)
    assert_rewrites(RULE, proto, count=1, contains={"BatchNormalization": 0, "Gemm": 1})


def test_gemm_with_a_bias_per_row() -> None:
    text = f"g (float[3, 8] x) => (float[3, 5] z) {{ y = Gemm<beta = 0.5>(x, w, b) {NORM} }}"
    assert_rewrites(RULE, model_of(text, {"w": normal(8, 5), "b": normal(3, 1)} | statistics(5)), count=1)


def test_matrix_product_becomes_gemm() -> None:
    text = f"g (float[N, 8] x) => (float[N, 5] q) {{ y = MatMul(x, w) {NORM} q = Add(z, k) }}"
    proto = model_of(text, {"w": normal(8, 5), "k": normal(5)} | statistics(5))
    assert_rewrites(RULE, proto, count=1, contains={"Gemm": 1, "MatMul": 0, "Add": 0})


def test_matrix_product_of_higher_rank() -> None:
    text = "g (float[N, 3, 8] x) => (float[N, 3, 5] q) { y = MatMul(x, w) z = Add(k, y) q = Mul(z, c) }"
    proto = model_of(text, {"w": normal(8, 5), "k": normal(5), "c": normal(1, 1, 5)})
    (after,) = assert_rewrites(RULE, proto, count=1, contains={"MatMul": 1, "Add": 1, "Mul": 0})
    assert_declines(RULE, after, None)


def test_constant_chain_in_any_form() -> None:
    chain = "p = Mul(c, z) q = Sub(k, p) r = Div(q, e) u = Add(r, f)"
    more = {"c": normal(5, 1, 1), "k": normal(1, 5, 1, 1), "e": np.float32(3), "f": np.ones((1, 1), np.float32)}
    proto = conv(rest=f"{NORM} {chain}", outputs="float[N, 5, P, Q] u", more=more)
    assert_rewrites(RULE, proto, count=1, contains={"Mul": 0, "Sub": 0, "Div": 0, "Add": 0, "Conv": 1})


@pytest.mark.parametrize("opset", [9, 13])
def test_constants_behind_unsqueeze(opset: int) -> None:
    axes = "<axes = [1, 2]>(c)" if opset < 13 else "(c, a)"
    rest = f"{NORM} d = Unsqueeze{axes} r = Mul(z, d)"
    more = {"c": normal(5), "a": np.array([1, 2])}
    proto = conv(rest=rest, outputs="float[N, 5, P, Q] r", more=more, opset=opset)
    assert_rewrites(RULE, proto, count=1, contains={"Unsqueeze": 0, "Mul": 0})


def test_scale_alone_needs_no_bias() -> None:
    proto = conv("y = Conv(x, w)", "z = Mul(y, c)", more={"c": normal(5, 1, 1)})
    (after,) = assert_rewrites(RULE, proto, count=1)
    assert len(after.graph.node[0].input) == 2


def test_normalization_that_no_weights_precede() -> None:
    rest = "y = Relu(x) " + NORM + " p = Mul(z, c) q = Add(p, k)"
    text = f"g (float[N, 5, 9, 7] x) => (float[N, 5, 9, 7] q) {{ {rest} }}"
    proto = model_of(text, {"c": normal(5, 1, 1), "k": normal(5, 1, 1)} | statistics(5))
    assert_rewrites(RULE, proto, count=1, contains={"BatchNormalization": 1, "Mul": 0, "Add": 0})


def test_half_precision() -> None:
    text = "g (float16[N, 3, 9, 7] x) => (float16[N, 5, P, Q] q) { y = Conv(x, w) q = Mul(y, c) }"
    weights = {"w": normal(5, 3, 3, 3, dtype=np.float16), "c": normal(5, 1, 1, dtype=np.float16)}
    assert_rewrites(RULE, model_of(text, weights), count=1, contains={"Mul": 0})


def test_only_up_to_the_tensor_that_others_see() -> None:
    proto = conv(
        rest=f"{NORM} q = Mul(z, c)", outputs="float[N, 5, P, Q] z, float[N, 5, P, Q] q", more={"c": normal(1)}
    )
    assert_rewrites(RULE, proto, count=1, contains={"BatchNormalization": 0, "Mul": 1})


SECOND = "float[N, 5, P, Q] z, float[N, 5, P, Q] y"
STATISTIC = "float[N, 5, P, Q] z, float[5] k"
WIDER = "float[M, N, 5, P, Q] z"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (conv(outputs=SECOND), "'y' is a graph output"),
        (conv(rest=NORM + " r = Relu(y)", outputs="float[N, 5, P, Q] z, float[N, 5, P, Q] r"), "second consumer"),
        (conv(rest=NORM + " a = Conv(x, w)", outputs="float[N, 5, P, Q] z, float[N, 5, R, S] a"), "second consumer"),
        (conv(rest="d = Neg(v) z = BatchNormalization(y, s, t, m, d)"), "'d' is not a floating-point constant"),
        (conv("c = Neg(w) y = Conv(x, c)"), "'c' is not a floating-point constant"),
        (conv("c = Neg(b) y = Conv(x, w, c)"), "'c' is not constant"),
        (conv(more={"v": np.array([1, 1, -1, 1, 1], np.float32)}), "not finite"),
        (conv(rest="z = Div(y, c)", more={"c": np.zeros((5, 1, 1), np.float32)}), "not finite"),
        (conv(rest="z = Add(y, c)", more={"c": normal(1, 5, 9, 1)[:, :, :4]}, opset=17), "not per channel"),
        (
            conv(rest="z = Add(y, c)", more={"c": normal(1, 1, 5, 1, 1)}, outputs="float[M, N, 5, P, Q] z"),
            "per channel",
        ),
        (
            conv(rest="z, p, q = BatchNormalization<training_mode = 1>(y, s, t, m, v)", opset=15),
            "training mode",
        ),
        (
            conv(
                rest="z, p, q, r, u = BatchNormalization(y, s, t, m, v) k = Neg(p)",
                opset=9,
                outputs="float[N, 5, P, Q] z, float[5] k",
            ),
            "output 'p' is used",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


def test_position_wise_statistics_of_old_opsets() -> None:
    proto = conv(opset=8)
    proto.graph.node[1].attribute.append(onnx.helper.make_attribute("spatial", 0))
    assert_declines(RULE, proto, "spatial = 0")


def test_overflow_of_half_precision() -> None:
    text = "g (float16[N, 3, 9, 7] x) => (float16[N, 5, P, Q] q) { y = Conv(x, w) q = Mul(y, c) }"
    weights = {"w": np.full((5, 3, 3, 3), 300, np.float16), "c": np.full(1, 300, np.float16)}
    assert_declines(RULE, model_of(text, weights), "not finite")


def test_residual_addition_is_no_near_miss() -> None:
    proto = conv("y = Conv<pads = [1, 1, 1, 1]>(x, w)", "z = Add(y, y)")
    assert said_by(RULE, proto) == []


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    transposed=st.booleans(),
    groups=st.integers(1, 3),
    ins=st.integers(1, 3),
    outs=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_parameters(
    transposed: bool, groups: int, ins: int, outs: int, kernel: tuple[int, int], bias: bool, seed: int
) -> None:
    total, made = groups * ins, groups * outs
    shape = (total, outs, *kernel) if transposed else (made, ins, *kernel)
    op = "ConvTranspose" if transposed else "Conv"
    node = f"y = {op}<group = {groups}, pads = [1, 0, 0, 1]>(x, w{', b' if bias else ''})"
    text = f"g (float[N, {total}, 7, 6] x) => (float[N, {made}, P, Q] r) {{ {node} {NORM} r = Mul(z, c) }}"
    weights = {"w": normal(*shape, seed=seed), "c": normal(made, 1, 1, seed=seed + 2)} | statistics(made, seed)
    if bias:
        weights["b"] = normal(made, seed=seed + 1)
    assert_rewrites(RULE, model_of(text, weights), count=1, contains={"BatchNormalization": 0, "Mul": 0})
