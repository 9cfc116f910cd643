"""Stencils: sums and compositions equal what ONNX Runtime computes step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxtune.stencil import Stencil, applied, box, composed, identity, summed
from onnxtune.testing import model_of
from onnxtune.windows import Window

RNG = np.random.default_rng(0)


def run(x: Any, layers: Sequence[Stencil]) -> Any:
    """The layers one after the other."""
    nodes, weights = [], {}
    for i, s in enumerate(layers):
        w = s.window
        given = f"group = {s.group}, strides = {list(w.strides)}, dilations = {list(w.dilations)}, pads = {w.pads}"
        nodes.append(f"t{i + 1} = Conv <{given}> (t{i}, w{i}, b{i})")
        weights |= {f"w{i}": s.weight.astype(np.float32), f"b{i}": s.bias.astype(np.float32)}
    ends = "float[N, C, H, W]"
    proto = model_of(f"g ({ends} t0) => ({ends} t{len(layers)}) {{ {' '.join(nodes)} }}", weights)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"t0": x.astype(np.float32)}
    )[0]


def integers(*shape: int) -> Any:
    return RNG.integers(-3, 4, shape).astype(np.float64)


def layer(c_in: int, c_out: int, group: int, window: Window, *, bias: bool = True) -> Stencil:
    weight = integers(c_out, c_in // group, *window.kernel)
    return Stencil(weight, integers(c_out) if bias else np.zeros(c_out), window, group)


def windows(kernel: int = 3, pad: int = 2, stride: int = 2) -> st.SearchStrategy[Window]:
    def pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
        return st.tuples(st.integers(low, high), st.integers(low, high))

    return st.builds(Window, pair(1, kernel), pair(1, stride), pair(1, 2), pair(0, pad), pair(0, pad))


GROUPS = st.sampled_from([1, 2, 3, 6])


@settings(max_examples=60, deadline=None)
@given(windows(), windows(pad=0), GROUPS, GROUPS, st.booleans())
def test_composition_without_inner_pads(one: Window, two: Window, g: int, h: int, bias: bool) -> None:
    first, second = layer(6, 12, g, one, bias=bias), layer(12, 6, h, two)
    x = integers(2, 6, 13, 14)
    both = composed(first, second)
    assert isinstance(both, Stencil)
    assert np.array_equal(run(x, [first, second]), run(x, [both]))


@settings(max_examples=40, deadline=None)
@given(windows(kernel=1, pad=0), windows(), GROUPS)
def test_a_pick_of_places_before_a_padded_layer(one: Window, two: Window, g: int) -> None:
    """All sizes of the map: a stride may end before the last row."""
    first, second = layer(6, 6, 1, one, bias=False), layer(6, 6, g, two)
    both = composed(first, second)
    assert isinstance(both, Stencil)
    for size in range(9, 14):
        x = integers(1, 6, size, size + 1)
        assert np.array_equal(run(x, [first, second]), run(x, [both]))


def test_each_axis_by_itself() -> None:
    """Columns, then padded rows: neither spreads along the other's axis."""
    first = layer(2, 3, 1, Window((5, 1), (2, 1), (1, 1), (2, 0), (1, 0)), bias=False)
    second = layer(3, 4, 1, Window((1, 3), (1, 2), (1, 1), (0, 1), (0, 2)))
    both = composed(first, second)
    assert isinstance(both, Stencil)
    assert both.window == Window((5, 3), (2, 2), (1, 1), (2, 1), (1, 2))
    x = integers(2, 2, 12, 9)
    assert np.array_equal(run(x, [first, second]), run(x, [both]))


def test_what_cannot_be_composed() -> None:
    point, wide = Window((1, 1), *[(1, 1)] * 2, (0, 0), (0, 0)), Window((3, 3), *[(1, 1)] * 4)
    assert "bias" in str(composed(layer(2, 3, 1, point), layer(3, 2, 1, wide)))
    assert "border" in str(composed(layer(2, 3, 1, wide, bias=False), layer(3, 2, 1, wide)))
    padded = Window((1, 1), *[(1, 1)] * 4)
    assert "border" in str(composed(layer(2, 3, 1, padded, bias=False), layer(3, 2, 1, wide)))
    assert "channels" in str(composed(layer(2, 3, 1, wide), layer(4, 2, 1, point)))
    huge = Stencil(np.zeros((4096, 1, 1, 1)), np.zeros(4096), point, 4096)
    dense = Stencil(np.zeros((2, 4096, 3, 3)), np.zeros(2), wide, 1)
    assert isinstance(composed(dense, Stencil(np.zeros((9000, 2, 1, 1)), np.zeros(9000), point, 1)), str)
    assert isinstance(composed(huge, dense), Stencil) or "too large" in str(composed(huge, dense))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(windows(), GROUPS), min_size=2, max_size=4), st.integers(0, 3))
def test_sums(drawn: list[tuple[Window, int]], extra: int) -> None:
    """Windows of one stride whose ends are set so that the sizes agree."""
    parts = []
    for window, group in drawn:
        reach = [d * (k - 1) for k, d in zip(window.kernel, window.dilations, strict=True)]
        end = tuple(extra - 1 - b + r for b, r in zip(window.begin, reach, strict=True))
        assume(min(end) >= 0)
        parts.append(layer(6, 6, group, Window(window.kernel, (2, 1), window.dilations, window.begin, end)))
    whole = summed(parts, same_size=False)
    assert isinstance(whole, Stencil)
    for size in (9, 12):
        x = integers(1, 6, size, size + 1)
        assert np.array_equal(sum(run(x, [p]) for p in parts), run(x, [whole]))


def test_sizes_that_agree_for_this_map_only() -> None:
    pool = box(2, Window((2, 2), (2, 2), (1, 1), (0, 0), (0, 0)))
    point = layer(2, 2, 1, Window((1, 1), (2, 2), (1, 1), (0, 0), (0, 0)))
    assert "size" in str(summed([pool, point], same_size=False))
    whole = summed([pool, point], same_size=True)
    assert isinstance(whole, Stencil)
    x = integers(1, 2, 8, 6)
    assert np.array_equal(run(x, [pool]) + run(x, [point]), run(x, [whole]))


def test_what_cannot_be_summed() -> None:
    one = identity(4, 2)
    strided = box(4, Window((1, 1), (2, 2), (1, 1), (0, 0), (0, 0)))
    assert "strides" in str(summed([one, strided], same_size=False))
    assert "channels" in str(summed([one, identity(3, 2)], same_size=False))


@pytest.mark.parametrize("group", [1, 2, 4])
def test_regrouped_and_scaled(group: int) -> None:
    part = layer(8, 16, 4, Window((3, 2), *[(1, 1)] * 4))
    x = integers(1, 8, 5, 6)
    assert np.array_equal(run(x, [part]), run(x, [part.regrouped(group)]))
    scale, shift = integers(16), integers(16)
    want = run(x, [part]) * scale[:, None, None] + shift[:, None, None]
    assert np.array_equal(want, run(x, [part.scaled(scale, shift)]))


@settings(max_examples=40, deadline=None)
@given(windows(), GROUPS)
def test_applied(window: Window, group: int) -> None:
    part, x = layer(6, 12, group, window), integers(2, 6, 9, 10)
    assert np.array_equal(run(x, [part]), applied(part, x))
