"""cascade_max_pool: fires and is equal, declines with a reason, holds on random parameters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.testing import assert_declines, assert_rewrites, model_of, said_by

RULE = "cascade_max_pool"


def pool(attributes: str, *, shape: str = "N, 3, 13, 11", kind: str = "float", opset: int = 17) -> onnx.ModelProto:
    axes = ", ".join("CPQRS"[: shape.count(",")])
    text = f"g ({kind}[{shape}] x) => ({kind}[N, {axes}] y) {{ y = MaxPool<{attributes}>(x) }}"
    return model_of(text, opset=opset)


def same(height: int, width: int) -> str:
    h, w = height // 2, width // 2
    return f"kernel_shape = [{height}, {width}], pads = [{h}, {w}, {height - 1 - h}, {width - 1 - w}]"


def pyramid(kernels: list[int], *, shape: str = "N, 4, 13, 11", join: bool = True) -> onnx.ModelProto:
    """Spatial pyramid pooling: the input and its pools, concatenated or as outputs."""
    nodes = " ".join(f"p{i} = MaxPool<{same(k, k)}>(x)" for i, k in enumerate(kernels))
    names = [f"p{i}" for i in range(len(kernels))]
    if join:
        return model_of(
            f"g (float[{shape}] x) => (float[N, C, P, Q] y) {{ {nodes} y = Concat<axis = 1>(x, {', '.join(names)}) }}"
        )
    outputs = ", ".join(f"float[N, C, P, Q] {n}" for n in names)
    return model_of(f"g (float[{shape}] x) => ({outputs}) {{ {nodes} }}")


@pytest.mark.parametrize("kernel", [(5, 5), (9, 5), (13, 13), (7, 15), (6, 8)])
def test_single_pool_in_both_forms(kernel: tuple[int, int]) -> None:
    assert_rewrites(RULE, pool(same(*kernel)), count=2)


def test_separable_form_has_a_pool_for_each_axis() -> None:
    after = assert_rewrites(RULE, pool(same(9, 5)), count=2)
    kernels = [[list(n.attribute[0].ints) for n in m.graph.node] for m in after]
    assert kernels == [[[9, 1], [1, 5]], [[3, 3], [3, 3], [3, 1], [3, 1]]]


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("shape", ["N, 4, 13, 11", "N, 4, H, W", "N, 4, 3, 2"])
def test_pyramid_pooling(shape: str, join: bool) -> None:
    sizes = {"x": (1, 4, 7, 9)} if "H" in shape else None
    assert_rewrites(RULE, pyramid([13, 5, 9], shape=shape, join=join), sizes=sizes, count=2)


def test_pyramid_is_one_chain_of_small_pools() -> None:
    first, second = assert_rewrites(RULE, pyramid([5, 9, 13]), count=2)
    assert [list(n.attribute[0].ints) for n in first.graph.node[:3]] == [[5, 5]] * 3
    assert [n.op_type for n in second.graph.node] == ["MaxPool"] * 6 + ["Concat"]
    assert [n.input[0] for n in first.graph.node[1:3]] == ["p0", "p1"]


def test_twins_and_pools_that_do_nothing() -> None:
    assert_rewrites(RULE, pyramid([1, 5, 5, 3]), count=2)


def test_pools_that_are_not_nested_stay_by_themselves() -> None:
    text = f"p = MaxPool<{same(9, 5)}>(x) q = MaxPool<{same(5, 9)}>(x)"
    proto = model_of(f"g (float[N, 3, 13, 11] x) => (float[N, C, P, Q] p, float[N, D, R, S] q) {{ {text} }}")
    assert_rewrites(RULE, proto, count=4)


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [5, 7], pads = [1, 4, 3, 2]",  # keeps the size, asymmetric
        "kernel_shape = [5, 5], pads = [4, 0, 0, 4]",
        'kernel_shape = [5, 6], auto_pad = "SAME_UPPER"',
        'kernel_shape = [6, 5], auto_pad = "SAME_LOWER"',
        "kernel_shape = [5, 5], pads = [2, 2, 2, 2], ceil_mode = 1",
        "kernel_shape = [5, 5], pads = [2, 2, 2, 2], storage_order = 1",
    ],
)
def test_pools_that_keep_the_size(attributes: str) -> None:
    assert_rewrites(RULE, pool(attributes), count=2)


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [5, 7]",
        'kernel_shape = [5, 7], auto_pad = "VALID"',
        "kernel_shape = [7, 5], strides = [3, 1]",
        "kernel_shape = [7, 7], strides = [3, 2], pads = [0, 6, 5, 1]",
    ],
)
def test_other_pools_are_only_separable(attributes: str) -> None:
    assert_rewrites(RULE, pool(attributes), count=1, contains={"MaxPool": 2})


@pytest.mark.parametrize(("kind", "opset"), [("float", 7), ("float", 9), ("int8", 17), ("uint8", 12), ("double", 17)])
def test_types_and_opsets(kind: str, opset: int) -> None:
    assert_rewrites(RULE, pool(same(5, 5), kind=kind, opset=opset), count=2)


INDICES = "float[N, C, P, Q] y, int64[N, C, P, Q] i"


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (pool("kernel_shape = [5, 5], strides = [2, 2], ceil_mode = 1"), "ceil_mode = 1 with a stride"),
        (pool("kernel_shape = [5, 5], dilations = [1, 2]"), "dilations"),
        (pool('kernel_shape = [5, 5], strides = [2, 1], auto_pad = "SAME_UPPER"'), "auto_pad SAME_UPPER"),
        (pool("kernel_shape = [9], pads = [4, 4]", shape="N, 3, 13"), "1 axes"),
        (pool("kernel_shape = [5, 5, 5]", shape="N, 3, 7, 7, 7"), "3 axes"),
        (
            model_of(f"g (float[N, 3, 9, 7] x) => ({INDICES}) {{ y, i = MaxPool<kernel_shape = [5, 5]>(x) }}"),
            "Indices",
        ),
    ],
)
def test_declines(proto: onnx.ModelProto, reason: str) -> None:
    assert_declines(RULE, proto, reason)


@pytest.mark.parametrize("attributes", [same(3, 3), same(9, 3), same(5, 1), "kernel_shape = [2, 2], strides = [2, 2]"])
def test_small_pools_are_no_near_miss(attributes: str) -> None:
    assert said_by(RULE, pool(attributes)) == []


def test_smallest_kernel_is_a_setting() -> None:
    assert_rewrites(RULE, pool(same(3, 3)), settings={"kernel": 3}, count=2)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    reaches=st.lists(st.tuples(*[st.integers(0, 5)] * 4), min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    step=st.sampled_from([3, 5]),
)
def test_random_pools_of_one_input(reaches: list[tuple[int, int, int, int]], size: tuple[int, int], step: int) -> None:
    nodes = ""
    for i, (top, left, bottom, right) in enumerate([(2, 2, 2, 2), *reaches]):
        kernel = [top + bottom + 1, left + right + 1]
        nodes += f" p{i} = MaxPool<kernel_shape = {kernel}, pads = [{top}, {left}, {bottom}, {right}]>(x)"
    outputs = ", ".join(f"float[N, C, P, Q] p{i}" for i in range(len(reaches) + 1))
    proto = model_of(f"g (float[N, 2, {size[0]}, {size[1]}] x) => ({outputs}) {{ {nodes} }}")
    assert_rewrites(RULE, proto, settings={"step": step})


def test_declines_behind_a_pad() -> None:
    """ONNX Runtime fuses the Pad into the first pool of the chain and then refuses pads that reach its kernel."""
    proto = model_of(
        """g (float[N, 4, 12, 9] x) => (float[N, 4, A, B] y) {
            p = Pad (x, pads)
            y = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (p)
        }""",
        {"pads": np.array([0, 0, 1, 1, 0, 0, 0, 2])},
    )
    assert_declines("cascade_max_pool", proto, "a Pad stands before it")
