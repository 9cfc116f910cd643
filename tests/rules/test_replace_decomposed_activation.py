"""replace_decomposed_activation: every spelling gives the activation, near misses decline."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import known, opsets

from onnxtune.proposal import Decline, Proposal
from onnxtune.testing import assert_declines, assert_exact_on_integers, assert_rewrites, model_of, said_by

RULE = "replace_decomposed_activation"
NUMBERS: dict[str, float] = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "half": 0.5, "sixth": 1 / 6, "fifth": 0.2,
    "root": 2**0.5, "inverse": 0.5**0.5, "cubic": 0.044715, "outer": (2 / np.pi) ** 0.5,
}  # fmt: skip


def spelled(
    body: str,
    *,
    opset: int = 17,
    shape: str = "N, 3, 5, 7",
    kind: str = "float",
    out: str = "",
    y: str = "",
    **more: Any,
) -> onnx.ModelProto:
    """A model whose body makes y from x with the NUMBERS that it names."""
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    used = {k: v for k, v in {**NUMBERS, **more}.items() if k in body.replace(",", " ").replace(")", " ").split()}
    used |= {k: v for k, v in {**NUMBERS, **more}.items() if f"({k}" in body}
    weights = {k: np.asarray(v, dtype) for k, v in used.items()}
    return model_of(f"g ({kind}[{shape}] x) => ({kind}[{y or shape}] y{out}) {{ {body} }}", weights, opset=opset)


HARD_SWISH = [
    "s = Add (x, three) t = Clip (s, zero, six) u = Mul (x, t) y = Div (u, six)",
    "s = Add (three, x) t = Clip (s, zero, six) u = Mul (t, sixth) y = Mul (u, x)",
    "s = Add (x, three) t = Clip (s, zero, six) u = Div (t, six) y = Mul (x, u)",
    "s = Add (x, three) r = Relu (s) t = Min (r, six) u = Div (t, six) y = Mul (x, u)",
    "s = Add (x, three) r = Max (s, zero) t = Min (six, r) u = Mul (x, sixth) y = Mul (t, u)",
    "h = HardSigmoid <alpha = 0.16666667> (x) y = Mul (x, h)",
    "s = Mul (x, sixth) t = Add (s, half) u = Clip (t, zero, one) y = Mul (u, x)",
]


@pytest.mark.parametrize("body", HARD_SWISH)
def test_hard_swish(body: str) -> None:
    assert_rewrites(RULE, spelled(body), count=1, contains={"HardSwish": 1, "Mul": 0, "Clip": 0})


@pytest.mark.parametrize("body", HARD_SWISH[:-2])
def test_hard_swish_before_its_opset(body: str) -> None:
    assert_rewrites(RULE, spelled(body, opset=13), count=1, contains={"HardSigmoid": 1, "Mul": 1, "Add": 0})


def test_clip_with_attributes() -> None:
    body = "s = Add (x, three) t = Clip <min = 0.0, max = 6.0> (s) u = Mul (x, t) y = Div (u, six)"
    assert_rewrites(RULE, spelled(body, opset=9), count=1, contains={"HardSigmoid": 1, "Clip": 0})


@pytest.mark.parametrize(
    "body",
    [
        "s = Add (x, three) t = Clip (s, zero, six) y = Div (t, six)",
        "s = Add (x, three) t = Clip (s, zero, six) y = Mul (t, sixth)",
        "s = Mul (x, fifth) t = Add (s, half) y = Clip (t, zero, one)",
        "s = Mul (x, fifth) t = Add (s, half) u = Relu (t) y = Min (u, one)",
    ],
)
def test_hard_sigmoid(body: str) -> None:
    assert_rewrites(RULE, spelled(body), count=1, contains={"HardSigmoid": 1, "Clip": 0, "Add": 0})


def test_other_slopes_stay_what_they_are() -> None:
    body = "s = Mul (x, fifth) t = Add (s, half) u = Clip (t, zero, one) y = Mul (x, u)"
    assert_rewrites(RULE, spelled(body), count=1, contains={"HardSigmoid": 1, "HardSwish": 0})


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("body", ["r = Relu (x) y = Min (r, six)", "r = Max (x, zero) y = Min (six, r)"])
def test_limits(body: str, opset: int) -> None:
    (after,) = assert_rewrites(RULE, spelled(body, opset=opset), count=1, contains={"Clip": 1, "Min": 0})
    assert len(after.graph.node) == 1
    assert_exact_on_integers(RULE, spelled(body, opset=opset))


@pytest.mark.parametrize(
    "body",
    [
        "n = Neg (x) e = Exp (n) d = Add (e, one) y = Div (x, d)",
        "n = Neg (x) e = Exp (n) d = Add (e, one) s = Reciprocal (d) y = Mul (x, s)",
        "h = Mul (x, half) t = Tanh (h) a = Add (t, one) b = Mul (a, half) y = Mul (x, b)",
    ],
)
def test_silu(body: str) -> None:
    assert_rewrites(RULE, spelled(body), count=1, contains={"Sigmoid": 1, "Mul": 1, "Exp": 0, "Tanh": 0})


def test_silu_as_swish_where_it_exists() -> None:
    """Not run: ONNX Runtime's CPU provider may lack the operator's opset."""
    body = "n = Neg (x) e = Exp (n) d = Add (e, one) y = Div (x, d)"
    found = [s for s in said_by(RULE, spelled(body, opset=24)) if isinstance(s, Proposal)]
    assert [[n.op_type for n in s.fragment.nodes] for s in found] == [["Sigmoid", "Mul"], ["Swish"]]


@pytest.mark.parametrize("opset", opsets(17, 24))
def test_what_has_the_best_known_form_is_left_alone(opset: int) -> None:
    assert_declines(RULE, spelled("s = Sigmoid (x) y = Mul (x, s)", opset=opset), None)
    (after, *_) = assert_rewrites(RULE, spelled("s = Softplus (x) t = Tanh (s) y = Mul (x, t)", opset=opset))
    assert_declines(RULE, after, None)


def test_sigmoid() -> None:
    body = "n = Neg (x) e = Exp (n) d = Add (e, one) y = Div (one, d)"
    assert_rewrites(RULE, spelled(body), count=1, contains={"Sigmoid": 1, "Exp": 0})


@pytest.mark.parametrize("opset", [17, 18])
def test_mish(opset: int) -> None:
    body = "s = Softplus (x) t = Tanh (s) y = Mul (x, t)"
    results = assert_rewrites(RULE, spelled(body, opset=opset), count=2 if opset == 18 else 1)
    assert [n.op_type for n in results[0].graph.node] == ["Min", "Exp", "Add", "Mul", "Add", "Div", "Mul"]


def test_mish_operator_and_log_spelling() -> None:
    assert_rewrites(RULE, spelled("y = Mish (x)", opset=18), count=1, contains={"Exp": 1})
    body = "e = Exp (x) a = Add (one, e) s = Log (a) t = Tanh (s) y = Mul (t, x)"
    assert_rewrites(RULE, spelled(body), count=1, contains={"Log": 0})


ERF = "d = Div (x, root) e = Erf (d) f = Add (e, one) m = Mul (x, f) y = Mul (m, half)"
TANH = """p = Pow (x, three) q = Mul (p, cubic) r = Add (x, q) s = Mul (r, outer) t = Tanh (s)
          u = Add (t, one) v = Mul (x, half) y = Mul (v, u)"""


@pytest.mark.parametrize(
    "body", [ERF, "d = Mul (x, inverse) e = Erf (d) h = Mul (e, half) g = Add (h, half) y = Mul (g, x)"]
)
def test_gelu(body: str) -> None:
    assert_rewrites(RULE, spelled(body, opset=20), count=1, contains={"Gelu": 1, "Erf": 0})


def test_gelu_before_its_opset() -> None:
    odd = "d = Mul (x, inverse) e = Erf (d) h = Mul (e, half) g = Add (h, half) y = Mul (g, x)"
    assert_rewrites(RULE, spelled(odd), count=1, contains={"Div": 1, "Erf": 1})
    assert_declines(RULE, spelled(ERF), None)


@pytest.mark.parametrize("opset", [17, 20])
def test_gelu_with_tanh(opset: int) -> None:
    results = assert_rewrites(RULE, spelled(TANH, opset=opset), count=2 if opset == 20 else 1)
    assert all(n.op_type != "Tanh" for r in results for n in r.graph.node)


@pytest.mark.parametrize("body", [HARD_SWISH[0], HARD_SWISH[3], "s = Softplus (x) t = Tanh (s) y = Mul (x, t)", TANH])
def test_half_precision(body: str) -> None:
    assert_rewrites(RULE, spelled(body, kind="float16"), count=1)


@pytest.mark.parametrize("shape", ["5", "N, 8", "N, 3, 4, 5, 6", "N, C, H, W"])
def test_any_shape(shape: str) -> None:
    assert_rewrites(RULE, spelled(HARD_SWISH[0], shape=shape), count=1)


def test_the_source_may_have_other_readers() -> None:
    body = f"{HARD_SWISH[0].replace('y =', 'h =')} n = Neg (x) y = Sub (h, n)"
    assert_rewrites(RULE, spelled(body), count=1, contains={"HardSwish": 1})


def test_the_largest_region_is_taken() -> None:
    """Div alone, with Clip and Add, would be a HardSigmoid."""
    (only,) = said_by(RULE, spelled(HARD_SWISH[2]))
    assert isinstance(only, Proposal)
    assert only.title.startswith("hard_swish")


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (spelled(HARD_SWISH[0], out=", float[A, B, C, D] u"), "'u' is a graph output"),
        (spelled(HARD_SWISH[0].replace("y =", "z =") + " w = Neg (u) y = Add (z, w)"), "'u' has a second consumer"),
        (spelled(HARD_SWISH[0], kind="double"), None),
        (spelled(HARD_SWISH[0].replace("zero, six", "zero, three")), None),
        (spelled("s = Add (x, three) t = Clip (s, zero, six) y = Mul (x, t)", three=np.full((3, 1, 1), 3)), None),
        (spelled("s = Softplus (x) t = Tanh (s) y = Add (x, t)"), None),
        (spelled("y = Mul (x, x)"), None),
        (spelled(ERF.replace("root", "two"), opset=20), None),
        (spelled("r = Relu (x) m = Max (r, far) y = Neg (m)", far=-1000), None),
        (spelled(HARD_SWISH[0], shape="3", y="1, 3", six=np.full((1, 1), 6)), None),
        (spelled(HARD_SWISH[4], shape="1, 5, 7", y="4, 5, 7", six=np.full((4, 1, 1), 6)), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)
    assert not [s for s in said_by(RULE, proto) if isinstance(s, Decline) and "the rule failed" in s.reason]


def test_declines_constants_that_are_fed() -> None:
    text = f"g (float[N, 8] x, float three) => (float[N, 8] y) {{ {HARD_SWISH[0]} }}"
    weights = {"zero": np.float32(0), "six": np.float32(6)}
    assert_declines(RULE, model_of(text, weights), None)


def test_distant_limits_are_kept() -> None:
    (after,) = assert_rewrites(RULE, spelled("r = Max (x, far) y = Min (r, six)", far=-5000), count=1)
    assert -5000 in {float(onnx.numpy_helper.to_array(i)) for i in after.graph.initializer}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    alpha=st.floats(0.0625, 1.0, width=32),
    beta=st.floats(0.125, 0.875, width=32),
    swish=st.booleans(),
    opset=st.sampled_from([v for v in (11, 13, 14, 22) if known(v)]),
)
def test_random_constants(alpha: float, beta: float, swish: bool, opset: int) -> None:
    end = "u = Clip (t, zero, one) y = Mul (u, x)" if swish else "y = Clip (t, zero, one)"
    proto = spelled(f"s = Mul (x, alpha) t = Add (s, beta) {end}", opset=opset, alpha=alpha, beta=beta)
    assert_rewrites(RULE, proto, count=1, contains={"Clip": 0, "Add": 0})
