"""upsample_conv_to_phases: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

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

RULE = "upsample_conv_to_phases"
SIZES = {"x": (1, 4, 6, 5)}
REPEAT = 'u = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , s)'
CONV = "y = Conv <pads = [1, 1, 1, 1]> (u, w, b)"


def net(
    conv: str = CONV,
    resize: str = REPEAT,
    *,
    scale: tuple[float, ...] = (1, 1, 2, 2),
    kernel: tuple[int, ...] = (3, 3),
    group: int = 1,
    outputs: int = 6,
    shape: str = "N, 4, H, W",
    out: str = "float[N, C, P, Q] y",
    more: str = "",
    opset: int = 17,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    """Upsampling of x to u, then nodes that make y from u."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "w": rng.standard_normal((outputs, 4 // group, *kernel)),
        "b": rng.standard_normal(outputs),
    }
    weights = {k: v.astype(dtype) for k, v in weights.items() if f"{k})" in conv or f"{k}," in conv}
    if ", s)" in resize:
        weights["s"] = np.array(scale, np.float32)
    kind = "float16" if dtype == np.float16 else "float"
    text = f"g ({kind}[{shape}] x{more}) => ({out}) {{ {resize} {conv} }}"
    return model_of(text, weights, opset=opset)


PADS = ("[1, 1, 1, 1]", "[0, 0, 0, 0]", "[1, 0, 0, 1]", "[2, 2, 2, 2]", "[0, 2, 3, 1]", "[4, 3, 0, 5]")


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("scale", [2, 3])
def test_any_pads(pads: str, scale: int) -> None:
    proto = net(f"y = Conv <pads = {pads}> (u, w, b)", scale=(1, 1, scale, scale), outputs=1)
    assert_rewrites(RULE, proto, sizes=SIZES, count=3, contains={"Resize": 0})
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


@pytest.mark.parametrize("kernel", [(1, 3), (2, 2), (4, 3), (5, 5), (7, 1)])
@pytest.mark.parametrize("scale", [2, 3, 5])
def test_any_kernel_and_factor(kernel: tuple[int, int], scale: int) -> None:
    proto = net("y = Conv <pads = [2, 1, 2, 1]> (u, w)", scale=(1, 1, scale, scale), kernel=kernel)
    assert_rewrites(RULE, proto, sizes=SIZES, count=2)


@pytest.mark.parametrize("pads", PADS[:4])
def test_complete_on_impulses(pads: str) -> None:
    shape = "1, 4, 7, 9"
    assert_affine_equal(RULE, net(f"y = Conv <pads = {pads}> (u, w, b)", outputs=2, shape=shape))
    assert_affine_equal(RULE, net(f"y = Conv <pads = {pads}> (u, w, b)", scale=(1, 1, 3, 3), shape=shape))


def test_a_map_smaller_than_the_kernel() -> None:
    proto = net("y = Conv <pads = [3, 3, 3, 3]> (u, w, b)", kernel=(7, 7), shape="N, 4, 1, 2", outputs=1)
    assert_rewrites(RULE, proto, count=3)
    assert_exact_on_integers(RULE, proto)


@pytest.mark.parametrize("group", [2, 4])
def test_groups(group: int) -> None:
    proto = net(f"y = Conv <pads = [1, 1, 1, 1], group = {group}> (u, w, b)", group=group, outputs=4)
    assert_rewrites(RULE, proto, sizes=SIZES, count=2, contains={"DepthToSpace": 1})
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


def test_dilations_and_auto_pad() -> None:
    for attributes in (
        "dilations = [2, 3], pads = [2, 3, 2, 3]",
        'auto_pad = "SAME_UPPER"',
        'auto_pad = "SAME_LOWER"',
        'auto_pad = "VALID"',
    ):
        proto = net(f"y = Conv <{attributes}> (u, w)", kernel=(3, 2))
        assert_rewrites(RULE, proto, sizes={"x": (1, 4, 6, 7)}, count=2)


def test_unequal_factors_and_one_axis() -> None:
    proto = net(scale=(1, 1, 1, 2))
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"ConvTranspose": 1, "Resize": 0})
    proto = net(
        "y = Conv <pads = [1, 0]> (u, w)", scale=(1, 1, 3), kernel=(3,), shape="N, 4, L", out="float[N, C, P] y"
    )
    assert_rewrites(RULE, proto, sizes={"x": (1, 4, 6)}, count=1, contains={"ConvTranspose": 1})


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21])
def test_opsets(opset: int) -> None:
    resize = {7: "u = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)", 9: "u = Upsample (x, s)", 10: "u = Resize (x, s)"}
    default = "e = Constant <value = float[0] {}> () u = Resize (x, e, s)" if opset == 11 else "u = Resize (x, , s)"
    proto = net(resize=resize.get(opset, default), outputs=2, opset=opset)
    assert_rewrites(RULE, proto, sizes=SIZES, count=2 if opset < 11 else 3, local=opset > 10)


def test_sizes_instead_of_scales() -> None:
    resize = "t = Constant <value_ints = [1, 4, 12, 10]> () u = Resize (x, , , t)"
    assert_rewrites(RULE, net(resize=resize, shape="1, 4, 6, 5"), count=2, contains={"Resize": 0})
    resize = "t = Constant <value_ints = [12, 10]> () u = Resize <axes = [2, 3]> (x, , , t)"
    assert_rewrites(RULE, net(resize=resize, shape="N, 4, 6, 5", opset=18), count=2, contains={"Resize": 0})


