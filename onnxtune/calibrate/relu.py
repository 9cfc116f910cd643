"""The last stage of a fitted form again, this time for the error after a ReLU (Zhang et al. 2015).

With z = [features of the last stage; 1] fixed and S = z B^T, minimise by turns, lambda rising,

    (relu(t) - relu(y))^2 + lambda (t - S)^2     over t, element by element: the better of
                t0 = min(0, S)   and   t1 = max(0, (lambda S + relu(y)) / (lambda + 1))
    |t - z B^T|^2                                over B: least squares

What was negative may become any other negative number, so the fit spends itself on what passes. Kept only
if the error on rows that were held out fell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.covariance import ridge
from onnxtune.calibrate.forms import Factors
from onnxtune.calibrate.models import model_of
from onnxtune.calibrate.moments import Array
from onnxtune.calibrate.solve import predict, solve_right

Rows = tuple[NDArray[Any], NDArray[Any]]
"""x (n, d) patches of the input, y (n, O) what the original has before its ReLU."""

PENALTIES = np.geomspace(0.05, 1.0, 6)


def refit_for_relu(factors: Factors, rows: Rows, held_out: Rows, *, amount: float = 1e-3) -> Factors:
    """The factors with a better last stage, or as they are. Rows: at least a few times the stage's columns."""
    x, y = (a.astype(np.float64) for a in rows)
    shape = (factors.weights[0].shape[1], *factors.form.window.kernel)
    z = model_of(factors.form).last(factors.weights, x.reshape(-1, *shape))
    z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    last = factors.weights[-1]
    b = np.concatenate([last.reshape(len(last), -1), factors.bias[:, None]], axis=1)
    gram = ridge(z.T @ z, amount)
    positive = np.maximum(y, 0)
    for penalty in PENALTIES:
        s = z @ b.T
        b = b + solve_right(gram, (_targets(s, positive, penalty) - s).T @ z)
    better = replace(factors, weights=(*factors.weights[:-1], b[:, :-1].reshape(last.shape)), bias=b[:, -1])
    return better if relu_error(better, *held_out) < relu_error(factors, *held_out) else factors


def relu_error(factors: Factors, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Square root of E|relu y - relu y'|^2 / E|relu y - mean|^2."""
    want, found = np.maximum(y.astype(np.float64), 0), np.maximum(predict(factors, x.astype(np.float64)), 0)
    energy = max(float(np.square(want - want.mean(0)).sum()), np.finfo(float).tiny)
    return float(np.sqrt(np.square(want - found).sum() / energy))


def _targets(s: Array, positive: Array, penalty: float) -> Array:
    off, on = np.minimum(s, 0), np.maximum(0, (penalty * s + positive) / (penalty + 1))
    cost_off = positive**2 + penalty * (off - s) ** 2
    cost_on = (on - positive) ** 2 + penalty * (on - s) ** 2
    return np.where(cost_on < cost_off, on, off)
