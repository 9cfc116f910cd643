"""cancel_concat_slice: fires and is equal, declines with a reason, holds on random cuts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import assert_declines, assert_rewrites, model_of

RULE = "cancel_concat_slice"


def sliced(start: int, end: int, axis: int = 2, step: int = 1, more: str = "", out: str = "") -> onnx.ModelProto:
    """c = Concat(a, b, a) along axis 2 with edges 0, 2, 5, 7; y = c[start:end]."""
    weights = {k: np.array([v], np.int64) for k, v in zip("stxpe", (start, end, axis, step, 5), strict=True)}
    return model_of(
        f"""g (float[N, 3, 2] p0, float[N, 3, 3] q0) => (float[A, B, C] y{out}) {{
            a = Relu (p0)  b = Relu (q0)  c = Concat <axis = -1> (a, b, a)
            z = Slice (c, s, t, x, p)  y = Abs (z) {more}
        }}""",
        weights,
    )


@pytest.mark.parametrize(("start", "end"), [(0, 2), (2, 5), (-2, 7), (5, 2**40), (0, 5), (2, 7), (0, -5)])
def test_fires(start: int, end: int) -> None:
    assert_rewrites(RULE, sliced(start, end), count=1, contains={"Slice": 0})


@pytest.mark.parametrize(("more", "out"), [("w = Neg (c)", ", float[D, E, F] w"), ("", ", float[D, E, F] c")])
def test_the_concat_stays_when_others_read_it(more: str, out: str) -> None:
    assert_rewrites(RULE, sliced(2, 5, more=more, out=out), count=1, contains={"Slice": 0, "Concat": 1})


def test_the_slice_is_a_graph_output() -> None:
    assert_rewrites(RULE, sliced(2, 5, out=", float[D, E, F] z"), count=1, contains={"Slice": 0})


def test_slices_of_one_concat_go_together() -> None:
    more = "z2 = Slice (c, t, e, x, p)  w = Neg (z2)"
    proto = sliced(0, 2, more=more, out=", float[D, E, F] w")
    assert_rewrites(RULE, proto, count=1, contains={"Slice": 0, "Concat": 0})


@pytest.mark.parametrize("opset", [9, 17, 21])
def test_split_in_all_its_forms(opset: int) -> None:
    cut, weights = "Split <axis = 1, split = [2, 3]> (c)", {}
    if opset >= 13:
        cut, weights = "Split <axis = 1> (c, k)", {"k": np.array([2, 3], np.int64)}
    text = f"""g (float[N, 2, 4] p, float[N, 3, 4] q) => (float[A, B, C] y, float[D, E, F] z) {{
        a = Relu (p)  b = Relu (q)  c = Concat <axis = 1> (a, b)  u, v = {cut}  y = Abs (u)  z = Neg (v) }}"""
    assert_rewrites(RULE, model_of(text, weights, opset=opset), count=1, contains={"Split": 0, "Concat": 0})


def test_slice_with_attributes() -> None:
    text = """g (float[N, 2] p, float[N, 3] q) => (float[A, B] y) {
        c = Concat <axis = 1> (p, q)  z = Slice <starts = [2], ends = [5], axes = [1]> (c)  y = Abs (z) }"""
    assert_rewrites(RULE, model_of(text, opset=9), count=1, contains={"Slice": 0})


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (sliced(1, 5), "through an operand"),
        (sliced(2, 6), "through an operand"),
        (sliced(2, 2), "through an operand"),
        (sliced(0, 5, step=2), None),
        (sliced(0, 2, axis=1), None),
        (
            model_of(
                """g (float[N, 3, L] a, float[N, 3, 3] b) => (float[A, B, C] y) {
                c = Concat <axis = 2> (a, b)  y = Slice (c, s, t, t) }""",
                {"s": np.array([0], np.int64), "t": np.array([2], np.int64)},
            ),
            "size along the axis is not known",
        ),
        (
            model_of(
                """g (float[N, 2] a, float[N, 3] b, int64[1] s) => (float[A, B] y) {
                c = Concat <axis = 1> (a, b)  y = Slice (c, s, t, x) }""",
                {"t": np.array([5], np.int64), "x": np.array([1], np.int64)},
            ),
            "not constant",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2), st.data())
def test_random_cuts(sizes: list[int], axis: int, data: st.DataObject) -> None:
    total = sum(sizes)
    start, end = data.draw(st.integers(-total, total)), data.draw(st.integers(-total, total + 3))
    names = [f"t{i}" for i in range(len(sizes))]
    dims = [", ".join(str(s if a == axis else 2) for a in range(3)) for s in sizes]
    inputs = ", ".join(f"float[{d}] {n}" for d, n in zip(dims, names, strict=True))
    text = f"""g ({inputs}) => (float[A, B, C] y) {{
        c = Concat <axis = {axis}> ({", ".join(names)})  z = Slice (c, s, e, x)  y = Neg (z) }}"""
    weights = {k: np.array([v], np.int64) for k, v in zip("sex", (start, end, axis), strict=True)}
    edges = {sum(sizes[:i]) for i in range(len(sizes) + 1)}
    first, last = (slice(start, end).indices(total))[:2]
    if first in edges and last in edges and first < last:
        assert_rewrites(RULE, model_of(text, weights))
    else:
        assert_declines(RULE, model_of(text, weights), "through an operand")
