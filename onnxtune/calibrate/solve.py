"""The fit of a factorised form to a convolution: least squares on what the layer really sees.

    minimise over the stages   tr (W* - K) C (W* - K)^T,      K the stages' kernel
    W* = W + (C_yx - W C_xx)(C_xx + ridge)^-1,   b' = mean y - K mean x

x are patches of the layer's input, y what the original model had before its activation. With x from the
same model, C_yx = W C_xx and W* = W; with x from a model whose earlier layers are rewritten already, the
fit also makes up for their errors (Zhang et al. 2015). Without data C = I (Eckart-Young and its kin).

The last stage enters linearly and is solved exactly. The others move along Gauss-Newton directions, found
by preconditioned conjugate gradients, as far as the error falls with the last stage refitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from onnxtune.calibrate.covariance import ridge as with_ridge
from onnxtune.calibrate.covariance import suggested_ridge
from onnxtune.calibrate.forms import Factors, Form, composed
from onnxtune.calibrate.models import Metric, Model, Weights, model_of
from onnxtune.calibrate.moments import Array, Moments
from onnxtune.calibrate.starts import starts

PATIENCE = 3
"""Canonical forms cross flat places."""

TRIAL, FREE_ITERATIONS = 3, 10
"""Iterations for each start before the best goes on, and for the fit without data that is one of them."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """`rel_error`: square root of E|y - y'|^2 / E|y - mean y|^2 on the fit's own data (of |W - K|^2 / |W|^2 without).

    `history`: the same after each iteration, by the regularised covariance; it never rises.
    """

    factors: Factors
    rel_error: float
    history: tuple[float, ...]

    @property
    def iterations(self) -> int:
        return len(self.history) - 1


@dataclass(frozen=True, eq=False)
class _Problem:
    target: Array
    """(O, C, *kernel)"""
    metric: Metric

    def weighted(self, kernel: Array) -> Array:
        """The kernel times the covariance, in the kernel's shape."""
        return self.metric.times(kernel.reshape(len(kernel), -1)).reshape(kernel.shape)


@dataclass(frozen=True, eq=False)
class _Point:
    """Weights with the best last stage for the others."""

    weights: Weights
    gram: Array
    slope: Array
    """(W* - K) C"""
    error: float


def fit(
    form: Form,
    weight: Array,
    bias: Array | None,
    moments: Moments | None,
    mid: Sequence[int],
    *,
    ridge: float | None = None,
    iterations: int = 25,
    steps: int = 12,
    tolerance: float = 2e-3,
    seed: int = 0,
) -> Fitted:
    """The form with `mid` channels between its stages that does best what weight (O, C, *kernel) and bias do.

    `ridge`: None for what Ledoit and Wolf's shrinkage suggests (0.4 at an eighth as many rows as columns, 0.004
    at 24 times as many). Data-free without moments: then the bias stays as it is.
    Stops after `iterations`, or when PATIENCE in a row each lower the relative error by less than `tolerance` of it.
    """
    out, channels, *kernel = weight.shape
    full = None
    if moments is not None:
        full = with_ridge(moments.xx, suggested_ridge(moments) if ridge is None else ridge)
    target = weight.reshape(out, -1)
    if moments is not None and full is not None:
        target = target + scipy.linalg.solve(full, (moments.yx - target @ moments.xx).T, assume_a="pos").T
    problem = _Problem(target.reshape(weight.shape), Metric.of(full, channels, int(np.prod(kernel))))
    energy = float(np.square(weight).sum()) if moments is None else float(moments.yy.sum())
    model = model_of(form)
    start, tried = _start(model, form, problem, mid, seed, steps, tolerance)
    point, more = _minimise(model, start, problem, max(0, iterations - len(tried) + 1), steps, tolerance)
    history = tried + more[1:]
    weights = model.balance(point.weights)
    found = composed(form, weights).reshape(out, -1)
    old = np.zeros(out) if bias is None else bias.astype(np.float64)
    new = old if moments is None else moments.mean_y - found @ moments.mean_x
    scale = max(energy, np.finfo(float).tiny)
    error = _square_error(weight.reshape(out, -1), found, moments)
    curve = tuple(float(np.sqrt(max(e, 0.0) / scale)) for e in history)
    return Fitted(Factors(form, weights, new), float(np.sqrt(max(error, 0.0) / scale)), curve)


def _square_error(weight: Array, found: Array, moments: Moments | None) -> float:
    """E|y - y'|^2 with the best bias, or |W - K|^2."""
    less = weight - found
    if moments is None:
        return float(np.square(less).sum())
    unexplained = moments.yx - weight @ moments.xx
    own = np.vdot(less @ moments.xx, less) + 2 * np.vdot(less, unexplained)
    return float(own + moments.yy.sum() - np.vdot(weight, moments.yx + unexplained))


