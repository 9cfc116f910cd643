"""winograd_conv: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.proposal import Proposal
from onnxtune.testing import assert_affine_equal, assert_declines, assert_rewrites, model_of, said_by

RULE = "winograd_conv"
SIZES = {"x": (2, 16, 13, 11)}
CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
FEW = {"channels": 1}
TILES = pytest.mark.parametrize("points", [4, 6, 8])


def net(
    nodes: str = CONV,
    *,
    kernel: tuple[int, ...] = (3, 3),
    channels: int = 16,
    outputs: int = 16,
    group: int = 1,
    shape: str = "N, 16, 13, 11",
    out: str = "float[N, C, P, Q] y",
    more: str = "",
    dtype: Any = np.float32,
    opset: int = 17,
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((outputs, channels // group, *kernel)).astype(dtype),
        "b": rng.standard_normal(outputs).astype(dtype),
    }
    weights = {k: v for k, v in weights.items() if f"{k})" in nodes or f"{k}," in nodes}
    kind = "float16" if dtype == np.float16 else "float"
    return model_of(f"g ({kind}[{shape}] x{more}) => ({out}) {{ {nodes} }}", weights, opset=opset)


def conv(attributes: str, x: str = "x", y: str = "y") -> str:
    return f"{y} = Conv <{attributes}> ({x}, w, b)"


@TILES
@pytest.mark.parametrize("pads", ["[1, 1, 1, 1]", "[0, 0, 0, 0]", "[2, 0, 1, 3]", "[4, 3, 0, 5]", "[0, 2, 6, 1]"])
def test_any_pads(points: int, pads: str) -> None:
    proto = net(conv(f"pads = {pads}"))
    assert_rewrites(RULE, proto, settings={"points": [points]}, sizes=SIZES, count=2)


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3), (4, 4), (5, 2), (1, 5), (1, 7), (7, 3)])
def test_any_kernel(kernel: tuple[int, int]) -> None:
    pads = [k // 2 for k in (*kernel, *kernel)]
    for points in (6, 8):
        if points - max(kernel) > 0:
            proto = net(conv(f"pads = {pads}"), kernel=kernel)
            count = 2 if min(kernel) > 2 and points > max(kernel) else 1
            assert_rewrites(RULE, proto, settings={"points": [points]}, sizes=SIZES, count=count)


@TILES
@pytest.mark.parametrize("size", [6, 7, 8, 12, 13])
def test_any_height_with_tiles_that_fit_or_not(points: int, size: int) -> None:
    proto, settings = net(shape=f"N, 16, {size}, 12"), {"points": [points]}
    for after in assert_rewrites(RULE, proto, settings=settings, sizes={"x": (1, 16, size, 12)}, count=2):
        kinds = [n.op_type for n in after.graph.node]
        assert ("Slice" in kinds) == (size % (points - 2) != 0)


@pytest.mark.parametrize(
    ("height", "taps", "tile"),
    [(56, 3, 4), (14, 3, 4), (6, 3, 6), (112, 3, 6), (4, 3, 4), (3, 3, 0), (28, 5, 4), (3, 5, 2), (28, 7, 2)],
)
def test_the_tile_with_the_fewest_products(height: int, taps: int, tile: int) -> None:
    proto = net(conv(f"pads = [{taps // 2}, 0, {taps // 2}, 0]"), kernel=(taps, 1), shape=f"N, 16, {height}, 4")
    said = said_by(RULE, proto, sizes={"x": (1, 16, height, 4)})
    titles = [s.title for s in said if isinstance(s, Proposal)]
    assert titles == ([f"Conv {taps}x1 -> Winograd F({tile}, {taps}) along the height"] if tile else [])


@TILES
def test_complete_on_impulses(points: int) -> None:
    for shape in ("1, 3, 7, 5", "1, 3, 8, 3"):
        proto = net(channels=3, outputs=2, shape=shape)
        assert_affine_equal(RULE, proto, settings={**FEW, "points": [points]})
    proto = net(conv("pads = [0, 2, 0, 1]"), kernel=(1, 3), channels=3, outputs=2, shape="1, 3, 3, 9")
    assert_affine_equal(RULE, proto, settings={**FEW, "points": [points]})


def test_stride_and_dilation_along_the_other_axis() -> None:
    for attributes in ("strides = [1, 2]", "dilations = [1, 2]", "strides = [2, 1]", "dilations = [3, 1]"):
        assert_rewrites(RULE, net(conv(attributes)), sizes=SIZES, count=1)
    for attributes in ('auto_pad = "SAME_UPPER"', 'auto_pad = "VALID"'):
        assert_rewrites(RULE, net(conv(attributes)), sizes=SIZES, count=2)
    assert_rewrites(RULE, net(conv("strides = [2, 1]"), kernel=(1, 3)), sizes=SIZES, count=1)


def test_groups() -> None:
    proto = net(conv("pads = [1, 1, 1, 1], group = 4"), channels=64, outputs=64, group=4, shape="N, 64, 13, 11")
    found = assert_rewrites(RULE, proto, sizes={"x": (2, 64, 13, 11)}, count=2)
    groups = [{a.i for n in after.graph.node for a in n.attribute if a.name == "group"} for after in found]
    assert groups == [{64, 24}, {64, 384, 144}]


@TILES
@pytest.mark.parametrize("shape", ["N, 16, 13, W", "N, 16, H, 11", "N, 16, H, W", "N, C, H, W"])
def test_maps_of_any_size(points: int, shape: str) -> None:
    for pads in ("[1, 1, 1, 1]", "[0, 2, 3, 1]"):
        for height, width in ((13, 9), (6, 16)):
            sizes = {"x": (2, 16, 13 if "13" in shape else height, 11 if "11" in shape else width)}
            proto = net(conv(f"pads = {pads}"), shape=shape)
            assert_rewrites(RULE, proto, settings={"points": [points]}, sizes=sizes, count=2)


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3), (5, 5)])
def test_a_map_of_any_size_along_one_axis(kernel: tuple[int, int]) -> None:
    proto = net(kernel=kernel, shape="N, 16, H, W")
    assert_rewrites(RULE, proto, sizes={"x": (1, 16, 14, 10)}, count=2 if kernel == (5, 5) else 1)


def test_before_slices_had_inputs_the_map_must_be_fixed() -> None:
    assert_declines(RULE, net(shape="N, 16, H, 11", kernel=(3, 1), opset=9), "the height is not fixed", sizes=SIZES)
    assert_rewrites(RULE, net(opset=9), sizes=SIZES, count=2)


@pytest.mark.parametrize("activation", ["Relu (c)", "LeakyRelu <alpha = 0.1> (c)", "Sigmoid (c)"])
def test_an_activation_goes_along(activation: str) -> None:
    proto = net(f"{conv('pads = [1, 1, 1, 1]', y='c')} y = {activation}")
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=2):
        kinds = [n.op_type for n in after.graph.node]
        last = max(i for i, kind in enumerate(kinds) if kind == "Transpose")
        assert kinds[last - 2 : last] == [activation.split()[0], "Reshape"]


def test_an_activation_that_is_seen_elsewhere_stays_where_it_is() -> None:
    two = "float[N, C, P, Q] c, float[N, D, R, S] y"
    proto = net(f"{conv('pads = [1, 1, 1, 1]', y='c')} y = Relu (c)", out=two)
    for after in assert_rewrites(RULE, proto, sizes=SIZES, count=2):
        assert after.graph.node[-1].op_type == "Relu"


def test_shared_weights_and_a_second_consumer_of_the_input_change_nothing() -> None:
    nodes = f"{conv('pads = [1, 1, 1, 1]', y='u')} {conv('pads = [1, 1, 1, 1]', x='u', y='v')} y = Add (v, x)"
    assert_rewrites(RULE, net(nodes), sizes=SIZES, count=4)


def test_without_bias() -> None:
    assert_rewrites(RULE, net("y = Conv (x, w)"), sizes=SIZES, count=2)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net(conv("strides = [2, 2]")), "stride 2 along the height"),
        (net(conv("strides = [1, 3]"), kernel=(1, 3)), "stride 3 along the width"),
        (net(conv("dilations = [2, 2]")), "dilation 2 along the height"),
        (net(conv("strides = [2, 1]"), kernel=(3, 1)), "stride 2 along the height"),
        (net(out="float16[N, C, P, Q] y", dtype=np.float16), "float16 rounds too coarsely"),
        (net("y = Conv (x, k)", more=", float[16, 16, 3, 3] k"), "the weights are not constant"),
        (net(conv('auto_pad = "SAME_UPPER", strides = [1, 2]')), "auto_pad SAME_UPPER"),
        (net(kernel=(2, 2)), None),
        (net(kernel=(1, 1)), None),
        (net(conv("pads = [4, 4, 4, 4]"), kernel=(9, 9)), None),
        (net(conv("pads = [1, 1, 1, 1], group = 2"), group=2), None),
        (net(outputs=8), None),
        (net(conv("pads = [1, 1]"), kernel=(3,), shape="N, 16, 13", out="float[N, C, P] y"), None),
        (net(kernel=(3, 1), shape="N, 16, 3, 11"), None),  # no tile fits
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    given = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    sizes = {"x": tuple(d or s for d, s in zip(given, SIZES["x"], strict=False))}
    if len(proto.graph.input) > 1:
        sizes["k"] = (16, 16, 3, 3)
    assert_declines(RULE, proto, reason, sizes=sizes)


def test_fewer_channels_when_asked_for() -> None:
    assert len(said_by(RULE, net(outputs=8), {"channels": 8}, SIZES)) == 2


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(3, 7), st.integers(1, 4)).flatmap(st.permutations).map(tuple),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    strides=st.sampled_from([[1, 1], [1, 2], [2, 1]]),
    dilations=st.sampled_from([[1, 1], [1, 2], [2, 1]]),
    group=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(7, 15), st.integers(7, 12)),
    points=st.integers(4, 8),
)
def test_random_parameters(
    kernel: tuple[int, int],
    pads: list[int],
    strides: list[int],
    dilations: list[int],
    group: int,
    size: tuple[int, int],
    points: int,
) -> None:
    points = max(points, max(kernel) + 1)
    out = [n + a + b - d * (k - 1) for n, a, b, d, k in zip(size, pads, pads[2:], dilations, kernel, strict=False)]
    if min(out) < 1:
        return
    axes = zip(kernel, strides, dilations, out, strict=True)
    fit = [n >= points - k + 1 for k, s, d, n in axes if k > 2 and s == d == 1]
    nodes = conv(f"pads = {pads}, strides = {strides}, dilations = {dilations}, group = {group}")
    settings = {**FEW, "points": [points]}
    sizes = {"x": (2, 4, *size)}
    proto = net(nodes, kernel=kernel, group=group, channels=4, outputs=6, shape=f"N, 4, {size[0]}, {size[1]}")
    if any(fit):
        assert_rewrites(RULE, proto, settings=settings, sizes=sizes, count=1 + (fit == [True, True]))
    else:
        assert_declines(RULE, proto, None, settings=settings, sizes=sizes)