def test_activations_between_move_before() -> None:
    slope = "slope = Constant <value = float[4, 1, 1] {0.5, 0.25, 2.0, 0.1}> ()"
    between = "v = LeakyRelu <alpha = 0.2> (u) q = PRelu (v, slope) y = Conv <pads = [1, 1, 1, 1]> (q, w, b)"
    proto = net(f"{slope} {between}")
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=2, contains={"PRelu": 1, "LeakyRelu": 1}):
        assert [n.op_type for n in after.graph.node if n.op_type != "Constant"][:2] == ["LeakyRelu", "PRelu"]


def test_a_fused_activation_stays_with_its_convolution() -> None:
    proto = net(
        "c = Conv <pads = [1, 1, 1, 1]> (u, w, b) y = Clip <min = 0.0, max = 6.0> (c)",
        opset=10,
        resize="u = Resize (x, s)",
    )
    kinds = [[n.op_type for n in m.graph.node] for m in assert_rewrites(RULE, proto, sizes=SIZES, count=2, local=False)]
    assert ["ConvTranspose", "Clip"] in kinds
    assert ["Conv", "Clip"] * 4 + ["Concat", "DepthToSpace"] in kinds


def test_an_activation_that_is_seen_elsewhere_stays_where_it_is() -> None:
    two = "float[N, C, P, Q] c, float[N, D, R, S] y"
    proto = net("c = Conv <pads = [1, 1, 1, 1]> (u, w, b) y = Relu (c)", out=two)
    assert_rewrites(RULE, proto, sizes=SIZES, count=2, contains={"Relu": 1})


def test_half_precision() -> None:
    proto = net(outputs=2, dtype=np.float16, out="float16[N, C, P, Q] y")
    assert_rewrites(RULE, proto, sizes=SIZES, count=3)


def resized(attributes: str) -> onnx.ModelProto:
    return net(resize=f"u = Resize <{attributes}> (x, , s)")


TWO = "float[N, C, P, Q] y, float[N, 4, R, S] u"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (resized('mode = "linear"'), "mode 'linear' mixes pixels"),
        (resized('nearest_mode = "floor"'), "'half_pixel' with 'floor' does not repeat each pixel 2 times"),
        (resized('coordinate_transformation_mode = "align_corners"'), "'align_corners' with"),
        (net(scale=(1, 1, 1.5, 2)), "a scale of 1.5 is not a whole number"),
        (net(scale=(1, 1, 0.5, 0.5)), "a scale of 0.5 is not a whole number"),
        (net(scale=(1, 2, 2, 2), outputs=3, conv="a = MaxPool <kernel_shape = [1, 1]> (u) y = Neg (a)"), None),
        (net(scale=(2, 1, 2, 2)), "changes batch or channels"),
        (net("y = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (u, w)"), "the Conv has a stride"),
        (net('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (u, w)'), "auto_pad SAME_UPPER"),
        (net(out=TWO), "'u' is a graph output"),
        (net(CONV + " z = Neg (u)", out="float[N, C, P, Q] y, float[N, 4, R, S] z"), "second consumer (Neg)"),
        (
            net("v = Relu (u) y = Conv (v, w) z = Neg (v)", out="float[N, C, P, Q] y, float[N, 4, R, S] z"),
            "'v' has a second consumer (Neg)",
        ),
        (net("y = Conv <group = 2> (u, w)", scale=(1, 1, 2, 3), group=2), "groups after unequal factors"),
        (net("y = Conv (u, k)", more=", float[6, 4, 3, 3] k"), "the weights are not constant"),
        (net("y = Conv (u, w, k)", more=", float[6] k"), "the weights are not constant"),
        (net(resize="u = Resize (x, , k)", more=", float[4] k"), "the scales are not known"),
        (net("v = Softmax <axis = 1> (u) y = Conv (v, w)"), None),
        (net("v = PRelu (u, k) y = Conv (v, w)", more=", float[4, 1, 1] k"), None),
        (net("y = Conv (u, w)", kernel=(1, 1)), None),
        (net(scale=(1, 1, 1, 1)), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    sizes = {
        v.name: SIZES["x"] if v.name == "x" else tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in proto.graph.input
    }
    assert_declines(RULE, proto, reason, sizes=sizes)


def test_a_convolution_of_something_else_is_no_near_miss() -> None:
    assert said_by(RULE, net("y = Conv (u, w)", 'u = Resize <mode = "linear"> (x, , s)', kernel=(1, 1))) == []
    assert said_by(RULE, net("y = Conv (u, w)", "u = Relu (x)")) == []


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    scale=st.integers(2, 4),
    kernel=st.tuples(st.integers(1, 5), st.integers(2, 5)),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    group=st.sampled_from([1, 2, 4]),
    size=st.tuples(st.integers(4, 7), st.integers(4, 7)),
)
def test_random_parameters(
    scale: int,
    kernel: tuple[int, int],
    pads: list[int],
    dilations: tuple[int, int],
    group: int,
    size: tuple[int, int],
) -> None:
    if any(
        scale * n + a + b <= d * (k - 1) for n, a, b, d, k in zip(size, pads, pads[2:], dilations, kernel, strict=False)
    ):
        return
    conv = f"y = Conv <pads = {pads}, dilations = {list(dilations)}, group = {group}> (u, w, b)"
    shape = f"N, 4, {size[0]}, {size[1]}"
    proto = net(conv, scale=(1, 1, scale, scale), kernel=kernel, group=group, outputs=4, shape=shape)
    assert_exact_on_integers(RULE, proto, settings={"outputs": 100})
    assert_rewrites(RULE, proto, settings={"outputs": 100}, count=3 if group == 1 else 2)
