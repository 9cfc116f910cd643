"""regroup_conv: coarser and finer groups are equal to the bit, other layers are left alone."""

from __future__ import annotations

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

RULE = "regroup_conv"
Array = NDArray[np.float64]


def random(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape)


def layer(
    w: Array, attributes: str, *, op: str = "Conv", x: str = "N, 16, 7, 9", bias: bool = True, kind: str = "float"
) -> onnx.ModelProto:
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    out = w.shape[1] * int(attributes.split("group = ")[1].split(",")[0]) if op == "ConvTranspose" else w.shape[0]
    weights = {"w": (w / 8).astype(dtype)} | ({"b": random(out).astype(dtype)} if bias else {})
    body = f"y = {op} <{attributes}> (x, w{', b' if bias else ''})"
    return model_of(f"g ({kind}[{x}] x) => ({kind}[{', '.join('NCPQR'[: w.ndim])}] y) {{ {body} }}", weights)


def groups(proto: onnx.ModelProto) -> list[int]:
    return [s.settings["groups"] for s in said_by(RULE, proto) if isinstance(s, Proposal)]


def diagonal(blocks: int, rows: int, columns: int, *taps: int) -> Array:
    """(blocks * rows, blocks * columns, taps), zero outside of the blocks."""
    w = np.zeros((blocks, rows, blocks, columns, *taps))
    for j in range(blocks):
        w[j, :, j] = random(rows, columns, *taps) + 3
    return w.reshape(blocks * rows, blocks * columns, *taps)


WINDOWS = [
    "",
    ", pads = [1, 2, 0, 1], strides = [2, 1]",
    ", pads = [2, 2, 2, 2], dilations = [2, 2]",
    ', auto_pad = "SAME_UPPER", strides = [2, 2]',
]


@pytest.mark.parametrize("window", WINDOWS)
def test_coarser(window: str) -> None:
    proto = layer(random(24, 2, 3, 3), f"group = 8{window}")
    assert groups(proto) == [2, 1]
    assert_rewrites(RULE, proto, count=2, contains={"Conv": 1})
    assert_exact_on_integers(RULE, proto)


@pytest.mark.parametrize("window", WINDOWS)
def test_finer(window: str) -> None:
    proto = layer(diagonal(4, 6, 4, 3, 3), f"group = 1{window}")
    assert groups(proto) == [2, 4]
    assert_rewrites(RULE, proto, contains={"Conv": 1})
    assert_exact_on_integers(RULE, proto)


def test_complete_affine_proof() -> None:
    window = "pads = [1, 2, 0, 1], strides = [2, 1]"
    assert_affine_equal(RULE, layer(random(24, 2, 3, 3), f"group = 8, {window}", x="1, 16, 9, 12"))
    assert_affine_equal(RULE, layer(diagonal(4, 6, 4, 3, 3), f"group = 1, {window}", x="1, 16, 9, 12"))


def test_finer_than_groups_and_of_a_good_size() -> None:
    w = np.concatenate([diagonal(4, 2, 4, 1, 1)] * 2)
    assert groups(layer(w, "group = 2", x="N, 32, 5, 5")) == [4, 8]
    assert_rewrites(RULE, layer(w, "group = 2", x="N, 32, 5, 5"))


def test_transposed() -> None:
    coarse = layer(random(16, 3, 2, 2), "group = 8, strides = [2, 2]", op="ConvTranspose")
    assert groups(coarse) == [2, 1]
    fine = layer(diagonal(4, 4, 3, 2, 2), "group = 1, strides = [2, 2]", op="ConvTranspose")
    assert groups(fine) == [4]
    for proto in (coarse, fine):
        assert_rewrites(RULE, proto)


def test_transposed_depthwise_is_joined() -> None:
    proto = layer(random(16, 1, 2, 2), "group = 16, strides = [2, 2]", op="ConvTranspose")
    assert groups(proto) == [2]
    assert_rewrites(RULE, proto)


@pytest.mark.parametrize("x", ["N, 16, 9", "N, 16, 4, 5, 6", "N, 16, H, W"])
def test_maps_of_other_shapes(x: str) -> None:
    w = random(24, 2, *[3] * (x.count(",") - 1))
    sizes = {"x": (1, 16, 7, 6)} if "H" in x else None
    assert_rewrites(RULE, layer(w, "group = 8", x=x, bias=False), sizes=sizes)


def test_multiplier() -> None:
    assert groups(layer(random(32, 1, 3, 3), "group = 16")) == [2]


@pytest.mark.parametrize("kind", ["float16"])
def test_other_precisions(kind: str) -> None:
    assert_rewrites(RULE, layer(random(24, 2, 3, 3), "group = 8", kind=kind))
    assert_rewrites(RULE, layer(diagonal(4, 6, 4, 3, 3), "group = 1", kind=kind))


def test_settings() -> None:
    proto = layer(random(24, 2, 3, 3), "group = 8")
    said = said_by(RULE, proto, {"blocks": [4], "growth": 4})
    assert [s.settings["groups"] for s in said if isinstance(s, Proposal)] == [4]


def permuted() -> Array:
    w = diagonal(4, 6, 4, 3, 3)
    return w[:, np.random.default_rng(0).permutation(16)]


FED = "g (float[N, 16, 7, 9] x, float[24, 2, 3, 3] w) => (float[N, C, P, Q] y) { y = Conv <group = 8> (x, w) }"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (model_of(FED), "'w' is not constant"),
        (layer(permuted(), "group = 1"), "permutation"),
        (layer(random(16, 1, 3, 3), "group = 16"), None),
        (layer(random(24, 16, 3, 3), "group = 1"), None),
        (layer(np.zeros((24, 16, 3, 3)), "group = 1"), None),
        (layer(random(64, 32, 1, 1), "group = 16", x="N, 512, 3, 3"), None),
        (layer(np.where(np.arange(16)[None, :, None, None] < 8, 0, random(24, 16, 3, 3)), "group = 1"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    assert_declines(RULE, proto, reason)
    assert not [s for s in said_by(RULE, proto) if isinstance(s, Decline) and "the rule failed" in s.reason]


def test_says_nothing_about_depthwise_layers_that_are_fed() -> None:
    fed = FED.replace("24, 2, 3, 3", "16, 1, 3, 3").replace("group = 8", "group = 16")
    assert not said_by(RULE, model_of(fed))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    count=st.integers(2, 8),
    rows=st.integers(2, 5),
    columns=st.integers(1, 5),
    kernel=st.lists(st.integers(1, 3), min_size=2, max_size=2),
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    dense=st.booleans(),
)
def test_random_layers(count: int, rows: int, columns: int, kernel: list[int], op: str, dense: bool) -> None:
    into = count * (columns if op == "Conv" else rows)
    w: Any = diagonal(count, rows, columns, *kernel) if dense else random(count * rows, columns, *kernel)
    proto = layer(w, f"group = {1 if dense else count}", op=op, x=f"N, {into}, 5, 6")
    if groups(proto):
        assert_rewrites(RULE, proto)
        if op == "Conv":  # onnx's reference does not know groups of a ConvTranspose
            assert_exact_on_integers(RULE, proto)
    else:
        assert not dense
