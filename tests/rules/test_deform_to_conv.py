"""deform_to_conv: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtimes import needs_deform_conv, opsets

from onnxtune.testing import (
    assert_affine_equal,
    assert_declines,
    assert_exact_on_integers,
    assert_rewrites,
    model_of,
    said_by,
)

RULE = "deform_to_conv"
ATTRIBUTES = "pads = [1, 1, 1, 1]"
UNTRAINED = "o = Conv <pads = [1, 1, 1, 1]> (x, zero, shift)"
SIZES = {"x": (1, 4, 5, 6)}


def net(
    attributes: str = ATTRIBUTES,
    before: str = UNTRAINED,
    inputs: str = "x, w, o, b",
    *,
    shifts: NDArray[Any] | float = 0.0,
    count: int = 18,
    kernel: tuple[int, int] = (3, 3),
    group: int = 1,
    shape: str = "N, 4, H, W",
    more: str = "",
    out: str = "float[N, C, P, Q] y",
    after: str = "",
    extra: dict[str, NDArray[Any]] | None = None,
    whole: bool = False,
    opset: int = 19,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    """A DeformConv whose offsets o come from `before`: a convolution of zeros with the bias `shifts`."""
    rng = np.random.default_rng(0)
    text = f"{before} y = DeformConv <{attributes}> ({inputs}) {after}"
    numbers = (lambda of: rng.integers(-3, 4, of)) if whole else rng.standard_normal
    weights: dict[str, Any] = {
        "w": numbers((4, 4 // group, *kernel)),
        "b": numbers(4),
        "zero": np.zeros((count, 4, 3, 3)),
        "shift": np.broadcast_to(np.asarray(shifts, float), (count,)),
    }
    weights = {k: v.astype(dtype) for k, v in weights.items() if f", {k}" in text}
    kind = "float16" if dtype == np.float16 else "float"
    return model_of(f"g ({kind}[{shape}] x{more}) => ({out}) {{ {text} }}", {**weights, **(extra or {})}, opset=opset)


def shifts_of(count: int, low: float = -1.0, high: float = 1.0, seed: int = 1) -> NDArray[Any]:
    return np.random.default_rng(seed).uniform(low, high, count)


@needs_deform_conv
@pytest.mark.parametrize("opset", opsets(19, 22))
def test_no_offsets(opset: int) -> None:
    proto = net(opset=opset)
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"DeformConv": 0, "Conv": 1}):
        assert list(next(a for a in after.graph.node[0].attribute if a.name == "kernel_shape").ints) == [3, 3]
    assert_exact_on_integers(RULE, net(opset=opset, whole=True), sizes=SIZES)


@needs_deform_conv
def test_constant_offsets_of_a_known_size() -> None:
    offsets = np.zeros((1, 18, 5, 6), np.float32)
    proto = net(before="", shape="1, 4, 5, 6", extra={"o": offsets})
    assert_rewrites(RULE, proto, count=1, contains={"DeformConv": 0})
    assert_affine_equal(RULE, proto)


@needs_deform_conv
@pytest.mark.parametrize(
    "attributes",
    [
        ATTRIBUTES,
        "pads = [0, 0, 0, 0]",
        "strides = [2, 1], pads = [2, 0, 0, 1]",
        "dilations = [2, 1], pads = [2, 1, 2, 1]",
    ],
)
def test_fractions_and_whole_offsets(attributes: str) -> None:
    before = UNTRAINED.replace("pads = [1, 1, 1, 1]", places(attributes))
    for shifts in (shifts_of(18), np.round(shifts_of(18, -1.4, 1.4)), 0.5):
        proto = net(attributes, before, shifts=shifts, shape="1, 4, 6, 8")
        assert_rewrites(RULE, proto, count=1, contains={"DeformConv": 0}, settings={"growth": 9.0})
        assert_affine_equal(RULE, proto, settings={"growth": 9.0})


def places(attributes: str) -> str:
    """Attributes of a 3x3 Conv whose output has the size of the DeformConv's."""
    return attributes.replace("dilations = [2, 1], pads = [2, 1, 2, 1]", "pads = [1, 1, 1, 1]")


@needs_deform_conv
def test_whole_offsets_are_exact() -> None:
    proto = net(shifts=np.round(shifts_of(18, -1.4, 1.4)), whole=True)
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


@needs_deform_conv
@pytest.mark.parametrize("groups", [2, 4])
def test_groups_of_offsets_and_of_channels(groups: int) -> None:
    proto = net(f"{ATTRIBUTES}, offset_group = {groups}", shifts=shifts_of(18 * groups), count=18 * groups)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1)
    attributes = f"{ATTRIBUTES}, offset_group = {groups}, group = 2"
    proto = net(attributes, shifts=shifts_of(18 * groups), count=18 * groups, group=2)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1)


