"""Convolutions whose patches have too many columns d for a covariance: everything from a sample of n rows.

With Z (n, d) the centred rows over the square root of n, m the mean of their columns' variances and a the intensity of
Ledoit and Wolf (2004; covariance.py),

    C = (1 - a) Z^T Z + a m I

Nothing is (d, d): K C = (1 - a) (K Z^T) Z + a m K for a kernel K, and T C T^T = (1 - a) (Z T^T)^T (Z T^T) + a m T T^T
for the features T of a last stage. |C|^2 is estimated from the products of different rows, which have no bias:

    a = b2 / d2,   b2 = (mean |z|^4 - |C|^2) / n,   d2 = |C|^2 + b2 - d m^2

The target makes up for errors of earlier layers, E (n, O) what W x + b lacks, in the dual of the rows:

    W* = W + (1 - a) E^T ((1 - a) Z Z^T + a m I)^-1 Z
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxtune.calibrate.covariance import ridge
from onnxtune.calibrate.models import Metric, Model, Weights
from onnxtune.calibrate.moments import Array
from onnxtune.calibrate.problem import Free, Problem

PAIRS = 1024
"""Rows whose products with each other tell how noisy the sample is, and that are enough for a direction."""
DUAL = 4096
LEAST_SHRINK = 1e-3
SAME = 1e-4
"""Answers that differ from the layer's by less, relative to the largest, are the layer's: single precision."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A sample of rows `x` (n, d), float32, as they were seen, and `answers` (n, O), centred and over the root of n."""

    x: NDArray[np.float32]
    answers: Array
    mean_x: Array
    mean_y: Array

    @staticmethod
    def of(x: NDArray[Any], y: NDArray[Any]) -> Rows:
        mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        answers = (y.astype(np.float64) - mean_y) * len(x) ** -0.5
        return Rows(x.astype(np.float32, copy=False), answers, mean_x, mean_y)

    @property
    def plain_answers(self) -> Array:
        """As they were seen."""
        return np.asarray(self.answers * len(self.x) ** 0.5 + self.mean_y)

    @cached_property
    def few(self) -> NDArray[np.float32]:
        """Some of Z, as rows of a smaller sample."""
        some = self.x[np.linspace(0, len(self.x) - 1, min(PAIRS, len(self.x))).astype(int)]
        return np.asarray((some - self.mean_x.astype(np.float32)) * np.float32(len(some) ** -0.5))

    @cached_property
    def variance(self) -> float:
        """m"""
        total = sum(
            float(np.square(b, dtype=np.float64).sum()) for b in np.array_split(self.x, max(1, len(self.x) // 256))
        )
        return max((total / len(self.x) - float(self.mean_x @ self.mean_x)) / len(self.mean_x), 1e-30)

    @cached_property
    def shrink(self) -> float:
        """a"""
        return self.shrink_of(len(self.x))

    def shrink_of(self, n: int) -> float:
        """The intensity for a sample of n rows like these."""
        count, d = len(self.few), len(self.mean_x)
        products = np.square((self.few @ self.few.T).astype(np.float64)) * count**2
        fourth = float(np.trace(products)) / count
        square = (float(products.sum()) - count * fourth) / max(count * (count - 1), 1)
        noise = max(0.0, (fourth - square) / n)
        distance = square + noise - d * self.variance**2
        return max(min(1.0, noise / distance), LEAST_SHRINK) if distance > 0 else 1.0

    def answer(self, kernel: Array) -> Array:
        """Z K^T (n, O), in single precision."""
        flat = kernel.reshape(len(kernel), -1)
        found = self.x @ flat.T.astype(np.float32) - (flat @ self.mean_x).astype(np.float32)
        return np.asarray(found * np.float32(len(self.x) ** -0.5))

    def back(self, answers: Array) -> Array:
        """answers^T Z (O, d)."""
        scaled = answers.astype(np.float32) * np.float32(len(self.x) ** -0.5)
        return np.asarray(scaled.T @ self.x - np.outer(scaled.sum(0), self.mean_x.astype(np.float32)))


@dataclass(frozen=True, eq=False)
class Sampled:
    """The problem of a kernel for a sample; see the module's docstring."""

    target: Array
    rows: Rows
    costly = True

    @staticmethod
    def of(weight: NDArray[Any], rows: Rows) -> Sampled:
        wrong = rows.answers - rows.answer(weight)
        target = weight.reshape(len(weight), -1).astype(np.float64)
        if np.abs(wrong).max() > SAME * np.abs(rows.answers).max():
            target = target + _correction(rows, wrong)
        return Sampled(target.reshape(weight.shape), rows)

    @cached_property
    def metric(self) -> Metric:
        return Metric.plain(self.target.shape[1], self.target[0, 0].size)

    @property
    def cheaper(self) -> Problem:
        return Free(self.target)

    @cached_property
    def energy(self) -> float:
        return float(np.vdot(self.target, self.times(self.target)))

    @cached_property
    def _answered(self) -> Array:
        return self.rows.answer(self.target)

    def times(self, kernel: Array) -> Array:
        """In single precision from few of the rows: a direction needs no more."""
        flat, a = kernel.reshape(len(kernel), -1), self.rows.shrink
        if kernel.dtype == np.float32:
            seen: Array = (flat @ self.rows.few.T) @ self.rows.few
        else:
            seen = self.rows.back(self.rows.answer(flat))
        found = np.float32(1 - a) * seen + kernel.dtype.type(a * self.rows.variance) * flat
        return np.asarray(found.reshape(kernel.shape))

    def normal(self, model: Model, w: Weights) -> tuple[Array, Array]:
        a, variance, features = self.rows.shrink, self.rows.variance, model.features(w)
        flat = features.reshape(len(features), -1)
        single, shape = tuple(x.astype(np.float32) for x in w), self.target.shape[1:]
        found = model.last(single, self.rows.x.reshape(-1, *shape))  # (n, f)
        seen: Array = (found - (flat @ self.rows.mean_x).astype(np.float32)) * np.float32(len(found) ** -0.5)
        gram = (1 - a) * (seen.T @ seen).astype(np.float64) + a * variance * (flat @ flat.T)
        cross = (1 - a) * (self._answered.T @ seen) + a * variance * model.last(w, self.target)
        return gram, np.asarray(cross)

    def lost(self, kernel: Array) -> float:
        less = self.target - kernel
        return float(np.vdot(less, self.times(less)))

    def bias(self, kernel: Array, old: Array) -> Array:
        return np.asarray(self.rows.mean_y - kernel.reshape(len(kernel), -1) @ self.rows.mean_x)


def _correction(rows: Rows, wrong: Array) -> Array:
    """What makes up for `wrong` (n, O), by at most DUAL of the rows: the equations are as many."""
    n = min(DUAL, len(rows.x))
    chosen = np.linspace(0, len(rows.x) - 1, n).astype(int)
    some = (rows.x[chosen] - rows.mean_x.astype(np.float32)) * np.float32(n**-0.5)
    a = rows.shrink_of(n)
    inner = (some @ some.T).astype(np.float64) * (1 - a)
    inner.flat[:: n + 1] += a * rows.variance
    dual = scipy.linalg.solve(inner, wrong[chosen] * (len(rows.x) / n) ** 0.5, assume_a="pos")
    return np.asarray((1 - a) * (dual.T.astype(np.float32) @ some).astype(np.float64))


def separated(rows: Rows, channels: int) -> Metric:
    """The Kronecker product of channels and taps that comes closest to the covariance of some of the rows."""
    cube = rows.few.reshape(len(rows.few), channels, -1)
    taps = cube.shape[2]
    channel: Array = np.zeros((channels, channels))
    for k in range(taps):
        one = np.ascontiguousarray(cube[:, :, k])
        channel += one.T @ one
    flat = cube.reshape(-1, taps)
    spatial = (flat.T @ flat).astype(np.float64)
    trace = max(float(np.trace(channel)), 1e-30)
    return Metric(ridge(channel / taps, 1e-3), ridge(spatial * taps / trace, 1e-3))
