"""Two convolutions in a row as one kernel, and the derivatives of that.

    K[o,c,step p + a] = sum_m U[o,m,p] V[m,c,a]        U (O, M, *p), V (M, C, *a): V works first

`step` is the stride of what comes before U, in taps of K (taps: two numbers, rows and columns).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.calibrate.moments import Array

Pair = tuple[int, ...]
"""Two numbers: rows and columns."""


def composite(outer: Pair, inner: Pair, step: Pair) -> Pair:
    """The kernel's size of `outer` after `inner`."""
    return (inner[0] + step[0] * (outer[0] - 1), inner[1] + step[1] * (outer[1] - 1))


def compose(u: Array, v: Array, step: Pair) -> Array:
    """K (O, C, *composite)."""
    size = composite(u.shape[2:], v.shape[2:], step)
    out = np.zeros((u.shape[0], v.shape[1], *size), u.dtype)
    for (i, j), window in _windows(u.shape[2:], v.shape[2:], step):
        out[window] += np.tensordot(u[..., i, j], v, 1)
    return out


def back_to_inner(u: Array, gradient: Array, inner: Pair, step: Pair) -> Array:
    """The adjoint of compose(u, .): (M, C, *inner) from a gradient (O, C, *composite)."""
    out = np.zeros((u.shape[1], gradient.shape[1], *inner), u.dtype)
    for (i, j), window in _windows(u.shape[2:], inner, step):
        out += np.tensordot(u[..., i, j], gradient[window], (0, 0))
    return out


def back_to_outer(v: Array, gradient: Array, outer: Pair, step: Pair) -> Array:
    """The adjoint of compose(., v): (O, M, *outer) from a gradient (O, C, *composite)."""
    rows, flat = len(gradient), v.reshape(len(v), -1).T
    out = np.zeros((rows, len(v), *outer), v.dtype)
    for (i, j), window in _windows(outer, v.shape[2:], step):
        out[..., i, j] = gradient[window].reshape(rows, -1) @ flat
    return out


def shifted(v: Array, outer: Pair, step: Pair) -> Array:
    """(M outer taps, C, *composite): what compose(., v) is linear in, row (m, p) for the weight of m at p."""
    size = composite(outer, v.shape[2:], step)
    out = np.zeros((len(v), *outer, v.shape[1], *size), v.dtype)
    for (i, j), window in _windows(outer, v.shape[2:], step):
        out[:, i, j][window] = v
    return out.reshape(-1, v.shape[1], *size)


def unit_kernels(channels: int, kernel: Pair) -> Array:
    """(channels, channels taps, *kernel): one tap of one channel each; compose(u, this) lists u's shifts."""
    taps = kernel[0] * kernel[1]
    return (
        np.eye(channels * taps)
        .reshape(channels, taps, channels * taps)
        .transpose(0, 2, 1)
        .reshape(channels, channels * taps, *kernel)
    )


def _windows(outer: Pair, inner: Pair, step: Pair) -> Iterator[tuple[Pair, tuple[slice, ...]]]:
    for i in range(outer[0]):
        for j in range(outer[1]):
            top, left = i * step[0], j * step[1]
            yield (i, j), (slice(None), slice(None), slice(top, top + inner[0]), slice(left, left + inner[1]))
