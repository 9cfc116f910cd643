"""Two convolutions in a row as one kernel, and the derivatives of that.

    K[o,c,step p + a] = sum_m U[o,m,p] V[m,c,a]        U (O, M, *p), V (M, C, *a): V works first

`step` is the stride of what comes before U, in taps of K (taps: two numbers, rows and columns).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.moments import Array

Pair = tuple[int, ...]
"""Two numbers: rows and columns."""


def composite(outer: Pair, inner: Pair, step: Pair) -> Pair:
    """The kernel's size of `outer` after `inner`."""
    return (inner[0] + step[0] * (outer[0] - 1), inner[1] + step[1] * (outer[1] - 1))


def compose(u: Array, v: Array, step: Pair) -> Array:
    """K (O, C, *composite)."""
    size = composite(u.shape[2:], v.shape[2:], step)
    if u.shape[2:] == (1, 1):
        return np.tensordot(u[..., 0, 0], v, 1)
    out = np.zeros((u.shape[0], *size, v.shape[1]), u.dtype)
    outer, inner = _taps_first(u), _channels_last(v)
    flat = inner.reshape(len(v), -1)
    for (i, j), window in _windows(u.shape[2:], v.shape[2:], step):
        out[window] += (outer[i, j] @ flat).reshape(len(u), *inner.shape[1:])
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def back_to_inner(u: Array, gradient: Array, inner: Pair, step: Pair) -> Array:
    """The adjoint of compose(u, .): (M, C, *inner) from a gradient (O, C, *composite)."""
    if u.shape[2:] == (1, 1):
        return np.tensordot(u[..., 0, 0], gradient, (0, 0))
    out = np.zeros((u.shape[1], inner[0] * inner[1] * gradient.shape[1]), u.dtype)
    outer, last = _taps_first(u), _channels_last(gradient)
    for (i, j), window in _windows(u.shape[2:], inner, step):
        out += outer[i, j].T @ last[window].reshape(len(last), -1)
    return np.ascontiguousarray(out.reshape(len(out), *inner, -1).transpose(0, 3, 1, 2))


def back_to_outer(v: Array, gradient: Array, outer: Pair, step: Pair) -> Array:
    """The adjoint of compose(., v): (O, M, *outer) from a gradient (O, C, *composite)."""
    rows, last = len(gradient), _channels_last(gradient)
    flat = _channels_last(v).reshape(len(v), -1).T
    out = np.zeros((*outer, rows, len(v)), v.dtype)
    for (i, j), window in _windows(outer, v.shape[2:], step):
        np.matmul(last[window].reshape(rows, -1), flat, out=out[i, j])
    return np.ascontiguousarray(out.transpose(2, 3, 0, 1))


def shifted(v: Array, outer: Pair, step: Pair) -> Array:
    """(M outer taps, C, *composite): what compose(., v) is linear in, row (m, p) for the weight of m at p."""
    size = composite(outer, v.shape[2:], step)
    out = np.zeros((len(v), *outer, v.shape[1], *size), v.dtype)
    for (i, j), (_, top, left) in _windows(outer, v.shape[2:], step):
        out[:, i, j, :, top, left] = v
    return out.reshape(-1, v.shape[1], *size)


def places(outer: Pair, inner: Pair, step: Pair) -> NDArray[np.intp]:
    """(outer taps, inner taps): where in the composite kernel, counted row by row, each pair of taps works."""
    size = composite(outer, inner, step)
    taps = np.arange(size[0] * size[1]).reshape(1, *size)
    return np.stack([taps[window].ravel() for _, window in _windows(outer, inner, step)])


def _channels_last(kernel: Array) -> Array:
    """(O, *taps, C): what belongs to neighbouring taps then lies together, and windows are copied in long runs."""
    return np.ascontiguousarray(kernel.transpose(0, 2, 3, 1))


def _taps_first(kernel: Array) -> Array:
    """(*taps, O, C)"""
    return np.ascontiguousarray(kernel.transpose(2, 3, 0, 1))


def _windows(outer: Pair, inner: Pair, step: Pair) -> Iterator[tuple[Pair, tuple[slice, slice, slice]]]:
    """For each tap of `outer`: the window of `inner` in the composite kernel, behind one axis."""
    for i in range(outer[0]):
        for j in range(outer[1]):
            top, left = i * step[0], j * step[1]
            yield (i, j), (slice(None), slice(top, top + inner[0]), slice(left, left + inner[1]))
