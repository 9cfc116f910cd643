"""Estimates of a covariance from few rows, always invertible.

ridge       C + lambda (tr C / d) I
shrinkage   (1 - a) C + a (tr C / d) I with the intensity a of Ledoit and Wolf (2004):
            m = tr C / d,  d2 = |C - m I|^2,  b2 = min(d2, (mean |z|^4 - |C|^2) / n),  a = b2 / d2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