@needs_deform_conv
def test_a_mask_scales_the_taps() -> None:
    """As in DCNv2: one convolution of zeros for offsets and mask, cut in two, a Sigmoid for the mask."""
    before = "t = Conv <pads = [1, 1, 1, 1]> (x, zero, shift) o, q = Split <axis = 1> (t, cut) m = Sigmoid (q)"
    proto = net(before=before, inputs="x, w, o, b, m", shifts=shifts_of(27), count=27, extra={"cut": np.array([18, 9])})
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"DeformConv": 0, "Sigmoid": 0, "Split": 0})


@needs_deform_conv
def test_offsets_put_together_by_torchvision() -> None:
    before = """t = Conv <pads = [1, 1, 1, 1]> (x, zero, shift) a, c, q = Split <axis = 1, num_outputs = 3> (t)
        o = Concat <axis = 1> (a, c) s = Sigmoid (q) two = Constant <value_float = 2.0> () m = Mul (s, two)"""
    proto = net(before=before, inputs="x, w, o, , m", shifts=shifts_of(27), count=27)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"DeformConv": 0, "Mul": 0, "Concat": 0})


@needs_deform_conv
def test_zeros_of_a_computed_shape() -> None:
    shape = """k = Shape (x)  t = Constant <value_ints = [0]> ()  e = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()  four = Constant <value_ints = [4]> ()  c = Constant <value_ints = [18]> ()
        n = Slice (k, t, e)  hw = Slice (k, two, four)  d = Concat <axis = 0> (n, c, hw)  o = ConstantOfShape (d)"""
    proto = net(before=shape)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"DeformConv": 0}, local=False)


@needs_deform_conv
def test_half_precision() -> None:
    proto = net(dtype=np.float16, out="float16[N, C, P, Q] y")
    assert_rewrites(RULE, proto, sizes=SIZES, count=1)


FIXED = np.zeros((1, 18, 5, 6), np.float32)
VARIED = FIXED + np.arange(6, dtype=np.float32)
STATIC = "1, 4, 5, 6"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net(before="", more=", float[1, 18, 5, 6] o", shape=STATIC), "the offsets depend"),
        (net(before="", shape=STATIC, extra={"o": VARIED}), "the offsets depend"),
        (
            net(before=UNTRAINED.replace("zero", "k"), extra={"k": np.ones((18, 4, 3, 3), np.float32)}),
            "the offsets depend",
        ),
        (net(shifts=np.nan), "the offsets depend"),
        (net(inputs="x, w, o, b, m", more=", float[N, 9, H, W] m"), "the mask depend"),
        (net(inputs="x, k, o", more=", float[4, 4, 3, 3] k"), "the weights are not constant"),
        (net(inputs="x, w, o, k", more=", float[4] k"), "the weights are not constant"),
        (net(shifts=shifts_of(18, -9, 9)), "a plain kernel would be"),
        (net(shifts=1e6 * shifts_of(18)), "a plain kernel would be"),
        (net(out="float[N, C, P, Q] y, float[N, D, R, S] o"), "'o' is a graph output"),
        (net(after="z = Neg (o)", out="float[N, C, P, Q] y, float[N, D, R, S] z"), "second consumer (Neg)"),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    sizes = {"N": 1, "H": 5, "W": 6}
    fed = {
        v.name: tuple(d.dim_value or sizes[d.dim_param] for d in v.type.tensor_type.shape.dim)
        for v in proto.graph.input
    }
    assert_declines(RULE, proto, reason, sizes=fed)


def test_a_plain_convolution_is_no_near_miss() -> None:
    text = "g (float[N, 4, H, W] x) => (float[N, 4, P, Q] y) { y = Conv (x, w) }"
    assert said_by(RULE, model_of(text, {"w": np.ones((4, 4, 3, 3), np.float32)}, opset=19)) == []


@needs_deform_conv
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    reach=st.sampled_from([0.0, 0.7, 2.3]),
    seed=st.integers(0, 99),
)
def test_random_parameters(
    kernel: tuple[int, int],
    pads: list[int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    reach: float,
    seed: int,
) -> None:
    size = [
        (n + a + b - d * (k - 1) - 1) // s + 1
        for n, a, b, d, k, s in zip((5, 6), pads, pads[2:], dilations, kernel, strides, strict=False)
    ]
    count = 2 * kernel[0] * kernel[1]
    values = shifts_of(count, -reach, reach, seed).astype(np.float32)
    offsets = np.broadcast_to(values.reshape(1, -1, 1, 1), (1, count, *size))
    attributes = f"pads = {pads}, strides = {list(strides)}, dilations = {list(dilations)}"
    proto = net(attributes, "", kernel=kernel, shape=STATIC, extra={"o": np.ascontiguousarray(offsets)})
    assert_rewrites(RULE, proto, count=1, settings={"growth": 100.0}, contains={"DeformConv": 0})
