"""matmul_to_gemm: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import assert_affine_equal, assert_declines, assert_exact_on_integers, assert_rewrites, model_of

RULE = "matmul_to_gemm"


def net(
    nodes: str = "p = MatMul (x, w) y = Add (p, b)",
    shape: str = "N, 5, 3, 7",
    bias: tuple[int, ...] = (4,),
    out: str = "float[A, B, C, D] y",
    more: str = "",
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((7, 4)).astype(np.float32), "b": rng.standard_normal(bias).astype(np.float32)}
    weights = {k: v for k, v in weights.items() if f"{k})" in nodes or f"({k}," in nodes}
    return model_of(f"g (float[{shape}] x{more}) => ({out}) {{ {nodes} }}", weights)


SIZES = {"x": (2, 5, 3, 7)}


@pytest.mark.parametrize("nodes", ["p = MatMul (x, w) y = Add (p, b)", "p = MatMul (x, w) y = Add (b, p)"])
@pytest.mark.parametrize("bias", [(4,), (1, 4), (1, 1, 1, 4)])
def test_it_fires(nodes: str, bias: tuple[int, ...]) -> None:
    proto = net(nodes, bias=bias)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"Gemm": 1, "MatMul": 0, "Add": 0})
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


@pytest.mark.parametrize("shape", ["2, 5, 3, 7", "2, H, 3, 7", "2, 5, W, 7"])
def test_one_size_may_be_open(shape: str) -> None:
    assert_rewrites(RULE, net(shape=shape), sizes=SIZES, count=1)


def test_complete_on_impulses() -> None:
    assert_affine_equal(RULE, net(shape="2, 3, 1, 7"))
    assert_affine_equal(RULE, net(shape="2, 3, 7", out="float[A, B, D] y"))


def test_a_shared_matrix_changes_nothing() -> None:
    two = "float[A, B, C, D] y, float[E, F, G, H] z"
    proto = net("p = MatMul (x, w) y = Add (p, b) q = Neg (x) r = MatMul (q, w) z = Add (r, b)", out=two)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"Gemm": 2, "MatMul": 0})


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net(bias=(1,)), "not one number for each column"),
        (net(bias=(3, 4)), "not one number for each column"),
        (net(bias=(1, 1, 1, 1, 4), out="float[A, B, C, D, E] y"), "not one number for each column"),
        (net(shape="N, H, 3, 7"), "more than one size of the rows"),
        (net(out="float[A, B, C, D] y, float[A, B, C, D] p"), "'p' is a graph output"),
        (
            net("p = MatMul (x, w) y = Add (p, b) z = Neg (p)", out="float[A, B, C, D] y, float[A, B, C, D] z"),
            "second consumer (Neg)",
        ),
        (net(shape="N, 7", out="float[A, D] y"), None),
        (net("p = MatMul (x, k) y = Add (p, b)", more=", float[7, 4] k"), None),
        (net("p = MatMul (x, w) y = Add (p, k)", more=", float[4] k"), None),
        (net("p = MatMul (x, w) y = Mul (p, b)"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    rank = len(proto.graph.input[0].type.tensor_type.shape.dim)
    sizes = {"x": (2, 7) if rank == 2 else SIZES["x"]}
    for value in proto.graph.input[1:]:
        sizes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    assert_declines(RULE, proto, reason, sizes=sizes)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    size=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    inner=st.integers(1, 9),
    columns=st.integers(1, 9),
    open_axis=st.integers(0, 3),
    turned=st.booleans(),
)
def test_random_parameters(size: list[int], inner: int, columns: int, open_axis: int, turned: bool) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((inner, columns)).astype(np.float32),
        "b": rng.standard_normal(columns).astype(np.float32),
    }
    dims = [str(d) for d in size]
    if open_axis < len(dims):
        dims[open_axis] = "N"
    out = ", ".join("ABCDE"[: len(size) + 1])
    add = "y = Add (b, p)" if turned else "y = Add (p, b)"
    proto = model_of(
        f"g (float[{', '.join(dims)}, {inner}] x) => (float[{out}] y) {{ p = MatMul (x, w) {add} }}", weights
    )
    assert_rewrites(RULE, proto, sizes={"x": (*size, inner)}, count=1)