def _start(
    model: Model, form: Form, problem: _Problem, mid: Sequence[int], seed: int, steps: int, tolerance: float
) -> tuple[_Point, list[float]]:
    """The best of a few starts after a few iterations, and its errors so far.

    One of them is the fit without data: so the fit with data does not end in a worse valley than that.
    """
    found = _points(model, form, problem, mid, seed)[:2]
    if problem.metric.full is not None:
        channels, taps = problem.target.shape[1], problem.target[0, 0].size
        plain = _Problem(problem.target, Metric.of(None, channels, taps))
        free = _points(model, form, plain, mid, seed)[0]
        free, _ = _minimise(model, free, plain, FREE_ITERATIONS, steps, tolerance)
        found.append(_refit(model, free.weights, problem))
    if len(found) == 1:
        return found[0], [found[0].error]
    return min((_minimise(model, p, problem, TRIAL, steps, tolerance) for p in found), key=lambda t: t[1][-1])


def _points(model: Model, form: Form, problem: _Problem, mid: Sequence[int], seed: int) -> list[_Point]:
    """The starts with their last stages, the best first."""
    random = np.random.default_rng(seed)
    found = (_refit(model, w, problem) for w in starts(form, problem.target, problem.metric, mid, random))
    return sorted(found, key=lambda p: p.error)


def _refit(model: Model, w: Weights, problem: _Problem) -> _Point:
    """The last stage in closed form: (W* C T^T)(T C T^T)^-1, T its features."""
    target, full = problem.target, problem.metric.full
    through = np.eye(target[0].size) if full is None else full
    features = model.last(w, through.reshape(-1, *target.shape[1:]))  # C T^T
    gram = model.last(w, np.ascontiguousarray(features.T).reshape(-1, *target.shape[1:]))
    last = solve_right(gram, target.reshape(len(target), -1) @ features).reshape(w[-1].shape)
    weights = (*w[:-1], last)
    less = target - model.value(weights)
    slope = problem.weighted(less)
    return _Point(weights, gram, slope, float(np.vdot(less, slope)))


def solve_right(gram: Array, cross: Array) -> Array:
    """cross gram^-1 for a positive semidefinite gram, with as little ridge as makes it definite."""
    for amount in (1e-13, 1e-11, 1e-9, 1e-7):
        try:
            factor = scipy.linalg.cho_factor(with_ridge(gram, amount), check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(scipy.linalg.cho_solve(factor, cross.T, check_finite=False).T)
    return np.asarray(cross @ np.linalg.pinv(gram, hermitian=True))


def _minimise(
    model: Model, point: _Point, problem: _Problem, iterations: int, steps: int, tolerance: float
) -> tuple[_Point, list[float]]:
    history = [point.error]
    slow = 0
    for _ in range(iterations):
        better = _step(model, point, problem, steps)
        if better is None:
            break
        history.append(better.error)
        slow = slow + 1 if better.error > (1 - 2 * tolerance) * point.error else 0
        point = better
        if slow == PATIENCE:
            break
    return point, history


def _step(model: Model, point: _Point, problem: _Problem, steps: int) -> _Point | None:
    """A Gauss-Newton step of all stages together, shortened until the error falls; None when it never does."""
    change = _direction(model, point, problem, steps)
    for length in (1.0, 0.25, 0.06, 0.01):
        moved = tuple(w + length * d for w, d in zip(point.weights, change, strict=True))
        better = _refit(model, model.balance(moved), problem)
        if better.error < point.error:
            return better
    return None


def _direction(model: Model, point: _Point, problem: _Problem, steps: int) -> list[Array]:
    """J^T C J d = J^T C (W* - K) by preconditioned conjugate gradients, a few steps.

    In single precision: what it loses only turns the direction a little, and the error is judged in double.
    """
    size = float(np.abs(point.slope).max())
    if size == 0:
        return [np.zeros_like(w) for w in point.weights]
    w = tuple(x.astype(np.float32) for x in point.weights)
    precondition = model.preconditioner(point.weights, problem.metric, point.gram)
    residual = model.backward(w, (point.slope / size).astype(np.float32))
    found = [np.zeros_like(r) for r in residual]
    ahead = precondition(residual)
    search, height = ahead, _dot(residual, ahead)
    first = height
    for _ in range(steps):
        image = model.forward(w, search)
        weighted = problem.metric.times(image.reshape(len(image), -1)).reshape(image.shape)
        curvature = float(np.vdot(image, weighted))
        if curvature <= 0 or height <= 1e-10 * first:
            break
        rate = height / curvature
        found = [f + rate * s for f, s in zip(found, search, strict=True)]
        back = model.backward(w, weighted)
        residual = [r - rate * b for r, b in zip(residual, back, strict=True)]
        ahead = precondition(residual)
        height, before = _dot(residual, ahead), height
        search = [a + height / before * s for a, s in zip(ahead, search, strict=True)]
    return [size * f.astype(np.float64) for f in found]


def _dot(a: Sequence[Array], b: Sequence[Array]) -> float:
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def predict(factors: Factors, x: Array) -> Array:
    """What the stages answer to patches x (n, d), as one convolution would: (n, O)."""
    kernel = composed(factors.form, factors.weights)
    return np.asarray(x @ kernel.reshape(len(kernel), -1).T + factors.bias)


def relative_error(y: Array, predicted: Array) -> float:
    """Square root of E|y - predicted|^2 / E|y - mean y|^2; y: (n, J)."""
    return float(np.sqrt(np.square(y - predicted).sum() / np.square(y - y.mean(0)).sum()))
