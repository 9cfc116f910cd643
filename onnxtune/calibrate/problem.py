"""What a fit minimises, tr (W* - K) C (W* - K)^T, for different knowledge of the covariance C of a layer's patches.

    Free       C = I: without data
    Seen       C from Moments, with a ridge
    Separated  C = A (x) B, channels and taps: cheap, and close to what convolutions see

A sample of rows in place of C: wide_convs.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg

from onnxtune.calibrate.covariance import ridge as with_ridge
from onnxtune.calibrate.covariance import suggested_ridge
from onnxtune.calibrate.models import Metric, Model, Weights
from onnxtune.calibrate.moments import Array, Moments


class Problem(Protocol):
    """Least squares for a kernel K (O, C, *kernel); `metric` steers starts and preconditioner."""

    @property
    def target(self) -> Array:
        """W* (O, C, *kernel)"""

    @property
    def metric(self) -> Metric: ...

    @property
    def energy(self) -> float:
        """What errors are relative to: E|y - mean y|^2, or |W|^2 without data."""

    @property
    def cheaper(self) -> Problem | None:
        """A problem whose solution is a start for this one; None when there is none that is cheaper."""

    @property
    def costly(self) -> bool:
        """Are trials of several starts too much to ask?"""

    def times(self, kernel: Array) -> Array:
        """A kernel times C, in the kernel's shape and precision."""

    def normal(self, model: Model, w: Weights) -> tuple[Array, Array]:
        """T C T^T (f, f) and W* C T^T (O, f), T (f, d) the features of the last stage."""

    def lost(self, kernel: Array) -> float:
        """E|y - y'|^2 on the fit's own data with the best bias, or |W - K|^2."""

    def bias(self, kernel: Array, old: Array) -> Array:
        """The best bias (O,) for a kernel, `old` the layer's own."""


@dataclass(frozen=True, eq=False)
class Free:
    """Without data. `target` is the weight itself."""

    target: Array
    cheaper: Problem | None = None
    costly = False

    @property
    def metric(self) -> Metric:
        return Metric.plain(self.target.shape[1], self.target[0, 0].size)

    @property
    def energy(self) -> float:
        return float(np.square(self.target).sum())

    def times(self, kernel: Array) -> Array:
        return kernel

    def normal(self, model: Model, w: Weights) -> tuple[Array, Array]:
        features = model.features(w)
        flat = features.reshape(len(features), -1)
        return flat @ flat.T, model.last(w, self.target)

    def lost(self, kernel: Array) -> float:
        return float(np.square(self.target - kernel).sum())

    def bias(self, kernel: Array, old: Array) -> Array:
        return old


@dataclass(frozen=True, eq=False)
class Separated:
    """A step on the way to another problem: its errors are not reported."""

    target: Array
    metric: Metric
    cheaper: Problem | None = None
    costly = False

    @cached_property
    def _through(self) -> Array:
        return self.times(self.target)

    @property
    def energy(self) -> float:
        return float(np.vdot(self.target, self._through))

    def times(self, kernel: Array) -> Array:
        return self.metric.times(kernel).reshape(kernel.shape)

    def normal(self, model: Model, w: Weights) -> tuple[Array, Array]:
        features = model.features(w)
        flat = self.times(features).reshape(len(features), -1)
        return flat @ features.reshape(len(features), -1).T, model.last(w, self._through)

    def lost(self, kernel: Array) -> float:
        less = self.target - kernel
        return float(np.vdot(less, self.times(less)))

    def bias(self, kernel: Array, old: Array) -> Array:
        return old


@dataclass(frozen=True, eq=False)
class Seen:
    """`weight` (O, C, *kernel) is what the layer has, `full` the covariance with its ridge."""

    weight: Array
    target: Array
    moments: Moments
    full: Array
    costly = False

    @staticmethod
    def of(weight: Array, moments: Moments, ridge: float | None) -> Seen:
        full = with_ridge(moments.xx, suggested_ridge(moments) if ridge is None else ridge)
        flat = weight.reshape(len(weight), -1)
        target = flat + scipy.linalg.solve(full, (moments.yx - flat @ moments.xx).T, assume_a="pos").T
        return Seen(weight, target.reshape(weight.shape), moments, full)

    @cached_property
    def metric(self) -> Metric:
        return Metric.of(self.full, self.weight.shape[1], self.weight[0, 0].size)

    @cached_property
    def _single(self) -> Array:
        return self.full.astype(np.float32)

    @property
    def energy(self) -> float:
        return float(self.moments.yy.sum())

    @property
    def cheaper(self) -> Problem:
        return Free(self.target)

    def times(self, kernel: Array) -> Array:
        full = self._single if kernel.dtype == np.float32 else self.full
        return np.asarray((kernel.reshape(len(kernel), -1) @ full).reshape(kernel.shape))

    def normal(self, model: Model, w: Weights) -> tuple[Array, Array]:
        shape = self.weight.shape[1:]
        features = model.last(w, self.full.reshape(-1, *shape))  # C T^T
        gram = model.last(w, np.ascontiguousarray(features.T).reshape(-1, *shape))
        return gram, self.target.reshape(len(self.target), -1) @ features

    def lost(self, kernel: Array) -> float:
        moments, weight = self.moments, self.weight.reshape(len(self.weight), -1)
        less = weight - kernel.reshape(weight.shape)
        unexplained = moments.yx - weight @ moments.xx
        own = np.vdot(less @ moments.xx, less) + 2 * np.vdot(less, unexplained)
        return float(own + moments.yy.sum() - np.vdot(weight, moments.yx + unexplained))

    def bias(self, kernel: Array, old: Array) -> Array:
        return self.moments.mean_y - kernel.reshape(len(kernel), -1) @ self.moments.mean_x
