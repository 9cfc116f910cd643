"""What few rows are shrunk to: its algebra, and that it is worth it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from layers import maps, moments

from onnxtune.calibrate.heads import low_rank
from onnxtune.calibrate.priors import Diagonal, Isotropic, Prior, Separable, estimate, shrinkage
from onnxtune.calibrate.solve import relative_error

C, S = 5, 12
PRIORS = [Isotropic.of, Diagonal.of, partial(Separable.of, channels=C)]
KINDS = ["isotropic", "diagonal", "separable"]


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Centred rows of maps (C, 3 4) whose covariance is a product, (count, C 12)."""
    random = np.random.default_rng(seed)
    a, b = (np.random.default_rng(9).standard_normal((n, n)) for n in (C, S))
    found = (a @ random.standard_normal((count, C, S)) @ b.T).reshape(count, -1)
    return (found - found.mean(0)).astype(np.float32)


def dense(prior: Prior) -> np.ndarray:
    """C0"""
    root = prior.through(np.eye(C * S, dtype=np.float32)).astype(np.float64)
    return root @ root.T


@pytest.mark.parametrize("make", PRIORS, ids=KINDS)
def test_roots_undo_each_other(make: type[Prior]) -> None:
    x = rows(40)
    prior = make(x)
    weights = np.random.default_rng(1).standard_normal((7, C * S)).astype(np.float32)
    assert np.allclose(prior.back(prior.through(weights)), weights, atol=1e-4)
    assert np.allclose(prior.white(x) @ prior.through(weights).T, x @ weights.T, atol=1e-2 * np.abs(x).max())
    c0 = dense(prior)
    assert prior.square == pytest.approx(np.square(c0).sum(), rel=1e-4)
    assert np.trace(c0) == pytest.approx(np.square(x).sum() / len(x), rel=0.03)  # the floor adds a little


def test_a_separable_covariance_is_found() -> None:
    x = rows(3000)
    white = Separable.of(x, C).white(x)
    assert np.abs(white.T @ white / len(x) - np.eye(C * S)).mean() < 0.05
    full = Separable.of(rows(30), C)
    exact = x.T @ x / len(x)
    plain = dense(Isotropic.of(rows(30)))
    assert np.linalg.norm(dense(full) - exact) < 0.5 * np.linalg.norm(plain - exact)


@pytest.mark.parametrize("make", PRIORS, ids=KINDS)
def test_the_intensity_is_that_of_the_dense_formula(make: type[Prior]) -> None:
    x = rows(30).astype(np.float64)
    prior = make(x)
    c, c0 = x.T @ x / len(x), dense(prior)
    noise = (np.square(np.square(x).sum(1)).mean() - np.square(c).sum()) / len(x)
    wanted = min(1.0, noise / np.square(c - c0).sum())
    assert shrinkage(x, x @ x.T, prior) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("channels", [None, C])
def test_moments_give_the_same_estimate_as_rows(channels: int | None) -> None:
    x = rows(30).astype(np.float64)
    prior = Diagonal.of(x) if channels is None else Separable.of(x, channels)
    a = shrinkage(x, x @ x.T, prior)
    wanted = (1 - a) * x.T @ x / len(x) + a * dense(prior)
    assert np.allclose(estimate(moments(x, x[:, :1]), channels), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_columns_that_never_vary(constant: float) -> None:
    x = rows(30)
    x[:, : C * S // 2] = 0
    for make in PRIORS:
        prior = make(x)
        assert np.isfinite(prior.white(x)).all()
    still = np.full((30, C * S), constant, np.float32)
    for channels in (None, C):
        found = low_rank(np.ones((3, C * S)), None, moments(still, still[:, :3]), 2, channels)
        assert np.isfinite(found.outer).all()
        assert np.isfinite(found.bias).all()


def test_few_maps_go_further_with_it() -> None:
    """Low rank from 25 maps of 72 columns: closer on all the others than with rows that might be anything."""
    many = maps(6, 200, 0)[:, :, :3, :4].reshape(-1, 72)
    random = np.random.default_rng(0)
    weight = random.standard_normal((40, 72))
    y = many @ weight.T
    few = random.choice(len(many), 25, replace=False)

    def error(channels: int | None) -> float:
        head = low_rank(weight, None, moments(many[few], y[few]), 12, channels)
        return relative_error(y, many @ head.inner.T @ head.outer.T + head.bias)

    assert error(6) < 0.9 * error(None)


def test_a_map_of_one_pixel_is_a_row_of_features() -> None:
    """Its channels have no places to average over: what few rows say of pairs of them must not be believed."""
    random = np.random.default_rng(0)
    many = random.standard_normal((4000, 200)) * np.linspace(0, 2, 200)
    weight = random.standard_normal((60, 200))
    y, few = many @ weight.T, slice(0, 20)
    errors = []
    for channels in (None, 200):
        head = low_rank(weight, None, moments(many[few], y[few]), 30, channels)
        errors.append(relative_error(y, many @ head.inner.T @ head.outer.T + head.bias))
    assert errors[1] == pytest.approx(errors[0], rel=0.03)
