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
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxtune.calibrate.covariance import ridge as with_ridge
from onnxtune.calibrate.forms import Factors, Form, composed
from onnxtune.calibrate.models import Model, Weights, model_of
from onnxtune.calibrate.moments import Array, Moments
from onnxtune.calibrate.problem import Free, Problem, Seen
from onnxtune.calibrate.starts import starts
from onnxtune.calibrate.wide_convs import Rows, Sampled

PATIENCE = 3
"""Canonical forms cross flat places."""

TRIAL, FREE_ITERATIONS, COSTLY_ITERATIONS = 3, 10, 5
"""Iterations for each start before the best goes on, and for the fit without data that is one of them (the only one
where iterations are costly)."""


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
    seen: Moments | Rows | None,
    mid: Sequence[int],
    *,
    ridge: float | None = None,
    iterations: int = 25,
    steps: int = 12,
    tolerance: float = 2e-3,
    seed: int = 0,
    near: Sequence[NDArray[Any]] | None = None,
) -> Fitted:
    """The form with `mid` channels between its stages that does best what weight (O, C, *kernel) and bias do.

    `ridge`: None for what Ledoit and Wolf's shrinkage suggests (0.4 at an eighth as many rows as columns, 0.004
    at 24 times as many); rows have their own. Data-free where nothing was seen: then the bias stays as it is.
    `near`: the stages' weights of a fit to similar data, in place of all other starts.
    Stops after `iterations`, or when PATIENCE in a row each lower the relative error by less than `tolerance` of it.
    """
    problem = _problem(weight, seen, ridge)
    model = model_of(form)
    if near is None:
        start, tried = _start(model, form, problem, mid, seed, steps, tolerance)
    else:
        start = _refit(model, model.balance(tuple(w.astype(np.float64) for w in near)), problem)
        tried = [start.error]
    point, more = _minimise(model, start, problem, max(0, iterations - len(tried) + 1), steps, tolerance)
    history = tried + more[1:]
    weights = model.balance(point.weights)
    found = composed(form, weights)
    old = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    scale = max(problem.energy, np.finfo(float).tiny)
    curve = tuple(float(np.sqrt(max(e, 0.0) / scale)) for e in history)
    error = float(np.sqrt(max(problem.lost(found), 0.0) / scale))
    return Fitted(Factors(form, weights, problem.bias(found, old)), error, curve)


def _problem(weight: Array, seen: Moments | Rows | None, ridge: float | None) -> Problem:
    if seen is None:
        return Free(weight)
    if isinstance(seen, Rows):
        return Sampled.of(weight, seen)
    return Seen.of(weight, seen, ridge)


def _start(
    model: Model, form: Form, problem: Problem, mid: Sequence[int], seed: int, steps: int, tolerance: float
) -> tuple[_Point, list[float]]:
    """The best of a few starts after a few iterations, and its errors so far.

    One of them is the solution of a cheaper problem, without data where there are moments: so the fit with data
    does not end in a worse valley than that. Where iterations are costly it is the only one.
    """
    found = [] if problem.costly else _points(model, form, problem, mid, seed)[:2]
    cheaper = problem.cheaper
    if cheaper is not None:
        point = _points(model, form, cheaper, mid, seed)[0]
        first = COSTLY_ITERATIONS if problem.costly else FREE_ITERATIONS
        point, _ = _minimise(model, point, cheaper, first, steps, tolerance)
        found.append(_refit(model, point.weights, problem))
    if len(found) == 1:
        return found[0], [found[0].error]
    return min((_minimise(model, p, problem, TRIAL, steps, tolerance) for p in found), key=lambda t: t[1][-1])


def _points(model: Model, form: Form, problem: Problem, mid: Sequence[int], seed: int) -> list[_Point]:
    """The starts with their last stages, the best first."""
    random = np.random.default_rng(seed)
    found = (_refit(model, w, problem) for w in starts(form, problem.target, problem.metric, mid, random))
    return sorted(found, key=lambda p: p.error)


def _refit(model: Model, w: Weights, problem: Problem) -> _Point:
    """The last stage in closed form: (W* C T^T)(T C T^T)^-1, T its features."""
    gram, cross = problem.normal(model, w)
    weights = (*w[:-1], solve_right(gram, cross).reshape(w[-1].shape))
    less = problem.target - model.value(weights)
    slope = problem.times(less)
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
    model: Model, point: _Point, problem: Problem, iterations: int, steps: int, tolerance: float
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


def _step(model: Model, point: _Point, problem: Problem, steps: int) -> _Point | None:
    """A Gauss-Newton step of all stages together, shortened until the error falls; None when it never does."""
    change = _direction(model, point, problem, steps)
    for length in (1.0, 0.25, 0.06, 0.01):
        moved = tuple(w + length * d for w, d in zip(point.weights, change, strict=True))
        better = _refit(model, model.balance(moved), problem)
        if better.error < point.error:
            return better
    return None


def _direction(model: Model, point: _Point, problem: Problem, steps: int) -> list[Array]:
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
        weighted = problem.times(image)
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
