"""split_separable: every kind of low rank is found and equal, what is nearly low is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.lowrank import factors, proves_more
from onnxtune.proposal import Decline, Proposal
from onnxtune.testing import assert_affine_equal, assert_declines, assert_rewrites, model_of, said_by

RULE = "split_separable"
Array = NDArray[np.float64]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def kernel(form: str, out: int = 16, into: int = 12, kh: int = 3, kw: int = 5, group: int = 1, rank: int = 2) -> Array:
    """W (out, into / group, kh, kw) in which the form finds this rank (depthwise: 1)."""
    o, i = out // group, into // group
    subscripts, first, second = {
        "depthwise": ("giuv,goi->goiuv", (i, kh, kw), (o, i)),
        "columns": ("giuq,gqov->goiuv", (i, kh, rank), (rank, o, kw)),
        "rows": ("givq,gqou->goiuv", (i, kw, rank), (rank, o, kh)),
        "output": ("giuvq,gqo->goiuv", (i, kh, kw, rank), (rank, o)),
        "input": ("giq,gqouv->goiuv", (i, rank), (rank, o, kh, kw)),
    }[form]
    return np.einsum(subscripts, random(group, *first), random(group, *second)).reshape(out, i, kh, kw)


def conv(
    w: Array,
    attributes: str = "",
    *,
    shape: str = "N, 12, 9, 7",
    bias: bool = True,
    kind: str = "float",
    opset: int = 17,
) -> onnx.ModelProto:
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    weights = {"w": (w / 8).astype(dtype)} | ({"b": random(len(w)).astype(dtype)} if bias else {})
    given = f"<{attributes}> " if attributes else ""
    body = f"y = Conv {given}(x, w{', b' if bias else ''})"
    out = ", ".join(["N", "C", *"PQR"[: w.ndim - 2]])
    return model_of(f"g ({kind}[{shape}] x) => ({kind}[{out}] y) {{ {body} }}", weights, opset=opset)


def forms(proto: onnx.ModelProto) -> set[str]:
    return {s.settings["form"] for s in said_by(RULE, proto) if isinstance(s, Proposal)}


FORMS = ["depthwise", "columns", "rows", "output", "input"]
WINDOWS = [
    "",
    "pads = [1, 2, 1, 2]",
    "pads = [0, 3, 2, 1], strides = [2, 1]",
    "pads = [2, 4, 2, 4], dilations = [2, 2]",
    'auto_pad = "SAME_LOWER"',
    'auto_pad = "VALID", strides = [2, 2]',
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, window: str) -> None:
    proto = conv(kernel(form), window)
    assert form in forms(proto)
    assert_rewrites(RULE, proto, contains={"Conv": 2})


@pytest.mark.parametrize("form", FORMS)
def test_complete_affine_proof(form: str) -> None:
    assert_affine_equal(RULE, conv(kernel(form), "pads = [1, 2, 0, 3], strides = [2, 1]", shape="1, 12, 9, 13"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [2, 3])
def test_groups(form: str, group: int) -> None:
    proto = conv(kernel(form, 18, 12, group=group), f"pads = [1, 2, 1, 2], group = {group}", bias=False)
    assert form in forms(proto) or form in ("input", "output")  # ranks of narrow groups may not pay
    if forms(proto):
        assert_rewrites(RULE, proto)


def test_depthwise_blur() -> None:
    w = np.repeat(np.outer([1, 2, 1], [1, 4, 6, 4, 1])[None, None] / 16.0, 12, axis=0) * random(12, 1, 1, 1)
    proto = conv(w, "group = 12, pads = [1, 2, 1, 2]")
    assert forms(proto) == {"columns", "rows"}
    assert_rewrites(RULE, proto, count=2)


def test_several_rank_one_terms_per_channel() -> None:
    two = (
        kernel("depthwise", 40)
        + np.einsum("giuv,goi->goiuv", random(1, 12, 3, 5, seed=1), random(1, 40, 12, seed=1))[0]
    )
    results = assert_rewrites(RULE, conv(two, "pads = [1, 2, 1, 2]"))
    assert [24, 1, 3, 5] in [list(i.dims) for r in results for i in r.graph.initializer]


@pytest.mark.parametrize("shape", ["N, 12, 11", "N, 12, 4, 5, 6"])
def test_other_numbers_of_axes(shape: str) -> None:
    axes = shape.count(",") - 1
    w = np.einsum("oq,qik->oik", random(16, 2), random(2, 12, 3**axes)).reshape(16, 12, *[3] * axes)
    assert_rewrites(RULE, conv(w, f"pads = {[1] * 2 * axes}", shape=shape))


def test_pointwise() -> None:
    proto = conv((random(16, 3) @ random(3, 12))[..., None, None], "strides = [2, 2]")
    assert forms(proto) == {"output"}
    assert_rewrites(RULE, proto, count=1)


def test_dynamic_map() -> None:
    proto = conv(kernel("columns"), "pads = [1, 2, 1, 2]", shape="N, 12, H, W")
    assert_rewrites(RULE, proto, sizes={"x": (1, 12, 9, 7)})


@pytest.mark.parametrize("form", ["depthwise", "output"])
def test_half_precision(form: str) -> None:
    assert_rewrites(RULE, conv(kernel(form, rank=1), kind="float16"))


def linear(body: str, opset: int = 17, rank: int = 3, **more: Any) -> onnx.ModelProto:
    w = (random(20, rank) @ random(rank, 30) / 4).astype(np.float32)
    weights = {"w": w, "v": w.T.copy(), "b": random(20).astype(np.float32), **more}
    used = {k: v for k, v in weights.items() if f" {k}" in body}
    return model_of(f"g (float[N, 30] x) => (float[N, J] y) {{ {body} }}", used, opset=opset)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm <transB = 1> (x, w, b)",
        "m = MatMul (x, v) y = Add (m, b)",
        "y = Gemm <alpha = 0.5, beta = 2.0> (x, v, b)",
    ],
)
def test_linear_layers(body: str, opset: int) -> None:
    assert_rewrites(RULE, linear(body, opset), count=1, contains={"Gemm": 2, "MatMul": 0})


def test_shared_weights_stay() -> None:
    w = (kernel("output") / 8).astype(np.float32)
    body = "a = Conv (x, w) n = Neg (x) b = Conv (n, w) y = Sub (a, b)"
    assert_rewrites(RULE, model_of(f"g (float[N, 12, 9, 7] x) => (float[N, C, H, W] y) {{ {body} }}", {"w": w}))


def nearly(form: str, distance: float) -> Array:
    w = kernel(form)
    noise = random(*w.shape, seed=7)
    return w + noise * distance * np.linalg.norm(w) / np.linalg.norm(noise)


@pytest.mark.parametrize("form", FORMS)
def test_declines_what_is_only_nearly_of_low_rank(form: str) -> None:
    assert_declines(RULE, conv(nearly(form, 1e-6)), None)
    assert form in forms(conv(nearly(form, 1e-8)))


FED = "g (float[N, 12, 9, 7] x, float[16, 12, 3, 5] w) => (float[N, C, H, W] y) { y = Conv (x, w) }"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (conv(kernel("columns"), 'auto_pad = "SAME_UPPER", strides = [2, 2]'), "auto_pad SAME_UPPER with a stride"),
        (model_of(FED), None),
        (conv(random(16, 12, 3, 5)), None),
        (conv(np.zeros((16, 12, 3, 5))), None),
        (conv(kernel("output", rank=14)), None),
        (linear("y = Gemm <transB = 1> (x, w, b)", rank=11), None),
        (linear("y = Gemm <transB = 1> (x, w, b)", w=np.float32(random(20, 30))), None),
        (conv(random(12, 1, 3, 3), "group = 12"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)
    assert not [s for s in said_by(RULE, proto) if isinstance(s, Decline) and "the rule failed" in s.reason]


def test_declines_factors_that_cancel() -> None:
    """One filter a millionth of the others, in their span: its sum of products would be lost in rounding."""
    w = kernel("output")
    w[3] = 1e-6 * (w[3] / np.linalg.norm(w[3])) + 1e-9 * random(*w.shape[1:], seed=3)
    assert_declines(RULE, conv(w), "cancel")


def test_rank_is_found_with_rounding_and_without() -> None:
    exact = random(40, 7) @ random(7, 60)
    for stored, roundoff in ((exact.astype(np.float32), 2.0**-24), (exact.astype(np.float16), 2.0**-11)):
        assert not proves_more(stored, 1, 7, roundoff)
        assert proves_more(stored, 1, 5, roundoff) or roundoff > 1e-4
        found = factors(stored[None], 20, roundoff)
        assert found is not None
        assert found[0].shape == (1, 40, 7)
        assert np.linalg.norm(found[0][0] @ found[1][0] - exact) <= 8 * roundoff * np.linalg.norm(exact)
        assert factors(stored[None], 6, roundoff) is None


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    form=st.sampled_from(FORMS),
    out=st.integers(8, 20),
    into=st.integers(8, 20),
    kh=st.integers(2, 4),
    kw=st.integers(1, 4),
    stride=st.integers(1, 2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_random_layers(form: str, out: int, into: int, kh: int, kw: int, stride: int, pads: list[int]) -> None:
    attributes = f"pads = {pads}, strides = [{stride}, 1]"
    proto = conv(kernel(form, out, into, kh, kw, rank=1), attributes, shape=f"N, {into}, 9, 7")
    assert_rewrites(RULE, proto)
