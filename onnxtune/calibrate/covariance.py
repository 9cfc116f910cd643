"""Estimates of a covariance from few rows, always invertible.

ridge       C + lambda (tr C / d) I
shrinkage   (1 - a) C + a (tr C / d) I with the intensity a of Ledoit and Wolf (2004):
            m = tr C / d,  d2 = |C - m I|^2,  b2 = min(d2, (mean |z|^4 - |C|^2) / n),  a = b2 / d2
kronecker   C[(c,s),(c',s')] = A[c,c'] B[s,s']: maximum likelihood by turns ("flip-flop"), for maps
            whose full covariance is too large or rows too few
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.moments import Array, Moments


def ridge(matrix: Array, amount: float) -> Array:
    """A copy with `amount` times the mean of the diagonal added to the diagonal (never exactly 0)."""
    size = len(matrix)
    mean = float(np.trace(matrix)) / size
    result = matrix.copy()
    result.flat[:: size + 1] += amount * mean if mean > 0 else 1.0
    return result


def intensity(moments: Moments) -> float:
    """How far to shrink `moments.xx` to a multiple of the identity: between 0 and 1."""
    c, size = moments.xx, len(moments.xx)
    mean, square = float(np.trace(c)) / size, float(np.square(c).sum())
    distance = square - size * mean**2
    if distance <= 0:
        return 1.0
    noise = max(0.0, (moments.fourth - square) / moments.count)
    return min(distance, noise) / distance


def suggested_ridge(moments: Moments) -> float:
    """The ridge that amounts to that shrinkage up to scale: a / (1 - a), between 0.001 and 10."""
    a = intensity(moments)
    return min(max(a / max(1 - a, 1e-9), 1e-3), 10.0)


def shrunk(moments: Moments) -> Array:
    """The covariance of x by Ledoit and Wolf, with a trace of ridge so that it is always invertible."""
    a = intensity(moments)
    mean = float(np.trace(moments.xx)) / len(moments.xx)
    return ridge((1 - a) * moments.xx + a * mean * np.eye(len(moments.xx)), 1e-8)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """Covariance of maps (C, S): channel (C, C) times spatial (S, S), the latter with mean diagonal 1."""

    channel: Array
    spatial: Array


def kronecker(rows: NDArray[Any], channels: int, iterations: int = 6) -> Kronecker:
    """From rows (n, C S) of flattened maps. The channel part is shrunk a little where rows are few."""
    x = rows.astype(np.float64).reshape(len(rows), channels, -1)
    x = x - x.mean(0)
    n, c, s = x.shape
    spatial: Array = np.eye(s)
    channel: Array = np.eye(c)
    for _ in range(iterations):
        half = np.linalg.solve(spatial, x.transpose(2, 0, 1).reshape(s, -1)).reshape(s, n, c)
        channel = ridge(np.tensordot(x, half, ((0, 2), (1, 0))) / (n * s), 1e-4)
        half = np.linalg.solve(channel, x.transpose(1, 0, 2).reshape(c, -1)).reshape(c, n, s)
        spatial = ridge(np.tensordot(x, half, ((0, 1), (1, 0))) / (n * c), 1e-4)
        scale = float(np.trace(spatial)) / s
        spatial, channel = spatial / scale, channel * scale
    return Kronecker((channel + channel.T) / 2, (spatial + spatial.T) / 2)
