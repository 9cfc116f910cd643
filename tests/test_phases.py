"""Transposed convolutions and their phases: checked with plain sums."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxtune.phases import Floats, Transposed, phases, shuffled, upsampled
from onnxtune.windows import Window


def correlate(x: NDArray[np.float64], kernel: Floats, window: Window) -> list[float]:
    """A convolution of one axis and one channel."""
    wide = np.pad(x, (window.begin[0], window.end[0]))
    taps = kernel[0, 0]
    reach = window.dilations[0] * (len(taps) - 1)
    return [
        float(sum(w * wide[i + k * window.dilations[0]] for k, w in enumerate(taps))) for i in range(len(wide) - reach)
    ]


def transposed(x: NDArray[np.float64], whole: Transposed) -> list[float]:
    taps, s = whole.kernel[0, 0], whole.strides[0]
    full = np.zeros(s * (len(x) - 1) + len(taps))
    for i, value in enumerate(x):
        full[s * i : s * i + len(taps)] += value * taps
    begin, end = whole.pads
    assert begin >= 0
    assert end >= 0
    return list(full[begin : len(full) - end])


def interleaved(x: NDArray[np.float64], whole: Transposed, *, alike: bool) -> list[float]:
    ones = (1,)
    rows = [
        correlate(x, p.kernel, Window(p.kernel.shape[2:], ones, ones, p.begin, p.end))
        for p in phases(whole, alike=alike)
    ]
    assert all(min(*p.begin, *p.end) >= 0 for p in phases(whole, alike=alike))
    joined = np.array(rows).T.ravel()
    return list(joined[: len(joined) - whole.surplus[0]])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    s=st.integers(1, 4),
    k=st.integers(1, 5),
    d=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    length=st.integers(6, 9),
)
def test_repeating_then_convolving(s: int, k: int, d: int, pads: tuple[int, int], length: int) -> None:
    rng = np.random.default_rng(k)
    kernel, x = rng.integers(-3, 4, (1, 1, k)).astype(float), rng.integers(-3, 4, length).astype(float)
    window = Window((k,), (1,), (d,), (pads[0],), (pads[1],))
    if s * length + sum(pads) <= d * (k - 1):
        return
    want = correlate(np.repeat(x, s), kernel, window)
    whole = upsampled(kernel, (s,), window)
    assert transposed(x, whole) == want
    assert interleaved(x, whole, alike=False) == want
    assert interleaved(x, whole, alike=True) == want


@settings(max_examples=30, deadline=None, derandomize=True)
@given(s=st.integers(1, 4), k=st.integers(1, 5), pads=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_convolving_then_interleaving(s: int, k: int, pads: tuple[int, int]) -> None:
    rng = np.random.default_rng(k)
    kernel, x = rng.integers(-3, 4, (1, s, 1, k)).astype(float), rng.integers(-3, 4, 7).astype(float)
    window = Window((k,), (1,), (1,), (pads[0],), (pads[1],))
    rows = [correlate(x, kernel[:, a], window) for a in range(s)]
    assert transposed(x, shuffled(kernel, s, window)) == list(np.array(rows).T.ravel())
