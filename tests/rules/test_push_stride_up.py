"""push_stride_up: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import (
    assert_affine_equal,
    assert_declines,
    assert_exact_on_integers,
    assert_rewrites,
    model_of,
    said_by,
)

RULE = "push_stride_up"
RNG = np.random.default_rng(0)
WEIGHTS: dict[str, Any] = {
    "w": RNG.standard_normal((4, 3, 3, 3)),
    "b": RNG.standard_normal(4),
    "v": RNG.standard_normal((5, 4, 1, 1)),
    "u": RNG.standard_normal((4, 3, 1, 1)),
    "w5": RNG.standard_normal((4, 5, 3, 3)),
    "d": RNG.standard_normal((4, 1, 3, 2)),
    "q": RNG.standard_normal((4, 2, 3, 3)),
    "m": RNG.random(4) + 0.5,
    "p": RNG.random((4, 1, 1)),
    "map": RNG.standard_normal((1, 4, 9, 7)),
    "row": RNG.standard_normal(7),
    "one": RNG.standard_normal((4, 1, 1)),
}


def stride(node: onnx.NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])


def model(
    body: str,
    *,
    shape: str = "N, 3, 9, 7",
    out: str = "float[N, C, P, Q] y",
    opset: int = 17,
    kind: str = "float",
    more: str = "",
) -> onnx.ModelProto:
    """A model of x whose text uses some of WEIGHTS."""
    used = {k: v for k, v in WEIGHTS.items() if k in re.findall(r"\w+", body)}
    dtype = np.float16 if kind == "float16" else np.float32
    weights = {k: v.astype(dtype) for k, v in used.items()}
    return model_of(f"g ({kind}[{shape}] x{more}) => ({out}) {{ {body} }}", weights, opset=opset)


LAST = " y = Conv<strides = [2, 2]>(a, v)"
CONV = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b)"


@pytest.mark.parametrize("shape", ["N, 3, 9, 7", "N, 3, 8, 6", "N, 3, 1, 2", "N, 3, H, W"])
@pytest.mark.parametrize(
    "attributes",
    [
        "group = 1",
        "pads = [1, 1, 1, 1]",
        "pads = [2, 0, 1, 3]",
        "pads = [1, 0, 1, 2], strides = [2, 3]",
        "dilations = [1, 2], pads = [1, 2, 1, 2]",
        'auto_pad = "SAME_UPPER"',
    ],
)
def test_convolution(shape: str, attributes: str) -> None:
    if shape == "N, 3, 1, 2" and "pads = [1" not in attributes:
        return  # too small a map for this kernel
    proto = model(f"a = Conv<{attributes}>(x, w, b)" + LAST, shape=shape)
    sizes = {"x": (1, 3, 9, 8)} if "H" in shape else None
    for after in assert_rewrites(RULE, proto, sizes=sizes, count=1, contains={"Conv": 2, "MaxPool": 0}):
        assert stride(after.graph.node[1]) == [1, 1]


@pytest.mark.parametrize("opset", [7, 9, 13, 21])
def test_opsets(opset: int) -> None:
    assert_rewrites(RULE, model(CONV.replace("a =", "c =") + " a = Relu(c)" + LAST, opset=opset), count=1)


def test_half_precision() -> None:
    proto = model(CONV + LAST, kind="float16", out="float16[N, C, P, Q] y")
    assert_rewrites(RULE, proto, count=1)


def test_groups_and_one_by_one_before() -> None:
    body = "e = Conv(x, u) c = Conv<group = 4, pads = [1, 0, 1, 1]>(e, d) r = Relu(c) a = Conv<group = 2>(r, q)" + LAST
    after = assert_rewrites(RULE, model(body), count=1)[0]
    assert [stride(n) for n in after.graph.node if n.op_type == "Conv"] == [[1, 1], [1, 1], [2, 2], [1, 1]]


def test_one_axis() -> None:
    text = "g (float[N, 3, 9] x) => (float[N, 4, P] y) { a = Conv<pads = [1, 1]>(x, w) y = Conv<strides = [3]>(a, v) }"
    weights = {"w": RNG.standard_normal((4, 3, 3)), "v": RNG.standard_normal((4, 4, 1))}
    assert_rewrites(RULE, model_of(text, {k: v.astype(np.float32) for k, v in weights.items()}), count=1)


@pytest.mark.parametrize(
    "middle",
    [
        "a = BatchNormalization(c, m, b, b, m)",
        "a = PRelu(c, p)",
        "a = Clip(c, , )",
        "e = Sigmoid(c) a = Mul(c, e)",
        "e = Add(c, map) a = Relu(e)",
        "a = Add(row, c)",
        "e = Mul(c, one) a = Softplus(e)",
        "s = GlobalAveragePool(c) e = Sigmoid(s) a = Mul(c, e)",
    ],
)
def test_pointwise_operators(middle: str) -> None:
    body = CONV.replace("a =", "c =") + " " + middle + LAST
    if "GlobalAveragePool" in middle:  # the mean is over all pixels of c: nothing can be left out
        assert_declines(RULE, model(body), None)
        return
    after = assert_rewrites(RULE, model(body), count=1)[0]
    assert stride(after.graph.node[0]) == [2, 2]


def test_gate_of_one_pixel_is_left_alone() -> None:
    body = CONV.replace("a =", "c =") + " s = GlobalAveragePool(x) g = Conv(s, u) a = Mul(c, g)" + LAST
    assert_rewrites(RULE, model(body), count=1, contains={"MaxPool": 0, "Slice": 0})


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_a_pool_takes_the_stride(kind: str) -> None:
    body = f"c = Conv(x, u) a = {kind}<kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]>(c)" + LAST
    after = assert_rewrites(RULE, model(body), count=1)[0]
    assert stride(after.graph.node[1]) == [4, 2]


def test_a_pool_of_one_pixel_asks_too() -> None:
    body = CONV + " y = MaxPool<kernel_shape = [1, 1], strides = [3, 2]>(a)"
    after = assert_rewrites(RULE, model(body), count=1)[0]
    assert stride(after.graph.node[0]) == [3, 2]


def test_same_padding_of_a_single_pixel_is_none() -> None:
    body = CONV + ' y = Conv<auto_pad = "SAME_UPPER", strides = [3, 2]>(a, v)'
    after = assert_rewrites(RULE, model(body), count=1)[0]
    assert stride(after.graph.node[0]) == [3, 2]


BLOCK = """c0 = Conv<pads = [1, 1, 1, 1]>(x, w, b)  r0 = Relu(c0)
           c1 = Conv(r0, k1)  r1 = Relu(c1)  c2 = Conv<pads = [1, 1, 1, 1]>(r1, k2)  r2 = Relu(c2)  c3 = Conv(r2, k3)
           s = Add(c3, r0)  r = Relu(s)
           d1 = Conv<strides = [2, 2]>(r, k4)  e1 = Relu(d1)  d2 = Conv<pads = [1, 1, 1, 1]>(e1, k5)
           d0 = Conv<strides = [2, 2]>(r, k6)  y = Add(d2, d0)"""


def residual(shape: str = "N, 3, 9, 7", opset: int = 17) -> onnx.ModelProto:
    """Two residual blocks; the second one begins with the stride, as in the first ResNet."""
    shapes = {"k1": (2, 4, 1, 1), "k2": (2, 2, 3, 3), "k3": (4, 2, 1, 1)}
    shapes |= {"k4": (3, 4, 1, 1), "k5": (6, 3, 3, 3), "k6": (6, 4, 1, 1)}
    weights = {k: RNG.standard_normal(s) for k, s in shapes.items()} | {k: WEIGHTS[k] for k in ("w", "b")}
    text = f"g (float[{shape}] x) => (float[N, C, P, Q] y) {{ {BLOCK} }}"
    return model_of(text, {k: v.astype(np.float32) for k, v in weights.items()}, opset=opset)


@pytest.mark.parametrize("shape", ["N, 3, 9, 7", "N, 3, H, W", "2, 3, 8, 10"])
def test_residual_blocks(shape: str) -> None:
    proto = residual(shape)
    both = assert_rewrites(RULE, proto, sizes={"x": (1, 3, 7, 10)} if "H" in shape else None, count=2)
    for after, form in zip(both, ("MaxPool", "Slice"), strict=True):
        steps = [stride(n) for n in after.graph.node if n.op_type == "Conv"]
        assert sum(s == [2, 2] for s in steps) == 1
        assert sum(n.op_type == form for n in after.graph.node) == 1
        assert next(stride(n) for n in after.graph.node if "k2" in n.input) == [2, 2]


def test_concatenated_channels() -> None:
    body = (
        CONV.replace("a =", "c =")
        + """ e = Sigmoid(c) p = AveragePool<kernel_shape = [1, 1]>(x)
        a = Concat<axis = -3>(e, one_map, p) y = Conv<strides = [2, 2]>(a, k)"""
    )
    weights = {"w": WEIGHTS["w"], "b": WEIGHTS["b"], "one_map": WEIGHTS["map"], "k": RNG.standard_normal((2, 11, 1, 1))}
    proto = model_of(
        f"g (float[1, 3, 9, 7] x) => (float[1, C, P, Q] y) {{ {body} }}",
        {k: v.astype(np.float32) for k, v in weights.items()},
    )
    after = assert_rewrites(RULE, proto, count=1, contains={"Slice": 0, "MaxPool": 0})[0]
    assert [stride(n) for n in after.graph.node if n.op_type == "Conv"] == [[2, 2], [1, 1]]


def test_old_opsets_thin_with_a_pool_only() -> None:
    assert_rewrites(RULE, residual(opset=9), count=1, contains={"MaxPool": 1})


def test_strides_that_meet() -> None:
    body = CONV + " h = Conv<strides = [4, 2]>(a, v) i = Conv<strides = [2, 4]>(a, v) r = Relu(a) j = Conv<strides = "
    out = "float[N, C, P, Q] h, float[N, D, R, S] i, float[N, E, T, U] j"
    proto = model(body + "[2, 2]>(r, v)", out=out)
    after = assert_rewrites(RULE, proto, count=1)[0]
    assert [stride(n) for n in after.graph.node if n.op_type == "Conv"] == [[2, 2], [2, 1], [1, 2], [1, 1]]


def test_places_that_do_not_touch_are_two_proposals() -> None:
    body = CONV.replace("a =", "c =") + " e = Conv<strides = [2, 2]>(c, v) a = Conv<pads = [1, 1, 1, 1]>(e, w5)" + LAST
    proto = model(body)
    assert_rewrites(RULE, proto, count=2)


def test_maps_of_one_and_of_two_axes_in_one_model() -> None:
    text = """g (float[N, 3, 9] z, float[N, 3, 9, 7] x) => (float[N, 5, Q] u, float[N, 5, P, R] y) {
        c = Conv(z, w1) r = Relu(c) u = Conv<strides = [3]>(r, v1)
        d = Conv(x, w) s = Relu(d) y = Conv<strides = [2, 2]>(s, v) }"""
    shapes = {"w1": (4, 3, 3), "v1": (5, 4, 1), "w": (4, 3, 3, 3), "v": (5, 4, 1, 1)}
    weights = {k: RNG.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    assert_rewrites(RULE, model_of(text, weights), count=2)


def test_weights_may_be_fed() -> None:
    proto = model(CONV.replace("w, b", "f") + LAST, more=", float[4, 3, 3, 3] f")
    assert_rewrites(RULE, proto, sizes={"x": (1, 3, 9, 7), "f": (4, 3, 3, 3)}, count=1)


TWO = "float[N, C, P, Q] y, float[N, D, R, S] z"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model(CONV + LAST, out="float[N, C, P, Q] y, float[N, D, R, S] a"), "'a' is a graph output"),
        (model(CONV + LAST + " z = Relu(a)", out=TWO), "second consumer (Relu) that reads every pixel"),
        (
            model(CONV + LAST + " z = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(a, v)", out=TWO),
            "second consumer (Conv)",
        ),
        (model(CONV + LAST + " z = Conv<strides = [3, 3]>(a, v)", out=TWO), "nothing in common"),
        (model("c = Conv(x, u) a = Concat<axis = 2>(c, c)" + LAST), "Concat makes every pixel"),
        (model("c = Conv(x, u) a = InstanceNormalization(c, b, b)" + LAST), "InstanceNormalization makes every pixel"),
        (model("c = Conv(x, u) a = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(c)" + LAST), "ceil_mode = 1"),
        (
            model(
                "c = Conv(x, u) a, z = MaxPool<kernel_shape = [2, 2]>(c)" + LAST,
                out="float[N, C, P, Q] y, int64[N, D, R, S] z",
            ),
            "Indices",
        ),
        (model('a = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)' + LAST), "auto_pad SAME_LOWER"),
        (model("c = Conv(x, u) e = Concat<axis = 2>(c, c) a = Relu(e)" + LAST), "Relu makes every pixel"),
        (
            model("c = Conv(x, u) a, m0, v0 = BatchNormalization<training_mode = 1>(c, m, b, b, m)" + LAST),
            "BatchNormalization makes every pixel",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


def test_a_subgraph_that_reads_the_map_keeps_it() -> None:
    then, other = "t () => (float[N, 4, P, Q] t) { t = Relu(a) }", "e () => (float[N, 4, P, Q] e) { e = Identity(a) }"
    body = CONV + LAST + f" z = If <then_branch = {then}, else_branch = {other}> (c)"
    proto = model(body, more=", bool[1] c", out=TWO)
    assert_declines(RULE, proto, "second consumer (If)", sizes={"x": (1, 3, 9, 7), "c": (1,)})


def test_nothing_to_say() -> None:
    assert said_by(RULE, model("y = Conv<strides = [2, 2]>(x, u)")) == []
    assert said_by(RULE, model("a = Conv<strides = [2, 2]>(x, w) y = Conv(a, v)")) == []
    assert said_by(RULE, model(CONV + " y = Conv<strides = [2, 2], pads = [1, 0, 0, 0]>(a, v)")) == []


@pytest.mark.parametrize("shape", ["N, 3, 9, 7", "N, 3, H, W"])
def test_bits_are_equal_on_integers(shape: str) -> None:
    sizes = {"x": (1, 3, 9, 8)} if "H" in shape else None
    assert_exact_on_integers(RULE, residual(shape), sizes=sizes)
    assert_exact_on_integers(RULE, model(CONV.replace("a =", "c =") + " a = Relu(c)" + LAST, shape=shape), sizes=sizes)


@pytest.mark.parametrize("size", ["9, 7", "8, 10", "2, 1"])
def test_affine_function_is_the_same(size: str) -> None:
    body = (
        "c = Conv<pads = [1, 2, 2, 1]>(x, w, b) a = BatchNormalization(c, m, b, b, m) y = Conv<strides = [2, 3]>(a, v)"
    )
    assert_affine_equal(RULE, model(body, shape=f"1, 3, {size}"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    first=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    second=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    shared=st.booleans(),
)
def test_random_parameters(
    kernel: tuple[int, int],
    first: tuple[int, int],
    second: tuple[int, int],
    pads: list[int],
    dilations: tuple[int, int],
    size: tuple[int, int],
    shared: bool,
) -> None:
    body = f"a = Conv<strides = {list(first)}, pads = {pads}, dilations = {list(dilations)}>(x, k) r = Relu(a)"
    skip = " e = Neg(x2) z = Relu(e) s = Add(r, e)" if shared else ""  # an operand that is read in full
    other = "float[N, C, P, Q] y" + (", float[N, D, R, S] z" if shared else "")
    axes = zip(size, pads[:2], pads[2:], dilations, kernel, first, strict=True)
    n = [(h + p + q - d * (k - 1) - 1) // s + 1 for h, p, q, d, k, s in axes]
    second_input = f", float[N, 4, {n[0]}, {n[1]}] x2" if shared else ""
    text = f"g (float[N, 3, {size[0]}, {size[1]}] x{second_input}) => ({other}) {{"
    text += f"{body}{skip} y = Conv<strides = {list(second)}>({'s' if shared else 'r'}, v) }}"
    weights = {"k": np.random.default_rng(1).standard_normal((4, 3, *kernel)), "v": WEIGHTS["v"]}
    proto = model_of(text, {k: v.astype(np.float32) for k, v in weights.items()})
    assert_rewrites(RULE, proto, count=2 if shared else 1)


STEPS = (
    "{y} = Conv<pads = [1, 1, 1, 1]>({a}, k3)",
    "{y} = Conv({a}, k1)",
    "{y} = Relu({a})",
    "{y} = Add({a}, {b})",
    "{y} = Mul({b}, map)",
    "{y} = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>({a})",
    "{y}c = Concat<axis = 1>({a}, {b}) {y} = Conv({y}c, k2)",
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=8),
    readers=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([2, 4, 6])), min_size=1, max_size=3),
    dynamic=st.booleans(),
)
def test_random_graphs(steps: list[tuple[str, int, int]], readers: list[tuple[int, int]], dynamic: bool) -> None:
    names, body = ["x"], []
    for text, a, b in steps:
        first, second = (names[max(0, len(names) - 1 - i)] for i in (a, b))
        names.append(f"t{len(names)}")
        body.append(text.format(a=first, b=second, y=names[-1]))
    used = {names[max(1, len(names) - 1 - back)]: step for back, step in readers}
    body += [f"y_{n} = Conv<strides = [{step}, 2]>({n}, k1)" for n, step in used.items()]
    constant = any("map" in text for text, _, _ in steps)
    size = "H, W" if dynamic and not constant else "9, 7"
    outputs = ", ".join(f"float[N, C{n}, P{n}, Q{n}] y_{n}" for n in used)
    shapes = {"k3": (4, 4, 3, 3), "k1": (4, 4, 1, 1), "k2": (4, 8, 1, 1)}
    weights = {k: RNG.standard_normal(s) / np.prod(s[1:]) ** 0.5 for k, s in shapes.items()} | {"map": WEIGHTS["map"]}
    proto = model_of(
        f"g (float[N, 4, {size}] x) => ({outputs}) {{ {' '.join(body)} }}",
        {k: v.astype(np.float32) for k, v in weights.items() if k in " ".join(body)},
    )
    sizes = {"x": (1, 4, 9, 7)}
    if any(not hasattr(s, "reason") for s in said_by(RULE, proto, sizes=sizes)):
        assert_rewrites(RULE, proto, sizes=sizes)
