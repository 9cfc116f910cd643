"""Means and covariances of pairs (x, y) of rows, gathered batch by batch.

x (n, d) are the rows that a layer multiplies its weights with, y (n, J) what it should answer: the
pre-activation of the original model, x from the model as rewritten so far. Accumulators hold sums about
their own mean, and merging moves both to the common mean (Chan, Golub and LeVeque), so no large numbers
are subtracted from each other:

    sum (x - m)(y - m')^T = A + B + (n_a n_b / n) (a - b)(a - b)^T
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""float64, but for the solver's directions."""

MOST_COLUMNS = 4608
"""A full covariance of this many columns takes 170 MB. Beyond it a sample of the rows has to do (wide_convs.py)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What a fit needs to know about the data. All second moments are about the mean, divided by `count`."""

    count: int
    mean_x: Array
    """(d,)"""
    mean_y: Array
    """(J,)"""
    xx: Array
    """(d, d)"""
    yx: Array
    """(J, d)"""
    yy: Array
    """(J,) variances of y"""
    fourth: float
    """Mean of |x - mean|^4: how noisy `xx` is (covariance.shrinkage)."""

    def answered_by(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> Moments:
        """The same x, with y = weight x + bias: for a fit to the layer itself. weight: (J, ...) with d columns."""
        flat = weight.reshape(weight.shape[0], -1).astype(np.float64)
        yx = flat @ self.xx
        mean = flat @ self.mean_x + (0.0 if bias is None else bias.astype(np.float64))
        return replace(self, mean_y=mean, yx=yx, yy=np.einsum("jd,jd->j", yx, flat))


CHUNK = 1024
"""Rows that are multiplied at once: merging two sums reads and writes whole matrices."""


class Accumulator:
    """Gathers Moments of rows x (n, d) and y (n, J). J may be 0 when only x matters."""

    def __init__(self, columns: int, outputs: int = 0) -> None:
        if columns > MOST_COLUMNS:
            raise ValueError(f"a covariance of {columns} columns is too large (limit {MOST_COLUMNS})")
        self.count = 0
        self.mean_x, self.mean_y = np.zeros(columns), np.zeros(outputs)
        self.xx, self.yx, self.yy = np.zeros((columns, columns)), np.zeros((outputs, columns)), np.zeros(outputs)
        self._cubic, self._quartic = np.zeros(columns), 0.0  # sums of |z|^2 z and |z|^4, z = x - mean
        self._waiting: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def add(self, x: NDArray[Any], y: NDArray[Any] | None = None) -> None:
        """One batch: x (n, d), y (n, J). Must not be changed afterwards."""
        self._waiting.append((x, np.zeros((len(x), 0)) if y is None else y))
        if sum(len(rows) for rows, _ in self._waiting) >= CHUNK:
            self._take()

    def _take(self) -> None:
        """The rows that wait into the sums."""
        waiting, self._waiting = self._waiting, []
        if not any(len(rows) for rows, _ in waiting):
            return
        x, y = (np.concatenate(parts, dtype=np.float64) for parts in zip(*waiting, strict=True))
        batch = object.__new__(Accumulator)
        batch._waiting = []
        batch.count, batch.mean_x, batch.mean_y = len(x), x.mean(0), y.mean(0)
        x -= batch.mean_x  # both are ours: concatenate has copied
        y -= batch.mean_y
        batch.xx, batch.yx, batch.yy = x.T @ x, y.T @ x, np.square(y).sum(0)
        squares = np.square(x).sum(1)
        batch._cubic, batch._quartic = squares @ x, float(squares @ squares)
        self.merge(batch)

    def merge(self, other: Accumulator) -> None:
        """Take in what another accumulator (or process) has gathered."""
        self._take()
        other._take()
        total = self.count + other.count
        if other.count == 0:
            return
        move_x, move_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        part = other.count / total
        cubic, quartic = self._about(part * move_x)
        more_cubic, more_quartic = other._about((part - 1) * move_x)
        self._cubic, self._quartic = cubic + more_cubic, quartic + more_quartic
        weight = self.count * part
        self.xx += other.xx
        self.xx += np.outer(weight * move_x, move_x)
        self.yx += other.yx + np.outer(weight * move_y, move_x)
        self.yy += other.yy + weight * np.square(move_y)
        self.mean_x = self.mean_x + part * move_x
        self.mean_y = self.mean_y + part * move_y
        self.count = total

    def _about(self, move: Array) -> tuple[Array, float]:
        """The sums of |z - move|^2 (z - move) and |z - move|^4."""
        moved, length, trace = self.xx @ move, float(move @ move), float(np.trace(self.xx))
        cubic = self._cubic - (trace + self.count * length) * move - 2 * moved
        quartic = self._quartic + 4 * move @ moved - 4 * move @ self._cubic + 2 * length * trace
        return cubic, float(quartic + self.count * length**2)

    def finish(self) -> Moments:
        """The moments of everything that was added."""
        self._take()
        n = self.count
        if n == 0:
            raise ValueError("no rows were added")
        mean_x, mean_y = self.mean_x.copy(), self.mean_y.copy()
        return Moments(n, mean_x, mean_y, self.xx / n, self.yx / n, self.yy / n, self._quartic / n)


@dataclass(eq=False)
class Reservoir:
    """A uniform sample of at most `size` rows (x, y), the same for the same seed and order of batches.

    Every row gets a random key; the rows with the smallest keys stay, in the place of those that leave.
    """

    size: int
    seed: int = 0
    _count: int = 0
    _held: int = 0
    _rows: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._keys, self._arrived = np.zeros(self.size), np.zeros(self.size, np.int64)

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """x (n, d), y (n, J)."""
        if len(x) == 0:
            return
        keys, arrived = self._random.random(len(x)), self._count + np.arange(len(x))
        self._count += len(x)
        if self._rows is None:
            self._rows = np.empty((self.size, *x.shape[1:]), x.dtype), np.empty((self.size, *y.shape[1:]), y.dtype)
        every = np.concatenate([self._keys[: self._held], keys])
        stay = np.argsort(every, kind="stable")[: self.size]
        enter = np.sort(stay[stay >= self._held]) - self._held
        leave = np.setdiff1d(np.arange(self._held), stay)
        places = np.concatenate([leave, np.arange(self._held, self._held + len(enter) - len(leave))])
        self._held += len(enter) - len(leave)
        self._keys[places], self._arrived[places] = keys[enter], arrived[enter]
        for held, new in zip(self._rows, (x, y), strict=True):
            held[places] = new[enter]

    @property
    def rows(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """x (n, d) and y (n, J), n <= size, in the order in which they came."""
        if self._rows is None:
            raise ValueError("no rows were added")
        x, y = (held[: self._held] for held in self._rows)
        arrived = self._arrived[: self._held]
        if (np.diff(arrived) > 0).all():
            return x, y
        order = np.argsort(arrived)
        return x[order], y[order]
