"""subpixel_to_transpose: fires and is equal, declines with a reason, holds on random parameters."""

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

RULE = "subpixel_to_transpose"
SIZES = {"x": (1, 4, 6, 5)}
SHUFFLE = "y = DepthToSpace <blocksize = {}, mode = {}> (c)"


def net(
    conv: str = "c = Conv (x, w, b)",
    *,
    block: int = 2,
    mode: str = '"CRD"',
    tail: str = SHUFFLE,
    biases: str = "equal",
    kernel: tuple[int, int] = (1, 1),
    outputs: int = 3,
    group: int = 1,
    shape: str = "N, 4, H, W",
    out: str = "float[N, C, P, Q] y",
    more: str = "",
    opset: int = 17,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    """A Conv of x to c, then DepthToSpace. Biases are equal within a block or different."""
    rng = np.random.default_rng(0)
    each = rng.standard_normal(outputs)
    bias = np.repeat(each, block**2) if mode == '"CRD"' else np.tile(each, block**2)
    if biases == "different":
        bias = rng.standard_normal(bias.shape)
    weights: dict[str, Any] = {"w": rng.standard_normal((outputs * block**2, 4 // group, *kernel)), "b": bias}
    weights = {k: v.astype(dtype) for k, v in weights.items() if f", {k}" in conv}
    kind = "float16" if dtype == np.float16 else "float"
    text = f"g ({kind}[{shape}] x{more}) => ({out}) {{ {conv} {tail.format(block, mode)} }}"
    return model_of(text, weights, opset=opset)


MODES = ['"CRD"', '"DCR"']


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("biases", ["equal", "different"])
def test_pointwise(mode: str, block: int, biases: str) -> None:
    proto = net(mode=mode, block=block, biases=biases)
    pads = 1 if biases == "different" and block > 1 else 0
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"ConvTranspose": 1, "DepthToSpace": 0, "Pad": pads})
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


PADS = ["[1, 1, 1, 1]", "[0, 0, 0, 0]", "[2, 0, 0, 1]", "[0, 2, 2, 0]"]


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("biases", ["equal", "different"])
def test_any_pads(pads: str, biases: str) -> None:
    for mode in MODES:
        proto = net(f"c = Conv <pads = {pads}> (x, w, b)", kernel=(3, 3), mode=mode, biases=biases)
        assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"ConvTranspose": 1})
        assert_exact_on_integers(RULE, proto, sizes=SIZES)


@pytest.mark.parametrize("pads", PADS)
def test_complete_on_impulses(pads: str) -> None:
    shape = "1, 4, 6, 8"
    for biases in ("equal", "different"):
        proto = net(f"c = Conv <pads = {pads}> (x, w, b)", kernel=(3, 3), biases=biases, shape=shape)
        assert_affine_equal(RULE, proto)


def test_pads_beyond_the_kernel() -> None:
    proto = net("c = Conv <pads = [3, 0, 2, 4]> (x, w, b)", kernel=(2, 3))
    assert_rewrites(RULE, proto, sizes=SIZES, count=1)
    assert_exact_on_integers(RULE, proto, sizes=SIZES)


def test_auto_pad_even_kernels_and_no_bias() -> None:
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        proto = net(f'c = Conv <auto_pad = "{auto}"> (x, w, b)', kernel=(2, 3), biases="different")
        assert_rewrites(RULE, proto, sizes=SIZES, count=1)
    assert_rewrites(RULE, net("c = Conv (x, w)", kernel=(3, 2)), sizes=SIZES, count=1, contains={"Pad": 0})


def test_activations_move_behind() -> None:
    slope = "k = Constant <value = float[1] {{0.2}}> ()"
    tail = f"{slope} d = Relu (c) e = PRelu (d, k) y = DepthToSpace <blocksize = {{}}, mode = {{}}> (e)"
    for after in assert_rewrites(RULE, net(tail=tail), sizes=SIZES, count=1):
        kinds = [n.op_type for n in after.graph.node if n.op_type != "Constant"]
        assert kinds == ["ConvTranspose", "Relu", "PRelu"]


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
def test_opsets(opset: int) -> None:
    tail = "y = DepthToSpace <blocksize = {}> (c)" if opset < 11 else SHUFFLE
    proto = net(mode='"DCR"', tail=tail, opset=opset)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1)
    different = net(mode='"DCR"', tail=tail, opset=opset, biases="different")
    if opset < 11:
        assert_declines(RULE, different, "biases differ", sizes=SIZES)
    else:
        assert_rewrites(RULE, different, sizes=SIZES, count=1, contains={"Pad": 1})


@pytest.mark.parametrize("biases", ["equal", "different"])
def test_half_precision(biases: str) -> None:
    proto = net(dtype=np.float16, biases=biases, out="float16[N, C, P, Q] y")
    assert_rewrites(RULE, proto, sizes=SIZES, count=1)


THREE = (3, 3)
SLOPES = f"k = Constant <value = float[12, 1, 1] {{{', '.join(['0.5'] * 12)}}}> ()"
TWO = "float[N, C, P, Q] y, float[N, D, R, S] "


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net("c = Conv <strides = [2, 2]> (x, w)"), "a stride, dilations or groups"),
        (net("c = Conv <dilations = [2, 2]> (x, w)", kernel=THREE), "a stride, dilations or groups"),
        (net("c = Conv <group = 2> (x, w)", group=2, outputs=2), "a stride, dilations or groups"),
        (net("c = Conv <pads = [1, 2, 2, 2]> (x, w, b)", kernel=THREE, biases="different"), "the biases differ"),
        (net(out=TWO + "c"), "'c' is a graph output"),
        (net(tail=SHUFFLE + " z = Neg (c)", out=TWO + "z"), "second consumer (Neg)"),
        (net("c = Conv (x, k)", more=", float[12, 4, 1, 1] k"), "the weights are not constant"),
        (net("c = Conv (x, w, k)", more=", float[12] k"), "the weights are not constant"),
        (net(f"q = Conv (x, w, b) {SLOPES} c = PRelu (q, k)"), "PRelu has parameters per channel"),
        (net("q = Conv (x, w, b) c = Softmax <axis = 1> (q)"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    fed = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    assert_declines(RULE, proto, reason, sizes={**fed, **SIZES})


def test_other_makers_are_no_near_miss() -> None:
    assert said_by(RULE, net("c = Relu (x)")) == []


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    mode=st.sampled_from(MODES),
    block=st.integers(2, 4),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    biases=st.sampled_from(["equal", "different"]),
)
def test_random_parameters(mode: str, block: int, kernel: tuple[int, int], pads: list[int], biases: str) -> None:
    conv = f"c = Conv <pads = {pads}> (x, w, b)"
    carried = all(pads[i] + pads[i + 2] < kernel[i] for i in range(2))
    proto = net(conv, mode=mode, block=block, kernel=kernel, biases=biases if carried else "equal", outputs=2)
    assert_exact_on_integers(RULE, proto, sizes=SIZES)
    assert_rewrites(RULE, proto, sizes=SIZES, count=1, contains={"DepthToSpace": 0})
