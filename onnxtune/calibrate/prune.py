"""Which channels to remove before a consumer, and what its weights become.

Removing the channels G from x and fitting the rest again costs, with P = C^-1 the precision of x and W the
weights as they are now,

    error = tr W_G (P_GG)^-1 W_G^T        W <- W - W_G P_GG^-1 P_G:,   P <- P - P_:G P_GG^-1 P_G:

(the surgeon's formula of Hassibi and Stork, 1993, for groups of columns and a squared error, where it is
exact). Where several consumers read x, their errors are added up, each as a share of its output's variance, and the
same channels go from all. Channels go one by one (a few at once where there are very many), the cheapest first. At the
end the weights are computed afresh:

    W' = (C_yx)_:K (C_KK)^-1,     b' = mean y - W' mean x_K

Of consumers too wide for a covariance a sample of rows is known (wide_convs.py). For the choice of channels their
covariance is then taken for a Kronecker product A (x) B of channels and taps, so that P = A^-1 (x) B^-1; the weights
are those of the sample, and the error is that on rows which were left out of a second fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.covariance import ridge as with_ridge
from onnxtune.calibrate.covariance import suggested_ridge
from onnxtune.calibrate.models import Metric
from onnxtune.calibrate.moments import Array, Moments
from onnxtune.calibrate.solve import solve_right
from onnxtune.calibrate.wide_convs import Rows, Sampled, separated

HELD_OUT = 5
"""One of so many rows of a sample tells the error."""
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
    weights: Sequence[Array], seen: Sequence[Moments | Rows], remove: int, *, ridge: float | None = None
) -> tuple[int, ...]:
    """The channels to keep when `remove` of the C go.

    Of each consumer weights (O, C, *kernel), of channels in the same order, and what was seen of its patches.
    """
    channels = weights[0].shape[1]
    if not 0 <= remove < channels:
        raise ValueError(f"cannot remove {remove} of {channels} channels")
    readers = [_reader(w, s, ridge) for w, s in zip(weights, seen, strict=True)]
    left = np.arange(channels)
    at_once = max(1, channels // ROUNDS)
    while len(left) > channels - remove:
        costs = np.sum([r.costs() for r in readers], axis=0)
        gone = np.sort(np.argsort(costs, kind="stable")[: min(at_once, len(left) - channels + remove)])
        for reader in readers:
            reader.remove(gone)
        left = np.delete(left, gone)
    return tuple(int(c) for c in left)


class _Reader(Protocol):
    """A consumer on its way to fewer channels."""

    def costs(self) -> Array:
        """What removing each channel alone would cost, as a share of the output's variance: (C left,)."""

    def remove(self, gone: NDArray[np.intp]) -> None:
        """Without these of the channels that are left."""


def _reader(weight: Array, seen: Moments | Rows, ridge: float | None) -> _Reader:
    cube = weight.reshape(*weight.shape[:2], -1).astype(np.float64)
    if isinstance(seen, Rows):
        metric = separated(seen, cube.shape[1])
        return _Separable(cube, metric, max(float(np.square(seen.answers).sum()), np.finfo(float).tiny))
    energy = max(float(seen.yy.sum()), np.finfo(float).tiny)
    return _Full(cube.reshape(len(cube), -1), np.linalg.inv(_regular(seen, ridge)), cube.shape[2], energy)


class _Full:
    """By the precision of all columns."""

    def __init__(self, current: Array, precision: Array, taps: int, energy: float) -> None:
        self.current, self.precision, self.taps, self.energy = current, precision, taps, energy

    def costs(self) -> Array:
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


class _Separable:
    """By the precision of the channels and the covariance of the taps."""

    def __init__(self, current: Array, metric: Metric, energy: float) -> None:
        self.current, self.taps, self.energy = current, metric.spatial, energy
        self.precision = np.linalg.inv(metric.channel)

    def costs(self) -> Array:
        found: Array = ((self.current @ self.taps) * self.current).sum((0, 2)) / np.diag(self.precision) / self.energy
        return found

    def remove(self, gone: NDArray[np.intp]) -> None:
        solved = np.linalg.solve(self.precision[np.ix_(gone, gone)], self.precision[gone])  # (gone, C)
        stay = np.delete(np.arange(len(self.precision)), gone)
        self.current = (self.current - np.einsum("ogk,gc->ock", self.current[:, gone], solved))[:, stay]
        self.precision = (self.precision - self.precision[:, gone] @ solved)[np.ix_(stay, stay)]


def _regular(moments: Moments, ridge: float | None) -> Array:
    return with_ridge(moments.xx, suggested_ridge(moments) if ridge is None else ridge)


def prune(weight: Array, seen: Moments | Rows, keep: Sequence[int], *, ridge: float | None = None) -> Pruned:
    """The consumer's best weights on the channels `keep` alone."""
    if isinstance(seen, Rows):
        return _from_rows(weight, seen, keep)
    out, _, *kernel = weight.shape
    columns = _columns(weight, keep)
    regular = _regular(seen, ridge)
    # The ridge stands for more data of the same layer: it pulls to the old weights, not to zero.
    cross = seen.yx + weight.reshape(out, -1) @ (regular - seen.xx)
    found = solve_right(regular[np.ix_(columns, columns)], cross[:, columns])
    inner = seen.xx[np.ix_(columns, columns)]
    error = seen.yy.sum() - 2 * np.vdot(found, seen.yx[:, columns]) + np.vdot(found @ inner, found)
    relative = float(np.sqrt(max(float(error), 0.0) / max(float(seen.yy.sum()), np.finfo(float).tiny)))
    bias = seen.mean_y - found @ seen.mean_x[columns]
    return Pruned(tuple(keep), found.reshape(out, len(keep), *kernel), bias, relative)


def _columns(weight: Array, keep: Sequence[int]) -> NDArray[np.intp]:
    found: NDArray[np.intp] = np.arange(weight[0].size).reshape(weight.shape[1], -1)[list(keep)].ravel()
    return found


def _from_rows(weight: Array, seen: Rows, keep: Sequence[int]) -> Pruned:
    left, columns = weight[:, list(keep)], _columns(weight, keep)
    rows, answers = seen.x[:, columns], seen.plain_answers
    part = len(rows) - len(rows) // HELD_OUT
    trial = Sampled.of(left, Rows.of(rows[:part], answers[:part]))
    kernel = trial.target.reshape(len(left), -1)
    wrong = answers[part:] - rows[part:] @ kernel.T.astype(np.float32) - trial.bias(trial.target, trial.rows.mean_y)
    spread = answers[part:] - answers[part:].mean(0)
    relative = float(np.sqrt(np.square(wrong).sum() / max(float(np.square(spread).sum()), 1e-30)))
    final = Sampled.of(left, Rows.of(rows, answers))
    return Pruned(tuple(keep), final.target, final.bias(final.target, final.rows.mean_y), relative)
