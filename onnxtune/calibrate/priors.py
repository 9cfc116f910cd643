"""What a covariance of few rows is shrunk to: C0 = L L^T, with the rows' total variance.

isotropic   m I
diagonal    rows of features: each column its own variance. Behind a Relu many columns are all but constant.
separable   flattened maps (C, S): channel covariance A (C, C) times spatial covariance B (S, S), each an average,
            over places or over channels, of far more rows than there are images

The rows say C^ = X^T X / n, and the estimate is (1 - a) C^ + a C0, where Ledoit and Wolf's a is

    d2 = |C^ - C0|^2,   b2 = (mean |x|^4 - |C^|^2) / n,   a = min(1, b2 / d2)

The closer C0 is to the truth, the more of it is taken. Low rank gains from the closer ones, most of all where there are
a few dozen images; pooling does not: there C0 has to say how single places go with the mean, of which a product of two
covariances knows less than the plain sum of weights that m I stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxtune.calibrate.covariance import ridge
from onnxtune.calibrate.moments import Array, Moments

FLOOR = 1e-2
"""Of the mean variance, added to every variance of C0: what never varied in the sample may vary yet."""
BLOCK = 512
"""Rows that are handled at a time."""


class Prior(Protocol):
    """C0 = L L^T of rows (d,)."""

    def through(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """rows L, for rows (n, d) of weights."""
        ...

    def white(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """rows L^-T, for rows (n, d) of data: their covariance is the identity where C0 is the truth."""
        ...

    def back(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """rows L^-1: weights again, of what `through` gave."""
        ...

    @property
    def square(self) -> float:
        """|C0|^2"""
        ...


@dataclass(frozen=True)
class Isotropic:
    """Independent columns, all with this variance."""

    variance: float
    columns: int

    @staticmethod
    def of(rows: NDArray[Any]) -> Isotropic:
        """Of centred rows (n, d)."""
        mean = float(np.square(rows, dtype=np.float64).mean())
        return Isotropic(max(mean, float(np.finfo(np.float32).tiny)), rows.shape[1])

    @property
    def deviation(self) -> np.float32:
        return np.float32(np.sqrt(self.variance))

    def through(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(np.multiply(rows, self.deviation, dtype=np.float32))

    def white(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(np.divide(rows, self.deviation, dtype=np.float32))

    back = white

    @property
    def square(self) -> float:
        return self.columns * self.variance**2


@dataclass(frozen=True, eq=False)
class Diagonal:
    """Independent columns with these standard deviations (d,)."""

    deviations: NDArray[np.float32]

    @staticmethod
    def of(rows: NDArray[Any]) -> Diagonal:
        """Of centred rows (n, d)."""
        variances = np.square(rows, dtype=np.float64).mean(0)
        mean = float(variances.mean())
        return Diagonal(np.sqrt(variances + (FLOOR * mean if mean > 0 else 1.0)).astype(np.float32))

    def through(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(np.multiply(rows, self.deviations, dtype=np.float32))

    def white(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(np.divide(rows, self.deviations, dtype=np.float32))

    back = white

    @property
    def square(self) -> float:
        return float(np.square(np.square(self.deviations, dtype=np.float64)).sum())


@dataclass(frozen=True, eq=False)
class Separable:
    """Maps (C, S), flattened: A (x) B with A = `channel` `channel`^T (C, C), B = `spatial` `spatial`^T (S, S), both
    lower triangular."""

    channel: Array
    spatial: Array

    @staticmethod
    def of(rows: NDArray[Any], channels: int) -> Separable:
        """Of centred rows (n, C S)."""
        maps = rows.reshape(len(rows), channels, -1)
        across, along = np.zeros((channels, channels)), np.zeros((maps.shape[2], maps.shape[2]))
        for image in maps:
            across += image @ image.T
            along += image.T @ image
        return _separable(across / len(maps), along / len(maps), len(maps))

    def through(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        turn, right = self.channel.T.astype(np.float32), self.spatial.astype(np.float32)
        return self._mapped(rows, lambda maps: np.matmul(turn, maps) @ right)

    def white(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        left, right = (_inverse(x).astype(np.float32) for x in (self.channel, self.spatial))
        return self._mapped(rows, lambda maps: np.matmul(left, maps) @ right.T)

    def back(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        left, right = (_inverse(x).astype(np.float32) for x in (self.channel, self.spatial))
        return self._mapped(rows, lambda maps: np.matmul(left.T, maps) @ right)

    @property
    def square(self) -> float:
        return float(np.prod([np.square(x @ x.T).sum() for x in (self.channel, self.spatial)]))

    def _mapped(self, rows: NDArray[Any], change: Any) -> NDArray[np.float32]:
        """The change of maps (n, C, S), some rows at a time."""
        shape = -1, len(self.channel), len(self.spatial)
        found = np.empty(rows.shape, np.float32)
        for part in _blocks(len(rows)):
            found[part] = change(rows[part].astype(np.float32, copy=False).reshape(shape)).reshape(-1, rows.shape[1])
        return found


def _separable(across: Array, along: Array, count: int) -> Separable:
    """From E X X^T and E X^T X of `count` maps X (C, S), which have the same trace."""
    c, s, total = len(across), len(along), float(np.trace(along))
    if not total > 0:
        return Separable(np.eye(c), np.eye(s))
    channel, spatial = _damped(across / s, count * s), _damped(along * (s / total), count * c)
    return Separable(np.linalg.cholesky(channel), np.linalg.cholesky(spatial))


def _damped(matrix: Array, rows: int) -> Array:
    """A covariance with its correlations made smaller, by half where it stands on as many rows as it has columns."""
    weight = rows / (rows + len(matrix))
    return ridge(weight * matrix + (1 - weight) * np.diag(np.diag(matrix)), FLOOR)


def estimate(moments: Moments, channels: int | None) -> Array:
    """(1 - a) C^ + a C0 (d, d), C0 separable for maps of so many channels and diagonal for rows of features."""
    c, size = moments.xx, len(moments.xx)
    if channels is None:
        prior = np.diag(np.diag(ridge(c, FLOOR)))
    else:
        blocks = c.reshape(channels, size // channels, channels, -1)
        found = _separable(np.einsum("csds->cd", blocks), np.einsum("cscu->su", blocks), moments.count)
        prior = np.kron(*(root @ root.T for root in (found.channel, found.spatial)))
    distance, noise = float(np.square(c - prior).sum()), (moments.fourth - float(np.square(c).sum())) / moments.count
    a = _intensity(distance, noise)
    return (1 - a) * c + a * prior


def shrinkage(rows: NDArray[Any], gram: Array, prior: Prior) -> float:
    """a for centred rows (n, d) with `gram` = rows rows^T: above 0, at most 1."""
    n = len(rows)
    lengths = np.diag(gram)
    square = float(np.square(gram).sum()) / n**2
    common = float(sum(np.square(prior.through(rows[p]), dtype=np.float64).sum() for p in _blocks(n))) / n
    distance = square - 2 * common + prior.square
    return _intensity(distance, (float(np.square(lengths).mean()) - square) / n)


def _intensity(distance: float, noise: float) -> float:
    """a > 0, so that the estimate is invertible."""
    return 1.0 if distance <= noise else max(noise / distance, 1e-6)


def _inverse(lower: Array) -> Array:
    return np.asarray(scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(i, i + BLOCK) for i in range(0, count, BLOCK))
