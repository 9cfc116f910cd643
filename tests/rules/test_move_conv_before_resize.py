"""move_conv_before_resize: fires and is equal, declines with a reason, holds on random parameters."""

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

RULE = "move_conv_before_resize"
SIZES = {"x": (1, 4, 6, 5)}
UP = "u = Resize{} (x, , s) y = Conv (u, w, b)"
DOWN = "u = Conv (x, w, b) y = Resize{} (u, , s)"


def net(
    body: str,
    scale: tuple[float, ...] = (1, 1, 2, 2),
    *,
    sizes: list[int] | None = None,
    outputs: int = 6,
    group: int = 1,
    kernel: tuple[int, ...] = (1, 1),
    shape: str = "N, 4, H, W",
    out: str = "float[N, C, P, Q] y",
    more: str = "",
    opset: int = 17,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    """A Resize and a Conv in the order of `body`."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "w": rng.standard_normal((outputs, 4 // group, *kernel)),
        "b": rng.standard_normal(outputs),
    }
    weights = {k: v.astype(dtype) for k, v in weights.items() if f", {k}" in body}
    if ", s)" in body:
        weights["s"] = np.array(scale, np.float32) if sizes is None else np.array(sizes)
    kind = "float16" if dtype == np.float16 else "float"
    return model_of(f"g ({kind}[{shape}] x{more}) => ({out}) {{ {body} }}", weights, opset=opset)


def order(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node if n.op_type != "Constant"]


PLAIN = [
    "",
    '<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "ceil">',
    '<mode = "linear">',
    '<mode = "linear", coordinate_transformation_mode = "align_corners">',
    '<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">',
    '<mode = "cubic", cubic_coeff_a = -0.5>',
]


@pytest.mark.parametrize("attributes", PLAIN)
@pytest.mark.parametrize("scale", [(1, 1, 2, 2), (1, 1, 1.7, 1), (1, 1, 3, 0.5)])
def test_up(attributes: str, scale: tuple[float, ...]) -> None:
    for after in assert_rewrites(RULE, net(UP.format(attributes), scale), sizes=SIZES, count=1):
        assert order(after) == ["Conv", "Resize"]


@pytest.mark.parametrize("attributes", PLAIN)
@pytest.mark.parametrize("scale", [(1, 1, 0.5, 0.5), (1, 1, 0.4, 1.5)])
def test_down(attributes: str, scale: tuple[float, ...]) -> None:
    for after in assert_rewrites(RULE, net(DOWN.format(attributes), scale), sizes=SIZES, count=1):
        assert order(after) == ["Resize", "Conv"]


@pytest.mark.parametrize("attributes", PLAIN)
def test_complete_on_impulses(attributes: str) -> None:
    assert_affine_equal(RULE, net(UP.format(attributes), (1, 1, 2, 1.5), shape="1, 4, 5, 7"))
    assert_affine_equal(RULE, net(DOWN.format(attributes), (1, 1, 0.5, 0.7), shape="1, 4, 7, 9"))


def test_exact_on_integers() -> None:
    nearest = '<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
    assert_exact_on_integers(RULE, net(UP.format(nearest)), sizes=SIZES)
    assert_exact_on_integers(RULE, net(DOWN.format(nearest), (1, 1, 0.5, 0.5)), sizes={"x": (1, 4, 8, 6)})
    assert_exact_on_integers(RULE, net(UP.format('<mode = "linear">')), sizes=SIZES)


def test_activations_change_places_with_repeating() -> None:
    proto = net("u = Resize (x, , s) v = LeakyRelu (u) c = Conv (v, w, b) d = Relu (c) y = Neg (d)")
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=1):
        assert order(after) == ["LeakyRelu", "Conv", "Relu", "Resize", "Neg"]
    proto = net("c = Conv (x, w, b) v = HardSwish (c) y = Resize (v, , s)", (1, 1, 0.5, 0.5))
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=1):
        assert order(after) == ["Resize", "Conv", "HardSwish"]
    proto = net('u = Resize <mode = "linear"> (x, , s) c = Conv (u, w, b) y = Relu (c)')
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=1):
        assert order(after) == ["Conv", "Resize", "Relu"]


def test_no_bias_groups_and_one_axis() -> None:
    assert_rewrites(RULE, net("u = Resize (x, , s) y = Conv (u, w)"), sizes=SIZES, count=1)
    assert_rewrites(RULE, net("u = Resize (x, , s) y = Conv <group = 2> (u, w)", group=2), sizes=SIZES, count=1)
    body = 'u = Resize <mode = "linear"> (x, , s) y = Conv (u, w)'
    proto = net(body, (1, 1, 2), kernel=(1,), shape="N, 4, L", out="float[N, C, P] y")
    assert_rewrites(RULE, proto, sizes={"x": (2, 4, 9)}, count=1, local=False)


def test_constant_sizes_name_the_new_channels() -> None:
    body = "u = Resize (x, , , s) y = Conv (u, w, b)"
    assert_rewrites(RULE, net(body, sizes=[1, 4, 9, 11], shape="1, 4, 6, 5"), count=1)
    body = "u = Resize <axes = [2, 3]> (x, , , s) y = Conv (u, w, b)"
    assert_rewrites(RULE, net(body, sizes=[9, 11], shape="N, 4, 6, 5", opset=18), count=1)
    body = "u = Resize <axes = [3, 1]> (x, , , s) y = Conv (u, w, b)"
    assert_rewrites(RULE, net(body, sizes=[11, 4], shape="N, 4, 6, 5", opset=18), count=1)
    body = "u = Conv (x, w, b) y = Resize (u, , , s)"
    assert_rewrites(RULE, net(body, sizes=[1, 6, 3, 5], shape="1, 4, 6, 5"), count=1)
    assert_rewrites(RULE, net(body, sizes=[1, 4, 3, 5], outputs=4, shape="1, 4, 6, 5"), count=1)


COMPUTED = """a = Shape (x)  t = Constant <value_ints = [0]> ()  e = Constant <value_ints = [2]> ()  n = Slice (a, t, e)
    q = Shape (r)  l = Constant <value_ints = [4]> ()  o = Slice (q, e, l)  k = Concat <axis = 0> (n, o)"""


@pytest.mark.parametrize("outputs", [4, 6])
def test_computed_sizes(outputs: int) -> None:
    """F.interpolate(x, size=r.shape[2:]) as PyTorch exports it."""
    body = f'{COMPUTED} u = Resize <mode = "linear"> (x, , , k) y = Conv (u, w, b)'
    proto = net(body, outputs=outputs, more=", float[N, 1, U, V] r")
    sizes = {**SIZES, "r": (1, 1, 9, 11)}
    concats = 1 if outputs == 4 else 2
    assert_rewrites(RULE, proto, sizes=sizes, count=1, contains={"Concat": concats}, local=False)
    body = f"{COMPUTED.replace('Shape (x)', 'Shape (u)')} y = Resize (u, , , k)"
    proto = net(f"u = Conv (x, w, b) {body}", outputs=outputs, more=", float[N, 1, U, V] r")
    assert_declines(RULE, proto, "second consumer (Shape)", sizes={**SIZES, "r": (1, 1, 3, 2)})


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 19])
def test_opsets(opset: int) -> None:
    resize = {7: "u = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)", 9: "u = Upsample (x, s)", 10: "u = Resize (x, s)"}
    default = "e = Constant <value = float[0] {}> () u = Resize (x, e, s)" if opset == 11 else "u = Resize (x, , s)"
    proto = net(f"{resize.get(opset, default)} y = Conv (u, w, b)", opset=opset)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, local=opset > 10)


def test_half_precision() -> None:
    for attributes in PLAIN[:3]:
        proto = net(UP.format(attributes), dtype=np.float16, out="float16[N, C, P, Q] y")
        assert_rewrites(RULE, proto, sizes=SIZES, count=1)


LINEAR = 'u = Resize <mode = "linear"> (x, , s)'
TWO = "float[N, C, P, Q] y, float[N, D, R, S] "


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net(f"{LINEAR} v = Relu (u) y = Conv (v, w)"), "Relu between the Conv and a Resize of mode 'linear'"),
        (net(UP.format('<mode = "cubic", exclude_outside = 1>')), "need not add up to 1"),
        (net(UP.format('<mode = "linear", antialias = 1>'), opset=18), "need not add up to 1"),
        (
            net(
                UP.format('<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">').replace(
                    "(x, , s)", "(x, roi, s)"
                ),
                more=", float[8] roi",
            ),
            "need not add up to 1",
        ),
        (net("u = Resize (x, , s) y = Conv <strides = [2, 1]> (u, w)"), "the Conv has a stride or pads"),
        (net("u = Resize (x, , s) y = Conv <pads = [0, 1, 0, 0]> (u, w)"), "the Conv has a stride or pads"),
        (net(UP.format(""), out=TWO + "u"), "'u' is a graph output"),
        (net(UP.format("") + " z = Neg (u)", out=TWO + "z"), "second consumer (Neg)"),
        (net(DOWN.format("") + " z = Neg (u)", (1, 1, 0.5, 0.5), out=TWO + "z"), "second consumer (Neg)"),
        (net("u = Resize (x, , s) y = Conv (u, k)", more=", float[6, 4, 1, 1] k"), "weights are not constant"),
        (net("u = Resize (x, , s) y = Conv (u, w, k)", more=", float[6] k"), "weights are not constant"),
        (net("u = Resize (x, , k) y = Conv (u, w)", more=", float[4] k"), None),
        (net(UP.format(""), kernel=(3, 3)), None),
        (net(UP.format(""), (1, 1, 0.5, 0.5)), None),
        (net(DOWN.format("")), None),
        (net(UP.format(""), (1, 1, 1, 1)), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    fed = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    assert_declines(RULE, proto, reason, sizes={**fed, **SIZES})


def test_a_resize_of_channels_declines() -> None:
    body = "u = Conv (x, w, b) y = Resize (u, , s)"
    assert_declines(RULE, net(body, (1, 2, 0.5, 0.5)), "may change channels", sizes=SIZES)
    body = "u = Conv (x, w, b) y = Resize (u, , , s)"
    proto = net(body, sizes=[1, 3, 3, 3], shape="1, 4, 6, 5")
    assert_declines(RULE, proto, "may change channels")


def test_other_neighbours_are_no_near_miss() -> None:
    assert said_by(RULE, net("u = Relu (x) y = Conv (u, w)")) == []


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    attributes=st.sampled_from(PLAIN),
    scale=st.tuples(st.floats(0.4, 3), st.floats(0.4, 3)),
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    outputs=st.integers(1, 6),
)
def test_random_parameters(attributes: str, scale: tuple[float, float], size: tuple[int, int], outputs: int) -> None:
    area = np.prod([int(n * np.float32(s)) for n, s in zip(size, scale, strict=True)]) / np.prod(size)
    body = UP if area > 1 else DOWN
    if area not in (0, 1):
        proto = net(body.format(attributes), (1, 1, *scale), outputs=outputs, shape=f"N, 4, {size[0]}, {size[1]}")
        assert_rewrites(RULE, proto, count=1)
