"""crop_dead_taps: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtimes import opsets

from onnxtune.testing import (
    assert_affine_equal,
    assert_declines,
    assert_exact_on_integers,
    assert_rewrites,
    model_of,
    said_by,
)

RULE = "crop_dead_taps"
RNG = np.random.default_rng(0)


def conv(
    attributes: str,
    size: str,
    *,
    weight: tuple[int, ...] | NDArray[np.float64] = (4, 3, 3, 3),
    bias: bool = True,
    opset: int = 17,
    kind: str = "float",
    out: str = "N, C, P, Q",
) -> onnx.ModelProto:
    dtype = np.float16 if kind == "float16" else np.float32
    values = RNG.standard_normal(weight) if isinstance(weight, tuple) else weight
    weights = {"w": values.astype(dtype)} | ({"b": RNG.standard_normal(len(values)).astype(dtype)} if bias else {})
    text = f"y = Conv<{attributes}>(x, w{', b' if bias else ''})"
    return model_of(f"g ({kind}[N, 3, {size}] x) => ({kind}[{out}] y) {{ {text} }}", weights, opset=opset)


def pool(attributes: str, size: str, op_type: str = "MaxPool", *, opset: int = 17) -> onnx.ModelProto:
    text = f"g (float[N, 3, {size}] x) => (float[N, C, P, Q] y) {{ y = {op_type}<{attributes}>(x) }}"
    return model_of(text, opset=opset)


def attributes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    return {a.name: list(a.ints) for a in proto.graph.node[0].attribute if a.ints}


SAME = "pads = [1, 1, 1, 1]"


@pytest.mark.parametrize(
    ("given_attributes", "size", "expected"),
    [
        (SAME, "1, 1", {"kernel_shape": [1, 1]}),
        (SAME, "1, 5", {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}),
        (SAME, "1, W", {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}),
        ("pads = [18, 18, 18, 18], dilations = [18, 18]", "14, 18", {"kernel_shape": [1, 1]}),
        (
            "pads = [6, 6, 6, 6], dilations = [6, 6]",
            "7, 6",
            {"kernel_shape": [3, 1], "pads": [6, 0, 6, 0], "dilations": [6, 1]},
        ),
        ("pads = [1, 1, 1, 1], strides = [2, 2]", "2, 1", {"kernel_shape": [2, 1], "strides": [2, 2]}),
        ("pads = [3, 0, 2, 0]", "1, 4", {"kernel_shape": [3, 3], "pads": [3, 0, 2, 0]}),
        ('auto_pad = "SAME_UPPER"', "1, 1", {"kernel_shape": [1, 1]}),
    ],
)
def test_convolution(given_attributes: str, size: str, expected: dict[str, list[int]]) -> None:
    proto = conv(given_attributes, size)
    sizes = {"x": (1, 3, 1, 5)} if "W" in size else None
    if expected["kernel_shape"] == [3, 3]:
        assert said_by(RULE, proto) == []
    else:
        assert attributes(assert_rewrites(RULE, proto, sizes=sizes, count=1)[0]) == expected


@pytest.mark.parametrize("opset", opsets(7, 11, 22))
def test_opsets_groups_and_no_bias(opset: int) -> None:
    proto = conv("pads = [2, 1, 2, 1], group = 3", "1, 2", weight=(6, 1, 5, 3), bias=False, opset=opset)
    assert_rewrites(RULE, proto, count=1)


def test_half_precision_one_and_three_axes() -> None:
    assert_rewrites(RULE, conv(SAME, "1, 1", kind="float16"), count=1)
    assert_rewrites(RULE, conv("pads = [2, 2]", "2", weight=(4, 3, 5), out="N, C, P"), count=1)
    cube = conv("pads = [1, 1, 1, 1, 1, 1]", "1, 4, 3", weight=(4, 3, 3, 3, 3), out="N, C, P, Q, R")
    assert_rewrites(RULE, cube, count=1)


def holed(rows: list[int], columns: list[int], kernel: tuple[int, int] = (5, 5)) -> NDArray[np.float64]:
    """Weights that are zero in these rows and columns."""
    weight = RNG.standard_normal((4, 3, *kernel))
    weight[:, :, rows] = 0
    weight[..., columns] = 0
    return weight


@pytest.mark.parametrize(
    ("rows", "columns", "pads", "expected"),
    [
        ([0, 4], [0, 4], [2, 2, 2, 2], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ([0], [], [2, 2, 2, 2], {"kernel_shape": [4, 5], "pads": [1, 2, 2, 2]}),
        ([0, 1, 3, 4], [3, 4], [2, 2, 2, 2], {"kernel_shape": [1, 3], "pads": [0, 2, 0, 0]}),
        ([0, 1], [4], [1, 0, 0, 1], {"kernel_shape": [4, 4]}),
        ([0, 1, 2, 3, 4], [], [2, 2, 2, 2], {"kernel_shape": [3, 3], "pads": [0, 0, 2, 2]}),
    ],
)
def test_rows_and_columns_of_zeros(
    rows: list[int], columns: list[int], pads: list[int], expected: dict[str, list[int]]
) -> None:
    for size in ("9, 7", "H, W"):
        proto = conv(f"pads = {pads}, strides = [1, 1]", size, weight=holed(rows, columns))
        after = assert_rewrites(RULE, proto, sizes={"x": (1, 3, 8, 9)} if "H" in size else None, count=1)[0]
        assert attributes(after) == expected


def test_zeros_inside_or_without_pads_stay() -> None:
    assert said_by(RULE, conv("pads = [2, 2, 2, 2]", "9, 7", weight=holed([1, 2, 3], [2]))) == []
    assert said_by(RULE, conv("strides = [2, 2]", "9, 7", weight=holed([0], [4]))) == []


@pytest.mark.parametrize(
    ("op_type", "given_attributes", "size", "expected"),
    [
        ("MaxPool", "kernel_shape = [3, 3], " + SAME, "1, 4", {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}),
        ("AveragePool", "kernel_shape = [3, 3], " + SAME, "1, 4", {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}),
        (
            "MaxPool",
            "kernel_shape = [3, 3], strides = [2, 2], " + SAME,
            "2, 1",
            {"kernel_shape": [2, 1], "strides": [2, 2], "pads": [0, 0, 0, 0]},
        ),
        (
            "MaxPool",
            'kernel_shape = [3, 2], auto_pad = "SAME_UPPER"',
            "1, 4",
            {"kernel_shape": [1, 2], "pads": [0, 0, 0, 1]},
        ),
    ],
)
def test_pools(op_type: str, given_attributes: str, size: str, expected: dict[str, list[int]]) -> None:
    after = assert_rewrites(RULE, pool(given_attributes, size, op_type), count=1)[0]
    assert attributes(after) == expected


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_a_pool_of_one_pixel_goes(op_type: str) -> None:
    proto = pool("kernel_shape = [3, 3], " + SAME, "1, 1", op_type)
    assert_rewrites(RULE, proto, count=1, contains={op_type: 0})


COUNTED = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (pool(COUNTED, "1, 4", "AveragePool"), "counts its padding"),
        (pool("kernel_shape = [3, 3], ceil_mode = 1, strides = [2, 2], " + SAME, "1, 4"), "ceil_mode = 1"),
        (
            model_of(
                f"""g (float[N, 3, 1, 4] x) => (float[N, C, P, Q] y, int64[N, D, R, S] i) {{
                    y, i = MaxPool<kernel_shape = [3, 3], {SAME}>(x) }}"""
            ),
            "Indices",
        ),
        (
            model_of(
                f"g (float[N, 3, 1, 4] x, float[4, 3, 3, 3] w) => (float[N, C, P, Q] y) {{ y = Conv<{SAME}>(x, w) }}"
            ),
            "not constant",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    sizes = {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in proto.graph.input}
    assert_declines(RULE, proto, reason, sizes=sizes)


def test_measured_sizes_prove_nothing() -> None:
    proto = conv(SAME, "H, W")
    assert_declines(RULE, proto, None, sizes={"x": (1, 3, 1, 1)})


def test_nothing_to_say() -> None:
    for proto in (conv(SAME, "2, 3"), conv("strides = [2, 2]", "3, 3"), pool("kernel_shape = [2, 2]", "2, 2")):
        assert said_by(RULE, proto) == []


def test_shared_weights_stay_for_the_other_reader() -> None:
    text = f"""g (float[N, 3, 1, 1] x, float[N, 3, 4, 4] z) => (float[N, 4, 1, 1] y, float[N, 4, 4, 4] v) {{
        y = Conv<{SAME}>(x, w) v = Conv<{SAME}>(z, w) }}"""
    assert_rewrites(RULE, model_of(text, {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}), count=1)


def test_bits_are_equal_on_integers() -> None:
    assert_exact_on_integers(RULE, conv("pads = [5, 5, 5, 5], dilations = [5, 5], strides = [2, 1]", "5, 7"))
    assert_exact_on_integers(RULE, conv("pads = [2, 2, 2, 2]", "6, 7", weight=holed([0, 4], [4])))


def test_affine_function_is_the_same() -> None:
    assert_affine_equal(RULE, conv("pads = [5, 5, 5, 5], dilations = [5, 5]", "5, 7"))
    assert_affine_equal(RULE, conv("pads = [2, 1, 2, 2], strides = [2, 1]", "9, 12", weight=holed([0, 4], [4])))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    op_type=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    zero=st.lists(st.integers(0, 4), max_size=2),
)
def test_random_parameters(
    op_type: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: list[int],
    size: tuple[int, int],
    zero: list[int],
) -> None:
    window = f"strides = {list(strides)}"
    if op_type == "Conv":
        window += f", dilations = {list(dilations)}"
        reach = [h + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) for i, h in enumerate(size)]
    else:
        pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
        reach = [h + pads[i] + pads[i + 2] - kernel[i] + 1 for i, h in enumerate(size)]
    if min(reach) < 1:
        return  # no output at all
    shape, window = f"{size[0]}, {size[1]}", f"{window}, pads = {pads}"
    if op_type == "Conv":
        proto = conv(window, shape, weight=holed([z for z in zero if z < kernel[0]], [], kernel))
    else:
        proto = pool(f"kernel_shape = {list(kernel)}, {window}", shape, op_type)
    if said_by(RULE, proto):
        assert_rewrites(RULE, proto, count=1)
