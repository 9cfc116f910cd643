"""space_to_depth_stem: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

from collections.abc import Mapping
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

RULE = "space_to_depth_stem"
GPU: Mapping[str, Any] = {"provider": "cuda"}


def net(
    attributes: str = "strides = [2, 2], pads = [3, 3, 3, 3]",
    kernel: tuple[int, ...] = (7, 7),
    size: str = "17, 20",
    *,
    inputs: str = "x, w, b",
    channels: int = 3,
    group: int = 1,
    more: str = "",
    opset: int = 17,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, channels // group, *kernel)), "b": rng.standard_normal(4)}
    kind = "float16" if dtype == np.float16 else "float"
    named = {k: v.astype(dtype) for k, v in weights.items() if k in inputs.split(", ")}
    body = f"y = Conv <{attributes}> ({inputs})"
    text = f"g ({kind}[N, {channels}, {size}] x{more}) => ({kind}[N, 4{', P' * len(kernel)}] y) {{ {body} }}"
    return model_of(text, named, opset=opset)


STEMS = [
    ("strides = [2, 2], pads = [3, 3, 3, 3]", (7, 7)),
    ("strides = [2, 2], pads = [2, 2, 3, 3]", (7, 7)),
    ("strides = [4, 4], pads = [2, 2, 2, 2]", (11, 11)),
    ("strides = [4, 4]", (11, 11)),
    ("strides = [2, 2], pads = [1, 1, 1, 1]", (3, 3)),
    ("strides = [4, 4]", (4, 4)),
    ("strides = [3, 3], pads = [0, 2, 1, 0]", (5, 4)),
    ('strides = [2, 2], auto_pad = "VALID"', (6, 5)),
    ("strides = [5, 5]", (3, 3)),
]


@pytest.mark.parametrize(("attributes", "kernel"), STEMS)
@pytest.mark.parametrize("size", ["16, 20", "17, 13", "19, 18", "11, 15"])
def test_any_size(attributes: str, kernel: tuple[int, int], size: str) -> None:
    proto = net(attributes, kernel, size)
    assert_rewrites(RULE, proto, settings=GPU, count=1, contains={"SpaceToDepth": 1, "Conv": 1})
    assert_exact_on_integers(RULE, proto, settings=GPU)


def test_whole_blocks_need_no_pad() -> None:
    assert_rewrites(RULE, net(size="16, 20"), settings=GPU, count=1, contains={"Pad": 0})
    assert_rewrites(RULE, net(size="17, 20"), settings=GPU, count=1, contains={"Pad": 1})


@pytest.mark.parametrize(("attributes", "kernel"), STEMS)
def test_complete_on_impulses(attributes: str, kernel: tuple[int, int]) -> None:
    assert_affine_equal(RULE, net(attributes, kernel, "16, 13"), settings=GPU)


def test_no_bias_and_half_precision() -> None:
    assert_rewrites(RULE, net(inputs="x, w"), settings=GPU, count=1)
    assert_rewrites(RULE, net(dtype=np.float16), settings=GPU, count=1)


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
def test_opsets(opset: int) -> None:
    assert_rewrites(RULE, net(opset=opset), settings=GPU, count=1)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net(size="H, 20"), "height or width is not known"),
        (net(size="H, W"), "height or width is not known"),
        (net("strides = [2, 1], pads = [3, 3, 3, 3]"), "strides 2 and 1"),
        (net("strides = [2, 2], dilations = [2, 1]"), "dilations"),
        (net('strides = [2, 2], auto_pad = "SAME_UPPER"'), "auto_pad SAME_UPPER"),
        (net(inputs="x, k", more=", float[4, 3, 7, 7] k"), "the weights are not constant"),
        (net(inputs="x, w, k", more=", float[4] k"), "the weights are not constant"),
        (net("strides = [20, 20], pads = [12, 12, 0, 0]", (7, 7), "6, 6"), "nothing but padding"),
        (net("group = 4, strides = [2, 2]", channels=4, group=4), None),
        (net("strides = [2, 2]", channels=8), None),
        (net("strides = [2, 2]", (2, 2)), None),
        (net("strides = [1, 1]"), None),
        (net("strides = [2]", (7,), "20"), None),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str | None) -> None:
    fed = {v.name: tuple(d.dim_value or 20 for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    assert_declines(RULE, proto, reason, settings=GPU, sizes=fed)


def test_nothing_is_tried_on_the_cpu_provider() -> None:
    assert said_by(RULE, net()) == []


def test_other_convolutions_are_no_near_miss() -> None:
    assert said_by(RULE, net("strides = [2, 2]", (1, 1)), GPU) == []


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    stride=st.integers(2, 5),
    kernel=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    size=st.tuples(st.integers(9, 16), st.integers(9, 16)),
    channels=st.integers(1, 4),
)
def test_random_parameters(
    stride: int, kernel: tuple[int, int], pads: list[int], size: tuple[int, int], channels: int
) -> None:
    attributes = f"strides = {[stride, stride]}, pads = {pads}"
    proto = net(attributes, kernel, f"{size[0]}, {size[1]}", channels=channels)
    assert_rewrites(RULE, proto, settings=GPU, count=1, contains={"SpaceToDepth": 1})
    assert_exact_on_integers(RULE, proto, settings=GPU)
