"""heads.py for layers too wide for a covariance of their input: all from a sample of rows, nothing is (d, d).

With X (n, d) the centred rows, G = X X^T and Ledoit and Wolf's C = (1 - a) X^T X / n + a m I,

    W* = W + D X,   D = E^T (a m I + (1 - a) G / n)^-1 / n,   E (n, J): what W x + b lacks to the teacher's y
    W* C W*^T = (1 - a) / n S^T S + a m W* W*^T,              S = X W*^T = X W^T + G D^T
    W* C P^T  = (1 - a) / n S^T (X P^T) + a m W* P^T,         P C P^T likewise

so W (J, d) stays as it is stored, in single precision, and everything else is (n, J), (J, J) or (z, z) in double.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxtune.calibrate.heads import Head
from onnxtune.calibrate.moments import Array
from onnxtune.calibrate.solve import solve_right

BLOCK = 512
"""Rows of the weights that are handled at a time."""
FEW = 4
"""Where so many times the rank do not exhaust the outputs, leading eigenvectors are iterated for."""
ITERATIONS = 4


class Weights:
    """W (J, d), of float32, and what of it does not depend on any data."""

    def __init__(self, weight: NDArray[Any]) -> None:
        self.values = weight.astype(np.float32, copy=False)

    @cached_property
    def gram(self) -> Array:
        """W W^T"""
        blocks = [self.values[i : i + BLOCK] @ self.values.T for i in range(0, len(self.values), BLOCK)]
        return np.concatenate(blocks).astype(np.float64)

    @cached_property
    def energy(self) -> float:
        return float(sum(np.square(row, dtype=np.float64).sum() for row in self.values))

    def pooled(self, maps: Array) -> Array:
        """W P^T (J, C R) for maps (R, S)."""
        j, s = len(self.values), maps.shape[1]
        return (self.values.reshape(j, -1, s) @ maps.T.astype(np.float32)).reshape(j, -1).astype(np.float64)

    def spatial(self, channel: Array) -> Array:
        """The sum over j of W_j^T A W_j (S, S), W_j (C, S), A (C, C)."""
        j, c = len(self.values), len(channel)
        mixing = channel.astype(np.float32)
        total: Array = np.zeros((self.values.shape[1] // c,) * 2)
        for i in range(0, j, BLOCK):
            part = self.values[i : i + BLOCK].reshape(-1, c, len(total))
            total += np.tensordot(part, mixing @ part, ((0, 1), (0, 1)))
        return total


@dataclass(frozen=True, eq=False)
class Sample:
    """What rows x (n, d) and the teacher's answers y (n, J) say of a layer W x + b; see the module's docstring."""

    weights: Weights
    x: NDArray[np.float32]
    """centred"""
    mean_x: Array
    mean_y: Array
    gram: Array
    shrink: float
    """a"""
    variance: float
    """m"""
    plain: Array
    """X W^T"""
    correction: Array
    """D (J, n)"""
    through: Array
    """S (n, J)"""

    @staticmethod
    def of(weights: Weights, x: NDArray[Any], y: NDArray[Any]) -> Sample:
        n, d = x.shape
        mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        centred = x.astype(np.float32) - mean_x.astype(np.float32)
        gram = (centred @ centred.T).astype(np.float64)
        lengths = np.diag(gram)
        variance = max(float(lengths.sum()) / (n * d), float(np.finfo(np.float32).tiny))
        square = float(np.square(gram).sum()) / n**2
        distance = square - d * variance**2
        noise = max(0.0, (float(np.square(lengths).mean()) - square) / n)
        shrink = 1.0 if distance <= 0 else max(min(distance, noise) / distance, 1e-6)
        plain = (centred @ weights.values.T).astype(np.float64)
        inverse = gram * ((1 - shrink) / n)
        inverse.flat[:: n + 1] += shrink * variance
        correction = scipy.linalg.solve(inverse, y - mean_y - plain, assume_a="pos").T / n
        through = plain + gram @ correction.T
        return Sample(weights, centred, mean_x, mean_y, gram, shrink, variance, plain, correction, through)

    @property
    def count(self) -> int:
        return len(self.x)

    @cached_property
    def energy(self) -> float:
        """E|W* (x - mean)|^2"""
        crossed = 2 * float(np.vdot(self.correction.T, self.plain))
        own = self.weights.energy + crossed + float(np.vdot(self.correction @ self.gram, self.correction))
        return float(self.mixed(np.square(self.through).sum(), own))

    @cached_property
    def outputs(self) -> Array:
        """W* C W*^T"""
        crossed = self.correction @ self.plain
        own = self.weights.gram + crossed + crossed.T + self.correction @ self.gram @ self.correction.T
        return np.asarray(self.mixed(self.through.T @ self.through, own))

    def mixed(self, seen: Any, prior: Any) -> Any:
        """A second moment: its sum over the sample, shrunk to what it is for C = m I."""
        return (1 - self.shrink) / self.count * seen + self.shrink * self.variance * prior


def low_rank(sample: Sample, rank: int, seed: int) -> Head:
    """The product of (J, rank) and (rank, d)."""
    q = _leading(sample.outputs, rank, seed)
    inner = q.T.astype(np.float32) @ sample.weights.values
    inner += (q.T @ sample.correction).astype(np.float32) @ sample.x
    kept = float(np.einsum("jr,jk,kr->", q, sample.outputs, q, optimize=True))
    bias = sample.mean_y - q @ (inner @ sample.mean_x)
    return Head(inner, q, bias, _root(sample.energy - kept, sample.energy))


def pooled(sample: Sample, maps: Array) -> Head:
    """The best layer on what the maps (R, S) give for each channel."""
    n, s = sample.count, maps.shape[1]
    small = maps.astype(np.float32)
    rows = (sample.x.reshape(n, -1, s) @ small.T).reshape(n, -1).astype(np.float64)
    channels = rows.shape[1] // len(maps)
    cross = sample.mixed(sample.through.T @ rows, sample.weights.pooled(maps) + sample.correction @ rows)
    gram = sample.mixed(rows.T @ rows, np.kron(np.eye(channels), maps @ maps.T))
    outer = solve_right(gram, cross)
    mean = (sample.mean_x.reshape(-1, s) @ maps.T).ravel()
    lost = sample.energy - float(np.vdot(outer, cross))
    return Head(maps, outer, sample.mean_y - outer @ mean, _root(lost, sample.energy))


def learned_maps(sample: Sample, channels: int, number: int) -> Head:
    """`number` maps shared by all channels: the best ones as far as C is a Kronecker product A (x) B."""
    maps = sample.x.reshape(sample.count, channels, -1)
    s = maps.shape[2]
    channel, spatial = np.zeros((channels, channels)), np.zeros((s, s))
    for image in maps:
        channel += image @ image.T / s
        spatial += image.T @ image / channels
    channel, spatial = sample.mixed(channel, np.eye(channels)), sample.mixed(spatial, np.eye(s))
    root = np.linalg.cholesky(spatial)
    gram = root.T @ sample.weights.spatial(channel) @ root
    vectors = scipy.linalg.eigh((gram + gram.T) / 2)[1][:, ::-1][:, :number]
    found = scipy.linalg.solve_triangular(root, vectors, lower=True, trans="T").T
    return pooled(sample, np.linalg.qr(found.T)[0].T)


def _leading(matrix: Array, number: int, seed: int) -> Array:
    """Orthonormal leading eigenvectors (J, number) of a positive semidefinite matrix."""
    size = len(matrix)
    if FEW * number >= size or size < BLOCK:
        return np.asarray(scipy.linalg.eigh(matrix, subset_by_index=(size - number, size - 1))[1][:, ::-1])
    basis = np.random.default_rng(seed).standard_normal((size, number + 16), dtype=np.float32)
    single = (matrix / np.trace(matrix)).astype(np.float32)
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(single @ basis)[0]
    basis = np.linalg.qr(basis.astype(np.float64))[0]
    vectors = scipy.linalg.eigh(basis.T @ matrix @ basis)[1][:, ::-1][:, :number]
    return np.asarray(basis @ vectors)


def _root(part: float, whole: float) -> float:
    return float(np.sqrt(max(part, 0.0) / max(whole, float(np.finfo(np.float32).tiny))))
