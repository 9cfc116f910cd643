"""merge_linear_layers: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.testing import assert_declines, assert_rewrites, model_of, said_by

RULE = "merge_linear_layers"
J0, J1, J2 = 9, 7, 3


def random(*shape: int, dtype: type = np.float32) -> NDArray[np.floating]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def model(
    body: str, x: str = f"N, {J0}", y: str = "N, J", opset: int = 17, kind: str = "float", **more: object
) -> onnx.ModelProto:
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    weights = {"v": random(J1, J0), "a": random(J1), "w": random(J2, J1), "b": random(J2)}
    weights = {k: np.asarray(v).astype(dtype) for k, v in {**weights, **more}.items() if k in body}
    return model_of(f"g ({kind}[{x}] x) => ({kind}[{y}] y) {{ {body} }}", weights, opset=opset)


FIRST, SECOND = "t = Gemm <transB = 1> (x, v, a)", "y = Gemm <transB = 1> (t, w, b)"


@pytest.mark.parametrize("first", [FIRST, "t = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, v, a)"])
@pytest.mark.parametrize("second", [SECOND, "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (t, w, b)"])
def test_gemm_after_gemm(first: str, second: str) -> None:
    assert_rewrites(RULE, model(f"{first} {second}"), count=1, contains={"Gemm": 1})


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize(
    "first", ["t = MatMul (x, v)", "m = MatMul (x, v) t = Add (m, a)", "m = MatMul (x, v) t = Add (a, m)"]
)
@pytest.mark.parametrize("second", ["y = MatMul (t, w)", "k = MatMul (t, w) y = Add (k, b)"])
def test_products_with_and_without_bias(first: str, second: str, opset: int) -> None:
    proto = model(f"{first} {second}", opset=opset, v=random(J0, J1), w=random(J1, J2))
    assert_rewrites(RULE, proto, count=1, contains={"Gemm": 1, "MatMul": 0, "Add": 0})


def test_details_count_the_parameters() -> None:
    (proposal,) = said_by(RULE, model(f"{FIRST} {SECOND}"))
    assert proposal.details == {"parameters_before": 84, "parameters_after": 27}
    assert "9 -> 7 -> 3" in proposal.title


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_precisions(kind: str) -> None:
    assert_rewrites(RULE, model(f"{FIRST} {SECOND}", kind=kind), count=1)


def test_three_layers_give_two_choices() -> None:
    body = f"{FIRST} u = Gemm <transB = 1> (t, w, b) y = Gemm (u, z)"
    assert_rewrites(RULE, model(body, z=random(J2, J2)), count=2)


def test_shared_weight_stays_for_its_other_reader() -> None:
    other = "n = Neg (x) s = Gemm <transB = 1> (n, v, a) p = Relu (s) k = Gemm <transB = 1> (p, w, b)"
    body = f"{FIRST} u = Gemm <transB = 1> (t, w, b) {other} y = Sub (u, k)"
    assert_rewrites(RULE, model(body), count=1, contains={"Gemm": 3})


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model(f"{FIRST} r = Relu (t) y = Gemm <transB = 1> (r, w, b)"), None),
        (model(f"{FIRST} {SECOND}", v=random(2, J0), a=random(2), w=random(8, 2), b=random(8)), "more products"),
        (
            model(f"{FIRST} u = Gemm <transB = 1> (t, w, b) s = ReduceMax <keepdims = 0> (t) y = Add (u, s)"),
            "second consumer",
        ),
        (
            model(
                "m = MatMul (x, v) t = Add (m, a) y = MatMul (t, w)",
                "2, 5, 9",
                "2, 5, 3",
                v=random(9, 7),
                w=random(7, 3),
            ),
            None,
        ),
        (model("t = Gemm <transB = 1> (x, v, a) y = Gemm (t, w)", "3, 9", a=random(3, 7), w=random(7, 2)), None),
        (model(f"{FIRST} y = Gemm <transA = 1> (t, w)", "3, 9", w=random(3, 7)), None),
        (model("t = Gemm <transB = 1> (x, v, a) y = MatMul (w, t)", "3, 9", w=random(2, 3)), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)


def test_declines_graph_outputs() -> None:
    weights = {"v": random(J1, J0), "a": random(J1), "w": random(J2, J1), "b": random(J2)}
    text = f"g (float[N, 9] x) => (float[N, 3] y, float[N, 7] t) {{ {FIRST} {SECOND} }}"
    assert_declines(RULE, model_of(text, weights), "graph output")


def test_declines_products_that_overflow() -> None:
    proto = model(f"{FIRST} {SECOND}", kind="float16", v=np.full((J1, J0), 300), w=np.full((J2, J1), 300))
    assert_declines(RULE, proto, "overflows float16")


@settings(max_examples=10, deadline=None, derandomize=True)
@given(j0=st.integers(1, 12), j1=st.integers(1, 12), j2=st.integers(1, 12), bias=st.booleans())
def test_random_sizes(j0: int, j1: int, j2: int, bias: bool) -> None:
    first = "t = Gemm <transB = 1> (x, v, a)" if bias else "t = Gemm <transB = 1> (x, v)"
    body = f"{first} {SECOND}"
    proto = model(body, f"N, {j0}", v=random(j1, j0), a=random(j1), w=random(j2, j1), b=random(j2))
    if j2 * j0 > j1 * (j0 + j2):
        assert_declines(RULE, proto, "more products")
    else:
        assert_rewrites(RULE, proto, count=1)
