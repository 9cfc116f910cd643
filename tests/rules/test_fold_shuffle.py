"""fold_shuffle: into the layer after, into the layer before, through what lies between; exact on integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.proposal import Decline, Proposal
from onnxtune.testing import (
    assert_affine_equal,
    assert_declines,
    assert_exact_on_integers,
    assert_rewrites,
    model_of,
    said_by,
)

RULE = "fold_shuffle"


def split(x: str = "x", y: str = "s") -> str:
    return f"p1 = Reshape ({x}, split) p2 = Transpose <perm = [0, 2, 1, 3, 4]> (p1) {y} = Reshape (p2, join)"


def gather(x: str = "x", y: str = "s") -> str:
    return f"{y} = Gather <axis = 1> ({x}, index)"


SPLIT, GATHER = split(), gather()


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


STORED: dict[str, Any] = {
    "split": np.array([0, 3, 4, 5, 7]),
    "join": np.array([0, -1, 5, 7]),
    "index": np.random.default_rng(1).permutation(12),
    "w": random(8, 12, 3, 3),
    "v": random(12, 5, 1, 1),
    "u": random(12, 8, 2, 2),
    "d": random(12, 1, 3, 3),
    "e": random(12),
    "h": random(9, 2, 1, 1),
    "k": random(12, 2, 1, 1),
    "c": random(12, 1, 1),
    "one": random(1),
    "scale": random(12),
    "var": np.abs(random(12)) + 1,
    "g": random(6, 12 * 35),
    "gp": random(6, 12),
}


def model(
    body: str,
    *,
    x: str = "N, 12, 5, 7",
    y: str = "A, B, C, D",
    kind: str = "float",
    opset: int = 17,
    more: str = "",
    **other: Any,
) -> onnx.ModelProto:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    dtype = np.float16 if kind == "float16" else np.float32
    stored = {k: v for k, v in {**STORED, **other}.items() if k in words}
    weights = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in stored.items()}
    return model_of(f"g ({kind}[{x}] x) => ({kind}[{y}] y{more}) {{ {body} }}", weights, opset=opset)


def sides(proto: onnx.ModelProto) -> list[str]:
    return [s.settings["side"] for s in said_by(RULE, proto) if isinstance(s, Proposal)]


AFTER = [
    "y = Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (s, w)",
    "y = ConvTranspose <strides = [2, 2]> (s, u)",
    "r = Relu (s) y = Conv (r, w)",
    "a = MaxPool <kernel_shape = [2, 2]> (s) y = Conv (a, w)",
    "a = Conv <group = 12, pads = [1, 1, 1, 1]> (s, d, e) y = Conv (a, w)",
    "a = BatchNormalization (s, e, scale, e, var) y = Conv (a, w)",
    "a = PRelu (s, c) b = Mul (c, a) b2 = Sub (b, one) y = Conv (b2, w)",
    'a = Relu (s) b = Conv (a, w) k2 = Conv <auto_pad = "VALID"> (s, w) y = Add (b, k2)',
]


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("shuffle", [SPLIT, GATHER])
def test_after(shuffle: str, after: str) -> None:
    proto = model(f"{shuffle} {after}")
    assert sides(proto) == ["after"]
    assert_rewrites(RULE, proto, count=1, contains={"Transpose": 0, "Gather": 0, "Reshape": 0})


@pytest.mark.parametrize("after", [a for a in AFTER if "PRelu" not in a])
def test_after_exact_on_integers(after: str) -> None:
    assert_exact_on_integers(RULE, model(f"{GATHER} {after}"))


def test_after_flatten() -> None:
    proto = model(f"{SPLIT} f = Flatten (s) y = Gemm <transB = 1> (f, g)", y="A, B")
    assert_rewrites(RULE, proto, count=1, contains={"Transpose": 0})
    assert_exact_on_integers(RULE, proto)
    pooled = model(f"{GATHER} q = GlobalAveragePool (s) f = Flatten (q) y = Gemm <transB = 1> (f, gp)", y="A, B")
    assert_rewrites(RULE, pooled, count=1, contains={"Gather": 0})


BETWEEN = [
    "",
    "m = Relu (t)",
    "a = Conv <group = 12, pads = [1, 1, 1, 1]> (t, d, e) m = Clip (a)",
    "a = BatchNormalization (t, e, scale, e, var) m = Add (a, c)",
]


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("shuffle", [split, gather])
def test_before(shuffle: Callable[[str, str], str], between: str) -> None:
    proto = model(f"t = Conv (x, v, e) {between} {shuffle('m' if between else 't', 'y')}", x="N, 5, 5, 7")
    assert sides(proto) == ["before"]
    assert_rewrites(RULE, proto, count=1, contains={"Transpose": 0, "Gather": 0})
    assert_exact_on_integers(RULE, proto)


def test_both_sides() -> None:
    body = f"t = Conv (x, v, e) {gather('t')} r = Relu (s) y = Conv (r, w)"
    proto = model(body, x="1, 5, 9, 11")
    assert sides(proto) == ["after", "before"]
    assert_affine_equal(RULE, model(body.replace("r = Relu (s) y = Conv (r", "y = Conv (s"), x="1, 5, 9, 11"))
    assert_rewrites(RULE, proto, count=2)


def test_grouped_layers_become_dense_within_the_limit() -> None:
    body = f"{GATHER} y = Conv <group = 3> (s, h)"
    proto = model(body, h=random(9, 4, 1, 1))
    (after,) = assert_rewrites(RULE, proto, settings={"growth": 3}, count=1)
    assert {tuple(i.dims) for i in after.graph.initializer} == {(9, 12, 1, 1)}
    assert_exact_on_integers(RULE, proto, settings={"growth": 3})
    assert_declines(RULE, proto, "3 groups would become a dense layer")
    assert_declines(RULE, model(f"{GATHER} y = Conv <group = 6> (s, k)"), "6 groups would become a dense layer")


def test_grouped_layers_stay_grouped_where_the_order_allows_it() -> None:
    index = np.array([1, 0, 3, 2, 5, 4, 6, 7, 9, 8, 10, 11])
    (after,) = assert_rewrites(RULE, model(f"{GATHER} y = Conv <group = 6> (s, k)", index=index), count=1)
    assert {tuple(i.dims) for i in after.graph.initializer} == {(12, 2, 1, 1)}


def test_grouped_layer_before() -> None:
    body = f"t = Conv <group = 2> (x, v, e) {gather('t', 'y')}"
    proto = model(body, x="N, 10, 5, 7")
    assert_rewrites(RULE, proto, count=1, contains={"Conv": 1, "Gather": 0})
    assert_exact_on_integers(RULE, proto)


@pytest.mark.parametrize(
    ("split", "join", "batch"),
    [
        ([-1, 3, 4, 5, 7], [-1, 12, 5, 7], "N"),
        ([0, 3, -1, 5, 7], [0, 12, 5, 7], "N"),
        ([2, -1, 4, 5, 7], [2, 12, 5, 7], "2"),
        ([2, 3, 4, 5, 7], [2, 12, 5, 7], "2"),
        ([0, 3, 4, -1, 7], [0, 12, 5, -1], "N"),
        ([2, 3, 4, 5, 7], [2, -1, 5, 7], "2"),
    ],
)
def test_spellings_of_the_shapes(split: list[int], join: list[int], batch: str) -> None:
    proto = model(f"{SPLIT} y = Conv (s, w)", x=f"{batch}, 12, 5, 7", split=np.array(split), join=np.array(join))
    assert_rewrites(RULE, proto, count=1, contains={"Transpose": 0})


def test_gather_with_a_dynamic_map_and_negative_indices() -> None:
    proto = model(f"{GATHER.replace('1>', '-3>')} y = Conv (s, w)", x="N, 12, H, W", index=STORED["index"] - 12)
    assert_rewrites(RULE, proto, sizes={"x": (1, 12, 6, 5)}, count=1)


def test_half_precision() -> None:
    assert_rewrites(RULE, model(f"{SPLIT} r = Relu (s) y = Conv (r, w)", kind="float16"), count=1)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model(f"{GATHER} y = Relu (s)"), "'y' is a graph output"),
        (model(f"{GATHER} y = Conv (s, w)", more=", float[E, F, G, H] s"), "'s' is a graph output"),
        (model(f"{SPLIT} y = Conv (s, w)", more=", float[E, F, G, H, I] p2"), "'p2' is a graph output"),
        (model(f"{GATHER} a, b = Split <axis = 1, num_outputs = 2> (s) y = Add (a, b)", opset=18), "several outputs"),
        (model(f"{GATHER} a = Add (s, x) y = Conv (a, w)"), "read by Add"),
        (model(f"{GATHER} a = Softmax <axis = 1> (s) y = Conv (a, w)"), "read by Softmax"),
        (model(f"{GATHER} y = Conv (s, w)", index=np.arange(12) // 2, w=random(8, 12, 1, 1)), "not a permutation"),
        (model(f"{GATHER} f = Flatten (s) y = Relu (f)", x="N, 12, H, W", y="A, B"), "not declared"),
        (model(f"{SPLIT} y = Conv (s, w)", split=np.array([0, 4, 3, 7, 5]), join=np.array([0, 12, 7, 5])), None),
        (model(f"{SPLIT.replace('2, 1, 3, 4', '2, 1, 4, 3')} y = Conv (s, w)"), None),
        (model("s = Gather <axis = 2> (x, index) y = Relu (s)"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)
    assert not [s for s in said_by(RULE, proto) if isinstance(s, Decline) and "the rule failed" in s.reason]


def test_declines_what_is_fed() -> None:
    body = f"{GATHER} y = Conv (s, w)"
    given = "g (float[N, 12, 5, 7] x, {}) => (float[A, B, C, D] y) {{ {} }}"
    indices = model_of(given.format("int64[12] index", body), {"w": STORED["w"]})
    assert_declines(RULE, indices, "'index' are not constant")
    weights = model_of(given.format("float[8, 12, 3, 3] w", body), {"index": STORED["index"]})
    assert_declines(RULE, weights, "weights of the Conv are not constant")


def test_shape_that_is_computed() -> None:
    body = f"{SPLIT} y = Conv (s, w)"
    text = f"g (float[N, 12, 5, 7] x, int64[5] split) => (float[A, B, C, D] y) {{ {body} }}"
    assert_declines(RULE, model_of(text, {"join": STORED["join"], "w": STORED["w"]}), "computed, not constant")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(order=st.permutations(range(12)), after=st.sampled_from(AFTER), before=st.booleans())
def test_random_orders(order: list[int], after: str, before: bool) -> None:
    body = f"t = Conv (x, v, e) {gather('t')} {after}" if before else f"{GATHER} {after}"
    proto = model(body, x="N, 5, 5, 7" if before else "N, 12, 5, 7", index=np.array(order))
    assert_rewrites(RULE, proto, count=1 + before)


def test_channels_that_a_concat_joins_are_left_to_it() -> None:
    """The layer before makes only some of the channels."""
    body = f"a = Conv (x, v5) b = Concat <axis = 1> (a, x) {gather('b', 'y')}"
    proto = model(body, v5=random(4, 8, 1, 1), x="N, 8, 5, 7")
    assert_declines(RULE, proto, "is made by Concat of other channels")
