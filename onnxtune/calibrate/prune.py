"""Which channels to remove before a consumer, and what its weights become.

Removing the channels G from x and fitting the rest again costs, with P = C^-1 the precision of x and W the
weights as they are now,

    error = tr W_G (P_GG)^-1 W_G^T        W <- W - W_G P_GG^-1 P_G:,   P <- P - P_:G P_GG^-1 P_G:

(the surgeon's formula of Hassibi and Stork, 1993, for groups of columns and a squared error, where it is
exact). Where several consumers read x, their errors are added up, each as a share of its output's variance, and the
same channels go from all. Channels go one by one (a few at once where there are very many), the cheapest first. At the
end the weights are computed afresh:

    W' = (C_yx)_:K (C_KK)^-1,     b' = mean y - W' mean x_K
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.covariance import ridge as with_ridge
from onnxtune.calibrate.covariance import suggested_ridge
from onnxtune.calibrate.moments import Array, Moments
from onnxtune.calibrate.solve import solve_right

ROUNDS = 64
"""No more rounds of removal than about this: each one updates the whole precision."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """The consumer on the channels `keep`: weight (O, len(keep), *kernel)."""

    keep: tuple[int, ...]
    weight: Array
    bias: Array
    rel_error: float
    """Square root of E|y - y'|^2 / E|y - mean y|^2 on the moments' own data."""


def cheapest(
    weights: Sequence[Array], moments: Sequence[Moments], remove: int, *, ridge: float | None = None
) -> tuple[int, ...]:
    """The channels to keep when `remove` of the C go.

    Of each consumer weights (O, C, *kernel), of channels in the same order, and moments of its patches.
    """
    channels = weights[0].shape[1]
    if not 0 <= remove < channels:
        raise ValueError(f"cannot remove {remove} of {channels} channels")
    readers = [_Reader(w, m, _regular(m, ridge)) for w, m in zip(weights, moments, strict=True)]
    left = np.arange(channels)
    at_once = max(1, channels // ROUNDS)
    while len(left) > channels - remove:
        costs = np.sum([r.costs() for r in readers], axis=0)
        gone = np.sort(np.argsort(costs, kind="stable")[: min(at_once, len(left) - channels + remove)])
        for reader in readers:
            reader.remove(gone)
        left = np.delete(left, gone)
    return tuple(int(c) for c in left)


class _Reader:
    """A consumer on its way to fewer channels."""

    def __init__(self, weight: Array, moments: Moments, regular: Array) -> None:
        self.taps = weight[0, 0].size
        self.current = weight.reshape(len(weight), -1).astype(np.float64)
        self.precision = np.linalg.inv(regular)
        self.energy = max(float(moments.yy.sum()), np.finfo(float).tiny)

    def costs(self) -> Array:
        """What removing each channel alone would cost (C left,)."""
        count, taps = self.current.shape[1] // self.taps, self.taps
        each = np.arange(count)
        blocks = self.precision.reshape(count, taps, count, taps)[each, :, each, :]  # (count, taps, taps)
        columns = self.current.reshape(-1, count, taps).transpose(1, 2, 0)  # (count, taps, O)
        found: Array = (columns * np.linalg.solve(blocks, columns)).sum((1, 2)) / self.energy
        return found

    def remove(self, gone: NDArray[np.intp]) -> None:
        group = (gone[:, None] * self.taps + np.arange(self.taps)).ravel()
        solved = np.linalg.solve(self.precision[np.ix_(group, group)], self.precision[group])
        stay = np.delete(np.arange(self.precision.shape[0]), group)
        self.current = (self.current - self.current[:, group] @ solved)[:, stay]
        self.precision = (self.precision - self.precision[:, group] @ solved)[np.ix_(stay, stay)]


def _regular(moments: Moments, ridge: float | None) -> Array:
    return with_ridge(moments.xx, suggested_ridge(moments) if ridge is None else ridge)


def prune(weight: Array, moments: Moments, keep: Sequence[int], *, ridge: float | None = None) -> Pruned:
    """The consumer's best weights on the channels `keep` alone."""
    out, channels, *kernel = weight.shape
    columns: NDArray[np.intp] = np.arange(weight[0].size).reshape(channels, -1)[list(keep)].ravel()
    regular = _regular(moments, ridge)
    # The ridge stands for more data of the same layer: it pulls to the old weights, not to zero.
    cross = moments.yx + weight.reshape(out, -1) @ (regular - moments.xx)
    found = solve_right(regular[np.ix_(columns, columns)], cross[:, columns])
    inner = moments.xx[np.ix_(columns, columns)]
    error = moments.yy.sum() - 2 * np.vdot(found, moments.yx[:, columns]) + np.vdot(found @ inner, found)
    relative = float(np.sqrt(max(float(error), 0.0) / max(float(moments.yy.sum()), np.finfo(float).tiny)))
    bias = moments.mean_y - found @ moments.mean_x[columns]
    return Pruned(tuple(keep), found.reshape(out, len(keep), *kernel), bias, relative)
