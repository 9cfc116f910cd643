"""The last stage for the error after a ReLU: better there, or left alone."""

from __future__ import annotations

import numpy as np
from layers import maps, moments, sample, square, weights

from onnxtune.calibrate import forms
from onnxtune.calibrate.forms import Factors
from onnxtune.calibrate.relu import refit_for_relu, relu_error
from onnxtune.calibrate.solve import fit, predict, relative_error

Rows = tuple[np.ndarray, np.ndarray]


def fitted(shift: float) -> tuple[Factors, Rows, Rows]:
    weight, bias = weights(8, 6, 5)
    x = sample(maps(6, 80), square(5))
    y = x @ weight.reshape(8, -1).T
    y = y - y.mean(0) + shift * y.std(0)
    bias = y[0] - x[0] @ weight.reshape(8, -1).T
    half = len(x) // 2
    form = forms.separable(square(5))
    factors = fit(form, weight, bias, moments(x[:half], y[:half]), (6,)).factors
    return factors, (x[:half], y[:half]), (x[half:], y[half:])


def test_mostly_negative_outputs_gain() -> None:
    factors, rows, held_out = fitted(-1.0)
    better = refit_for_relu(factors, rows, held_out)
    assert relu_error(better, *held_out) < 0.985 * relu_error(factors, *held_out)
    assert all(np.array_equal(a, b) for a, b in zip(better.weights[:-1], factors.weights[:-1], strict=True))
    y = held_out[1]
    assert relative_error(y, predict(better, held_out[0])) > relative_error(y, predict(factors, held_out[0]))


def test_outputs_that_all_pass_stay() -> None:
    factors, rows, held_out = fitted(100.0)
    better = refit_for_relu(factors, rows, held_out)
    assert relu_error(better, *held_out) <= relu_error(factors, *held_out)
    assert np.allclose(forms.compose(better), forms.compose(factors), atol=0.05)


def test_kept_only_if_the_rows_held_out_gain() -> None:
    factors, rows, held_out = fitted(-1.0)
    few = (rows[0][:5], rows[1][:5] + 50)
    assert refit_for_relu(factors, few, held_out, amount=0.0) is factors
