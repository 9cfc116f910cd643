"""split_conv_of_concat: fires and is equal, declines with a reason, holds on random parameters."""

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

RULE = "split_conv_of_concat"
REPEAT = 'u = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , s)'
LINEAR = 'u = Resize <mode = "linear"> (x, , s)'
JOIN = "j = Concat <axis = 1> (u, z)"
SAME = "y = Conv <pads = [1, 1, 1, 1]> (j, w, b)"
POINT = "y = Conv (j, w, b)"


def net(
    conv: str = POINT,
    before: str = f"{REPEAT} {JOIN}",
    *,
    scale: tuple[float, ...] = (1, 1, 2, 2),
    kernel: tuple[int, int] = (1, 1),
    channels: int = 5,
    group: int = 1,
    small: str = "3, 4",
    large: str = "6, 8",
    out: str = "float[N, C, P, Q] y",
    more: str = "",
    opset: int = 17,
    dtype: Any = np.float32,
    extra: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """x (2 channels) is upsampled to u, joined with z (3 channels) to j and convolved."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"w": rng.standard_normal((4, channels // group, *kernel)), "b": rng.standard_normal(4)}
    weights = {k: v.astype(dtype) for k, v in weights.items() if f", {k}" in conv}
    if ", s)" in before:
        weights["s"] = np.array(scale, np.float32)
    kind = "float16" if dtype == np.float16 else "float"
    inputs = f"{kind}[N, 2, {small}] x, {kind}[N, 3, {large}] z{more}"
    return model_of(f"g ({inputs}) => ({out}) {{ {before} {conv} }}", {**weights, **(extra or {})}, opset=opset)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_pointwise(mode: str) -> None:
    proto = net(before=f'u = Resize <mode = "{mode}"> (x, , s) {JOIN}')
    assert_rewrites(RULE, proto, count=1, contains={"Concat": 0, "Conv": 2, "Add": 1, "Resize": 1})
    assert_affine_equal(RULE, proto)


@pytest.mark.parametrize("pads", ["[1, 1, 1, 1]", "[0, 0, 0, 0]", "[2, 1, 0, 1]"])
def test_larger_kernels(pads: str) -> None:
    proto = net(f"y = Conv <pads = {pads}> (j, w, b)", kernel=(3, 3))
    assert_rewrites(RULE, proto, count=2, contains={"Resize": 0, "Add": 1})
    assert_exact_on_integers(RULE, proto)
    assert_affine_equal(RULE, proto)


def test_unequal_factors_have_one_form() -> None:
    proto = net(SAME, scale=(1, 1, 1, 2), kernel=(3, 3), small="6, 4")
    assert_rewrites(RULE, proto, count=1, contains={"ConvTranspose": 1})


def test_exact_on_integers() -> None:
    assert_exact_on_integers(RULE, net())
    assert_exact_on_integers(RULE, net(before=f"{LINEAR} {JOIN}"))


def test_dynamic_sizes() -> None:
    proto = net(small="H, W", large="U, V")
    found = said_by(RULE, proto, sizes={"x": (1, 2, 3, 4), "z": (1, 3, 6, 8)})
    assert len(found) == 1
    proto = net(SAME, f"{REPEAT} v = Sigmoid (u) j = Concat <axis = 1> (u, v)", kernel=(3, 3), channels=4)
    assert_declines(RULE, proto, "'u' has a second consumer")
    both = f"{REPEAT} t = Resize (q, , s) j = Concat <axis = 1> (u, t)"
    proto = net(POINT, both, channels=4, small="H, W", more=", float[N, 2, H, W] q")
    sizes = {"x": (1, 2, 3, 4), "q": (1, 2, 3, 4), "z": (1, 3, 6, 8)}
    assert_rewrites(RULE, proto, sizes=sizes, count=1, contains={"Concat": 0, "Conv": 2, "Add": 1})


def test_several_parts_that_stay_remain_joined() -> None:
    before = f"{REPEAT} a = Relu (z) j = Concat <axis = -3> (z, u, a)"
    proto = net(before=before, channels=8)
    assert_rewrites(RULE, proto, count=1, contains={"Concat": 1, "Conv": 2, "Add": 1})
    assert_rewrites(RULE, net(SAME, before, kernel=(3, 3), channels=8), count=2, contains={"Add": 1})


def test_activations_behind_the_resize_move_before() -> None:
    before = f"{REPEAT} v = LeakyRelu (u) j = Concat <axis = 1> (v, z)"
    assert_rewrites(RULE, net(before=before), count=1, contains={"LeakyRelu": 1, "Concat": 0})
    assert_rewrites(RULE, net(SAME, before, kernel=(3, 3)), count=2, contains={"LeakyRelu": 1})


def test_sizes_name_the_new_channels() -> None:
    before = f"t = Constant <value_ints = [1, 2, 6, 8]> () u = Resize (x, , , t) {JOIN}"
    proto = net(before=before)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    assert_rewrites(RULE, proto, count=1, contains={"Concat": 0})


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 19])
def test_opsets(opset: int) -> None:
    resize = {7: "u = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)", 9: "u = Upsample (x, s)", 10: "u = Resize (x, s)"}
    default = "e = Constant <value = float[0] {}> () u = Resize (x, e, s)" if opset == 11 else "u = Resize (x, , s)"
    before = f"{resize.get(opset, default)} {JOIN}"
    assert_rewrites(RULE, net(before=before, opset=opset), count=1, local=opset > 10)
    assert_rewrites(RULE, net(SAME, before, kernel=(3, 3), opset=opset), count=2, local=opset > 10)


def test_half_precision() -> None:
    assert_rewrites(RULE, net(dtype=np.float16, out="float16[N, C, P, Q] y"), count=1)


TWO = "float[N, C, P, Q] y, float[N, D, R, S] "


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net(out=TWO + "j"), "'j' is a graph output"),
        (net(POINT + " q = Neg (j)", out=TWO + "q"), "'j' has a second consumer (Neg)"),
        (net(out=TWO + "u"), "'u' is a graph output"),
        (net("y = Conv <strides = [2, 2]> (j, w)"), "a stride or groups"),
        (net("y = Conv <group = 5> (j, k)", extra={"k": np.ones((5, 1, 1, 1), np.float32)}), "a stride or groups"),
        (net("y = Conv (j, k)", more=", float[4, 5, 1, 1] k"), "the weights are not constant"),
        (net(SAME, f"{LINEAR} {JOIN}", kernel=(3, 3)), "mode 'linear' mixes pixels"),
        (net(before=f"{LINEAR} v = Relu (u) j = Concat <axis = 1> (v, z)"), "Relu behind a Resize of mode 'linear'"),
        (net(before=f'u = Resize <mode = "cubic", exclude_outside = 1> (x, , s) {JOIN}'), "need not add up to 1"),
        (net(before=f"u = Resize (x, , s) {JOIN}", scale=(1, 1, 0.5, 0.5), small="12, 16"), None),
        (net(before="j = Concat <axis = 1> (z, z)", channels=6), None),
        (net(before=f"{REPEAT} j = Concat <axis = 2> (u, q)", channels=2, more=", float[N, 2, 1, 8] q"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    fed = {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    assert_declines(RULE, proto, reason, sizes=fed)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    scale=st.integers(2, 3),
)
def test_random_parameters(kernel: tuple[int, int], pads: list[int], dilations: tuple[int, int], scale: int) -> None:
    conv = f"y = Conv <pads = {pads}, dilations = {list(dilations)}> (j, w, b)"
    large = f"{4 * scale}, {5 * scale}"
    proto = net(conv, kernel=kernel, scale=(1, 1, scale, scale), small="4, 5", large=large)
    assert_exact_on_integers(RULE, proto)
    assert_rewrites(RULE, proto)
