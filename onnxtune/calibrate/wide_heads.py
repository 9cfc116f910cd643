"""heads.py for layers too wide for a covariance of their input: all from a sample of rows, nothing is (d, d).

With X (n, d) the centred rows, the estimate C = a C0 + (1 - a) X^T X / n of priors.py, C0 = L L^T, and V = W L,
Z = X L^-T, G = Z Z^T, the same things for rows of covariance I:

    W* L = V + D Z,   D = E^T (a I + (1 - a) G / n)^-1 / n,   E (n, J): what W x + b lacks to the teacher's y
    W* C W*^T = (1 - a) / n S^T S + a W* C0 W*^T,             S = X W*^T = X W^T + G D^T
    W* C P^T  = (1 - a) / n S^T (X P^T) + a W* C0 P^T,        P C P^T likewise

so V (J, d) is held in single precision, and everything else is (n, J), (J, J) or (z, z) in double.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxtune.calibrate.heads import Head
from onnxtune.calibrate.moments import Array
from onnxtune.calibrate.priors import Isotropic, Prior, Separable, shrinkage
from onnxtune.calibrate.solve import solve_right

BLOCK = 512
"""Rows of the weights that are handled at a time."""
DENSE = 1024
"""Outputs up to which a covariance of them is decomposed at once; beyond, leading eigenvectors are iterated for."""
ITERATIONS, MORE = 4, 16


@dataclass(frozen=True, eq=False)
class Sample:
    """What rows x (n, d) and the teacher's answers y (n, J) say of a layer W x + b; see the module's docstring."""

    weights: Callable[[], NDArray[Any]]
    """W (J, d), made when it is wanted"""
    prior: Prior
    scaled: NDArray[np.float32]
    """V"""
    x: NDArray[np.float32]
    """X, centred"""
    white: NDArray[np.float32]
    """Z"""
    mean_x: Array
    mean_y: Array
    gram: Array
    """G"""
    shrink: float
    """a"""
    plain: Array
    """X W^T"""
    correction: Array
    """D (J, n)"""
    through: Array
    """S (n, J)"""
    seed: int
    _found: list[tuple[Array, Array, NDArray[np.float32]]] = field(default_factory=list)
    _spatial: dict[int, tuple[Array, Array]] = field(default_factory=dict)

    @staticmethod
    def of(
        weights: Callable[[], NDArray[Any]],
        x: NDArray[Any],
        y: NDArray[Any],
        prior_of: Callable[[NDArray[Any]], Prior],
        seed: int = 0,
    ) -> Sample:
        """`prior_of`: from centred rows."""
        n = len(x)
        mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        centred = x.astype(np.float32) - mean_x.astype(np.float32)
        prior = prior_of(centred)
        shrink = shrinkage(centred, (centred @ centred.T).astype(np.float64), prior)
        values = weights()
        plain = (centred @ values.T).astype(np.float64)
        scaled, white = prior.through(values), prior.white(centred)
        gram = (white @ white.T).astype(np.float64)
        inverse = gram * ((1 - shrink) / n)
        inverse.flat[:: n + 1] += shrink
        correction = scipy.linalg.solve(inverse, y - mean_y - plain, assume_a="pos").T / n
        through = plain + gram @ correction.T
        return Sample(
            weights, prior, scaled, centred, white, mean_x, mean_y, gram, shrink, plain, correction, through, seed
        )

    @property
    def count(self) -> int:
        return len(self.x)

    @cached_property
    def energy(self) -> float:
        """E|W* (x - mean)|^2"""
        crossed = 2 * float(np.vdot(self.correction.T, self.plain))
        own = float(sum(np.square(row, dtype=np.float64).sum() for row in self.scaled))
        own += crossed + float(np.vdot(self.correction @ self.gram, self.correction))
        return float(self.mixed(np.square(self.through).sum(), own))

    @cached_property
    def _square(self) -> NDArray[np.float32]:
        """V V^T = W C0 W^T"""
        j = len(self.scaled)
        found = np.empty((j, j), np.float32)
        for i in range(0, j, BLOCK):
            found[i : i + BLOCK, i:] = self.scaled[i : i + BLOCK] @ self.scaled[i:].T
            found[i:, i : i + BLOCK] = found[i : i + BLOCK, i:].T
        return found

    def outputs(self, columns: NDArray[Any]) -> NDArray[Any]:
        """W* C W*^T times columns (J, k)."""
        seen = self.through.T @ (self.through @ columns)
        own = self._square @ columns + self.correction @ (self.plain @ columns)
        own += self.plain.T @ (self.correction.T @ columns)
        own += self.correction @ (self.gram @ (self.correction.T @ columns))
        return np.asarray(self.mixed(seen, own))

    def mixed(self, seen: Any, prior: Any) -> Any:
        """A second moment: its sum over the sample, shrunk to what it is for C0."""
        return (1 - self.shrink) / self.count * seen + self.shrink * prior

    def leading(self, rank: int, largest: int) -> tuple[Array, Array, NDArray[np.float32]]:
        """The leading eigenvectors Q (J, rank) of W* C W*^T, their eigenvalues, and Q^T W* (rank, d).

        They are computed for the `largest` rank that will be asked for, of which smaller ones are a part.
        """
        if not self._found or self._found[0][0].shape[1] < rank:
            self._found.clear()
            values, q = _leading(self.outputs, len(self.scaled), max(rank, largest), self.seed)
            inner = q.T.astype(np.float32) @ self.weights()
            inner += (q.T @ self.correction).astype(np.float32) @ self.prior.back(self.white)
            self._found.append((q, values, inner))
        q, values, inner = self._found[0]
        return q[:, :rank], values[:rank], inner[:rank]

    def spatial(self, channels: int) -> tuple[Array, Array]:
        """K and the eigenvectors of K^T (sum_j W_j^T A W_j) K, the leading ones first, where the covariance of maps
        (C, S) is taken for A (x) K K^T."""
        if channels not in self._spatial:
            prior = Separable.of(self.x, channels)
            mixing, root = (prior.channel @ prior.channel.T).astype(np.float32), prior.spatial
            s = len(root)
            total: Array = np.zeros((s, s))
            for i in range(0, len(self.scaled), BLOCK):
                part = self.scaled[i : i + BLOCK].reshape(-1, channels, s)
                total += np.tensordot(part, mixing @ part, ((0, 1), (0, 1)))
            gram = root.T @ total @ root
            self._spatial[channels] = root, scipy.linalg.eigh((gram + gram.T) / 2)[1][:, ::-1]
        return self._spatial[channels]


def low_rank(sample: Sample, rank: int, largest: int = 0) -> Head:
    """The product of (J, rank) and (rank, d); see `Sample.leading`."""
    q, values, inner = sample.leading(rank, largest)
    bias = sample.mean_y - q @ (inner @ sample.mean_x)
    return Head(inner, q, bias, _root(sample.energy - float(values.sum()), sample.energy))


def pooled(sample: Sample, maps: Array) -> Head:
    """The best layer on what the maps (R, S) give for each channel, by a sample with isotropic prior."""
    assert isinstance(sample.prior, Isotropic), "see priors.py"
    n, s = sample.count, maps.shape[1]
    small, m = maps.astype(np.float32), sample.prior.variance
    rows = (sample.x.reshape(n, -1, s) @ small.T).reshape(n, -1).astype(np.float64)
    channels, j = rows.shape[1] // len(maps), len(sample.scaled)
    own = (sample.scaled.reshape(j, -1, s) @ small.T).reshape(j, -1) * np.sqrt(m)
    cross = sample.mixed(sample.through.T @ rows, own + sample.correction @ rows)
    gram = sample.mixed(rows.T @ rows, m * np.kron(np.eye(channels), maps @ maps.T))
    outer = solve_right(gram, cross)
    mean = (sample.mean_x.reshape(-1, s) @ maps.T).ravel()
    lost = sample.energy - float(np.vdot(outer, cross))
    return Head(maps, outer, sample.mean_y - outer @ mean, _root(lost, sample.energy))


def learned_maps(sample: Sample, channels: int, number: int) -> Head:
    """`number` maps shared by all channels: the best ones as far as C is a Kronecker product A (x) B."""
    root, vectors = sample.spatial(channels)
    found = scipy.linalg.solve_triangular(root, vectors[:, :number], lower=True, trans="T").T
    return pooled(sample, np.linalg.qr(found.T)[0].T)


def _leading(times: Callable[[NDArray[Any]], NDArray[Any]], size: int, number: int, seed: int) -> tuple[Array, Array]:
    """The largest eigenvalues and their vectors (J, number), orthonormal, of a positive semidefinite matrix of this
    size that can be multiplied with."""
    if size <= DENSE:
        values, vectors = scipy.linalg.eigh(times(np.eye(size)), subset_by_index=(size - number, size - 1))
        return values[::-1], np.asarray(vectors[:, ::-1])
    basis = np.random.default_rng(seed).standard_normal((size, min(size, number + MORE)), dtype=np.float32)
    for iteration in range(ITERATIONS):
        longer = times(basis)
        scaled = (longer / np.abs(longer).max()).astype(np.float32)
        # In between columns need only stay apart, for which LU is enough and far quicker. (numpy's QR is in double.)
        last = iteration == ITERATIONS - 1
        basis = scipy.linalg.qr(scaled, mode="economic")[0] if last else scipy.linalg.lu(scaled, permute_l=True)[0]
    small = basis.T.astype(np.float64) @ times(basis)
    values, vectors = scipy.linalg.eigh((small + small.T) / 2)
    return values[::-1][:number], np.asarray(basis @ vectors[:, ::-1][:, :number])


def _root(part: float, whole: float) -> float:
    return float(np.sqrt(max(part, 0.0) / max(whole, float(np.finfo(np.float32).tiny))))
