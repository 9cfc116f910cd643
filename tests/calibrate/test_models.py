"""Compositions by hand, and the preconditioner against the Hessian where the covariance is a Kronecker product."""

from __future__ import annotations

import numpy as np
import pytest
from layers import square

from onnxtune.calibrate import forms
from onnxtune.calibrate.composition import back_to_inner, back_to_outer, compose, composite, places
from onnxtune.calibrate.forms import Form
from onnxtune.calibrate.models import Chain, Metric

CHAINS = [
    (forms.stack(square(5), [(3, 3), (3, 3)]), (4,)),
    (forms.stack(square(7, 2), [(3, 3), (3, 3)], (2, 2)), (3,)),
    (forms.stack(square(7), [(3, 3), (3, 3), (3, 3)]), (3, 2)),
    (forms.separable(square(5)), (4,)),
    (forms.bottleneck(square(3)), (3, 2)),
]


@pytest.mark.parametrize(("form", "mid"), CHAINS, ids=[f.name for f, _ in CHAINS])
def test_the_first_and_the_last_stage_alone_are_solved_for_a_separable_covariance(
    form: Form, mid: tuple[int, ...]
) -> None:
    """J^T C J of one stage at a time, built column by column, times what the preconditioner makes of a residual."""
    rng = np.random.default_rng(0)
    channels, taps = 4, int(np.prod(form.window.kernel))
    a, b = (rng.standard_normal((3 * n, n)) for n in (channels, taps))
    spatial = b.T @ b
    metric = Metric(a.T @ a, spatial / np.diag(spatial).mean())
    w = forms.unfitted(form, (6, channels), mid, rng).weights
    model = Chain(form)
    features = model.features(w).reshape(-1, channels * taps)
    full = np.kron(metric.channel, metric.spatial)
    solve = model.preconditioner(w, metric, features @ full @ features.T)
    residual = [rng.standard_normal(x.shape) for x in w]
    for i, found in enumerate(solve([r.astype(np.float32) for r in residual])):
        columns = []
        for unit in np.eye(w[i].size):
            change = [np.zeros_like(x) for x in w]
            change[i] = unit.reshape(w[i].shape)
            columns.append(model.forward(w, change).reshape(6, -1))
        jacobian = np.stack(columns, axis=-1)  # (O, d, unknowns)
        hessian = np.einsum("odu,de,oev->uv", jacobian, full, jacobian, optimize=True)
        if i in (0, len(w) - 1):  # between them it is an approximation
            error = np.abs(hessian @ found.ravel() - residual[i].ravel()).max()
            assert error < 0.02 * np.abs(residual[i]).max(), (i, np.linalg.cond(hessian))


@pytest.mark.parametrize(
    ("outer", "inner", "step"), [((3, 3), (3, 3), (1, 1)), ((2, 3), (3, 1), (2, 1)), ((1, 1), (3, 2), (1, 1))]
)
def test_compositions(outer: tuple[int, ...], inner: tuple[int, ...], step: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((5, 4, *outer)), rng.standard_normal((4, 3, *inner))
    size = composite(outer, inner, step)
    want = np.zeros((5, 3, *size))
    for i, j in np.ndindex(*outer):
        for k, n in np.ndindex(*inner):
            want[:, :, i * step[0] + k, j * step[1] + n] += u[:, :, i, j] @ v[:, :, k, n]
            place = places(outer, inner, step)[i * outer[1] + j, k * inner[1] + n]
            assert np.unravel_index(place, size) == (i * step[0] + k, j * step[1] + n)
    assert np.allclose(compose(u, v, step), want)
    gradient = rng.standard_normal(want.shape)
    assert np.isclose(np.vdot(gradient, want), np.vdot(back_to_inner(u, gradient, inner, step), v))
    assert np.isclose(np.vdot(gradient, want), np.vdot(back_to_outer(v, gradient, outer, step), u))
    for single in (
        compose(*(x.astype(np.float32) for x in (u, v)), step),
        back_to_inner(u.astype(np.float32), gradient.astype(np.float32), inner, step),
    ):
        assert single.dtype == np.float32
