"""fuse_prelu: every spelling with one slope or one per channel, exact on integers, near misses decline."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.proposal import Decline
from onnxtune.testing import assert_declines, assert_exact_on_integers, assert_rewrites, model_of, said_by

RULE = "fuse_prelu"
SLOPES = np.array([0.25, 0.5, 0.75])[:, None, None]
SPELLINGS = [
    "p = Relu (x) n = Neg (x) q = Relu (n) m = Mul (q, a) y = Sub (p, m)",
    "p = Relu (x) n = Neg (x) q = Relu (n) k = Neg (q) m = Mul (a, k) y = Add (m, p)",
    "p = Relu (x) n = Neg (x) q = Relu (n) m = Mul (q, b) y = Add (p, m)",
    "p = Max (x, zero) n = Min (zero, x) m = Mul (n, a) y = Add (p, m)",
    "p = Clip (x, zero) n = Clip (x, , zero) m = Mul (n, a) y = Add (p, m)",
    "v = Abs (x) s = Add (x, v) p = Mul (s, half) d = Sub (x, v) e = Mul (d, a) n = Mul (e, half) y = Add (p, n)",
    "v = Abs (x) s = Add (x, v) p = Div (s, two) d = Sub (x, v) e = Mul (a, d) n = Div (e, two) y = Add (n, p)",
    "p = Relu (x) d = Sub (x, p) m = Mul (d, a) y = Add (p, m)",
    "m = Mul (x, a) y = Max (x, m)",
]


def spelled(
    body: str, slopes: Any = 0.25, *, opset: int = 17, shape: str = "N, 3, 5, 7", kind: str = "float", out: str = ""
) -> onnx.ModelProto:
    """A model whose body makes y from x with slopes a (b = -a)."""
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    values: dict[str, Any] = {"zero": 0, "half": 0.5, "two": 2, "a": slopes, "b": -np.asarray(slopes)}
    weights = {k: np.asarray(v, dtype) for k, v in values.items() if f"({k}," in body or f" {k})" in body}
    return model_of(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y{out}) {{ {body} }}", weights, opset=opset)


@pytest.mark.parametrize("body", SPELLINGS)
def test_one_slope_is_leaky(body: str) -> None:
    (after,) = assert_rewrites(RULE, spelled(body), count=1, contains={"LeakyRelu": 1})
    assert len(after.graph.node) == 1
    assert_exact_on_integers(RULE, spelled(body))


@pytest.mark.parametrize("body", SPELLINGS[:-1])
def test_a_slope_per_channel(body: str) -> None:
    assert_rewrites(RULE, spelled(body, SLOPES), count=3)
    assert_exact_on_integers(RULE, spelled(body, SLOPES))


def test_operator_with_one_slope() -> None:
    for slopes in (0.25, np.full((3, 1, 1), 0.25), np.full(1, -2.0)):
        assert_rewrites(RULE, spelled("y = PRelu (x, a)", slopes), count=1, contains={"LeakyRelu": 1})


@pytest.mark.parametrize("opset", [7, 9, 17])
def test_operator_with_a_slope_per_channel(opset: int) -> None:
    results = assert_rewrites(RULE, spelled("y = PRelu (x, a)", SLOPES, opset=opset), count=2)
    assert {n.op_type for r in results for n in r.graph.node} == {"Max", "Mul", "Relu", "Conv", "Add"}


@pytest.mark.parametrize("body", ["v = Abs (x) s = Add (x, v) y = Mul (s, half)", "y = Max (x, zero)"])
def test_slope_zero_is_relu(body: str) -> None:
    assert_rewrites(RULE, spelled(body), count=1, contains={"Relu": 1, "Abs": 0, "Max": 0})


def test_what_has_the_best_known_form_is_left_alone() -> None:
    assert_declines(RULE, spelled("m = Mul (x, a) y = Max (x, m)", SLOPES), None)


@pytest.mark.parametrize(
    ("slopes", "forms"),
    [
        ([1.5, 2.0, 1.0], {"Min", "Mul"}),
        ([-0.5, 0.5, -3.0], {"Max", "Mul"}),
        ([0.0, 0.5, 1.0], {"Relu", "Conv", "Add"}),
        ([0.5, 2.0, 1.0], set()),
    ],
)
def test_which_forms_are_right_for_the_slopes(slopes: list[float], forms: set[str]) -> None:
    proto = spelled("y = PRelu (x, a)", np.array(slopes)[:, None, None])
    if not forms:
        assert_declines(RULE, proto, None)
        return
    assert {n.op_type for r in assert_rewrites(RULE, proto) for n in r.graph.node} == forms


@pytest.mark.parametrize("shape", ["N, 3, H, W", "N, 3, 5", "2, 3, 4, 5, 6"])
def test_other_shapes(shape: str) -> None:
    axes = shape.count(",") - 1
    slopes = SLOPES.reshape(-1, *[1] * axes)
    sizes = {"x": (1, 3, 6, 5)} if "H" in shape else None
    assert_rewrites(RULE, spelled(SPELLINGS[0], slopes, shape=shape), sizes=sizes)


@pytest.mark.parametrize("slopes", [0.25, SLOPES])
def test_half_precision(slopes: Any) -> None:
    assert_rewrites(RULE, spelled(SPELLINGS[0], slopes, kind="float16"))


def test_opset_nine() -> None:
    body = "p = Clip <min = 0.0> (x) n = Clip <max = 0.0> (x) m = Mul (n, a) y = Add (p, m)"
    assert_rewrites(RULE, spelled(body, opset=9), count=1, contains={"LeakyRelu": 1})


OUT = ", float[A, B, C, D] m"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (spelled(SPELLINGS[0], out=OUT), "'m' is a graph output"),
        (spelled(SPELLINGS[0].replace("y =", "z =") + " y = Div (z, m)"), "'m' has a second consumer"),
        (spelled(SPELLINGS[0], kind="double"), None),
        (spelled(SPELLINGS[0].replace("Sub (p, m)", "Sub (m, p)")), None),
        (spelled("p = Relu (x) m = Mul (p, a) y = Add (x, m)"), None),
        (spelled("p = Relu (x) n = Neg (x) q = Relu (n) y = Add (p, q)"), None),
        (spelled("p = Relu (x) n = Neg (x) q = Relu (n) y = Sub (p, q)"), None),
        (spelled(SPELLINGS[0], SLOPES, shape="N, C, H, W"), None),
        (spelled("y = LeakyRelu <alpha = 0.1> (x)"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)
    assert not [s for s in said_by(RULE, proto) if isinstance(s, Decline) and "the rule failed" in s.reason]


@pytest.mark.parametrize("body", ["y = PRelu (x, a)", SPELLINGS[0]])
def test_declines_slopes_that_are_fed(body: str) -> None:
    text = f"g (float[N, 3, 5, 7] x, float[3, 1, 1] a) => (float[N, 3, 5, 7] y) {{ {body} }}"
    assert_declines(RULE, model_of(text), None)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    slopes=st.lists(st.floats(-2, 2, width=32).filter(lambda v: abs(v) > 0.01 and abs(v) != 1), min_size=3, max_size=3),
    body=st.sampled_from(SPELLINGS[:-1]),
    same=st.booleans(),
)
def test_random_slopes(slopes: list[float], body: str, same: bool) -> None:
    values = slopes[0] if same else np.array(slopes)[:, None, None]
    assert_rewrites(RULE, spelled(body, values))
