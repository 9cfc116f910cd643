"""Heads: known optima, exact cases, learned maps, few rows."""

from __future__ import annotations

import numpy as np
import pytest
from layers import maps, moments

from onnxtune.calibrate.covariance import Kronecker, shrunk
from onnxtune.calibrate.head_forms import grid_maps
from onnxtune.calibrate.heads import Head, best_maps, learned_maps, low_rank, one_layer, pooled
from onnxtune.calibrate.priors import estimate
from onnxtune.calibrate.solve import relative_error

C, SIZE, J = 6, (3, 4), 10


def features(n: int = 2000, seed: int = 0) -> np.ndarray:
    """(n, C 3 4): corners of smooth maps."""
    x = maps(C, -(-n // 12), seed)
    cut = [x[:, :, i : i + 3, j : j + 4] for i in (0, 4, 8) for j in (0, 3, 6, 9)]
    return np.concatenate(cut).reshape(-1, C * 12)[:n]


def layer(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((J, C * 12)) + random.standard_normal((J, C, 1)).repeat(12, 2).reshape(J, -1), (
        random.standard_normal(J)
    )


def bins(grids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(C cells, C 3 4): means over the cells of grids, for every channel."""
    return np.kron(np.eye(C), grid_maps(SIZE, grids))


def answer(head: Head, x: np.ndarray) -> np.ndarray:
    if head.inner.shape[1] == x.shape[1]:
        return x @ head.inner.T @ head.outer.T + head.bias
    z = x.reshape(len(x), C, -1) @ head.inner.T
    return z.reshape(len(x), -1) @ head.outer.T + head.bias


def test_low_rank_is_the_optimum() -> None:
    weight, bias = layer()
    x = features()
    y = x @ weight.T + bias
    data = moments(x, y)
    values, _ = np.linalg.eigh(weight @ estimate(data, None) @ weight.T)
    found = low_rank(weight, bias, data, 4)
    assert found.inner.shape == (4, C * 12)
    assert found.outer.shape == (J, 4)
    assert found.rel_error == pytest.approx((values[:-4].sum() / values.sum()) ** 0.5, rel=1e-6)
    ours = relative_error(y, answer(found, x))
    assert ours == pytest.approx(found.rel_error, rel=0.1)
    free = low_rank(weight, bias, None, 4)
    lost = np.linalg.svd(weight, compute_uv=False)[4:]
    assert free.rel_error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(weight))
    assert ours < relative_error(y, answer(free, x))
    assert np.allclose(answer(low_rank(weight, bias, data, J), x), y)


def test_low_rank_from_a_damaged_input() -> None:
    """y from the original, x from a net rewritten before this layer: reduced-rank regression."""
    weight, bias = layer()
    x = features()
    y = x @ weight.T + bias
    wrong = x + 0.3 * np.roll(x, 12, axis=1)
    both = relative_error(y, answer(low_rank(weight, bias, moments(wrong, y), 8), wrong))
    own = relative_error(y, answer(low_rank(weight, bias, moments(wrong, y).answered_by(weight, bias), 8), wrong))
    assert both < 0.5 * own


def test_pooled_is_the_optimum() -> None:
    weight, bias = layer()
    x = features()
    y = x @ weight.T + bias
    data = moments(x, y)
    pooling, covariance = bins(((1, 1), (2, 2))), shrunk(data)
    found = pooled(weight, bias, data, pooling)
    slope = (weight - found.outer @ pooling) @ covariance @ pooling.T
    assert np.abs(slope).max() < 1e-6 * np.abs(weight @ covariance).max()
    assert relative_error(y, answer(found, x)) == pytest.approx(found.rel_error, rel=0.1)
    coarse = pooled(weight, bias, data, bins(((1, 1),)))
    assert found.rel_error < coarse.rel_error < relative_error(y, answer(pooled(weight, bias, None, coarse.inner), x))


def test_weights_constant_over_the_map_are_kept_by_the_mean() -> None:
    random = np.random.default_rng(0)
    weight, bias = random.standard_normal((J, C, 1)).repeat(12, 2).reshape(J, -1), random.standard_normal(J)
    x = features()
    y = x @ weight.T + bias
    for data in (moments(x, y), None):
        found = pooled(weight, bias, data, bins(((1, 1),)))
        assert np.allclose(answer(found, x), y)
        assert found.rel_error < 1e-6


def test_few_rows_serve_a_model_based_fit() -> None:
    """From 60 rows for 72 columns: better than least squares on y, close to what 2000 rows give."""
    weight, bias = layer()
    many = features()
    wanted = many @ weight.T + bias
    few = np.random.default_rng(1).choice(len(many), 60, replace=False)
    x, y = many[few], wanted[few]
    pooling = bins(((2, 2),))
    best = relative_error(wanted, answer(pooled(weight, bias, moments(many, wanted), pooling), many))
    shrunken = relative_error(wanted, answer(pooled(weight, bias, moments(x, y), pooling), many))
    design, every = (np.concatenate([rows @ pooling.T, np.ones((len(rows), 1))], axis=1) for rows in (x, many))
    plain = relative_error(wanted, every @ np.linalg.lstsq(design, y, rcond=None)[0])
    assert shrunken < 1.2 * best
    assert plain > 1.1 * shrunken


@pytest.mark.parametrize("number", [1, 2, 4])
def test_learned_maps_beat_the_mean_and_the_first_guess(number: int) -> None:
    weight, bias = layer()
    x = features()
    y = x @ weight.T + bias
    data = moments(x, y)
    found = learned_maps(weight, bias, data, C, number)
    assert found.inner.shape == (number, 12)
    assert found.outer.shape == (J, C * number)
    ours = relative_error(y, answer(found, x))
    assert ours == pytest.approx(found.rel_error, rel=0.1)
    blocks = shrunk(data).reshape(C, 12, C, 12)
    flat = Kronecker(np.einsum("csds->cd", blocks) / 12, np.einsum("cscu->su", blocks) / np.einsum("cscs->", blocks))
    first = pooled(weight, bias, data, np.kron(np.eye(C), best_maps(weight, flat, number)))
    assert found.rel_error <= first.rel_error * (1 + 1e-9)
    if number == 1:
        assert ours < relative_error(y, answer(pooled(weight, bias, data, bins(((1, 1),))), x))


def test_shared_maps_are_found_again() -> None:
    random = np.random.default_rng(0)
    planted, outer = random.standard_normal((2, 12)), random.standard_normal((J, C, 2))
    weight, bias = (outer @ planted).reshape(J, -1), random.standard_normal(J)
    x = features()
    found = learned_maps(weight, bias, moments(x, x @ weight.T + bias), C, 2, iterations=50)
    assert found.rel_error < 1e-6
    assert np.allclose(answer(found, x), x @ weight.T + bias, atol=1e-5)


def test_best_maps_for_a_kronecker_covariance() -> None:
    """No small change of the maps is better, and random maps are worse."""
    weight, _ = layer()
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((n, n)) for n in (C, 12))
    covariance = Kronecker(a @ a.T, b @ b.T)
    full = np.kron(covariance.channel, covariance.spatial)

    def lost(chosen: np.ndarray) -> float:
        """E|(W - W' P) x|^2 of the best W'."""
        p = np.kron(np.eye(C), chosen)
        less = weight - weight @ full @ p.T @ np.linalg.inv(p @ full @ p.T) @ p
        return float(np.vdot(less @ full, less))

    maps_ = best_maps(weight, covariance, 3)
    ours = lost(maps_)
    for size in (1e-2, 10.0):
        for _ in range(10):
            other = maps_ + size * random.standard_normal(maps_.shape) * np.abs(maps_).mean()
            assert lost(other) > ours


@pytest.mark.parametrize("count", [60, 200])
def test_one_layer_is_ridge_regression_whose_error_is_honest(count: int) -> None:
    """With fewer rows than columns, or with noise, too: leaving one out says what others will show."""
    random = np.random.default_rng(0)
    slope = random.standard_normal((4, 100)) * (np.arange(100) < 10)
    z, more = (random.standard_normal((n, 100)) for n in (count, 5000))
    y, wanted = (x @ slope.T + random.standard_normal((len(x), 4)) + 3 for x in (z, more))
    weight, bias, error = one_layer(z, y)
    held_out = relative_error(wanted, more @ weight.T + bias)
    assert held_out < 1
    assert error == pytest.approx(held_out, rel=0.2)


def test_one_layer_of_a_linear_map_is_exact() -> None:
    random = np.random.default_rng(0)
    z = random.standard_normal((50, 6)) * [1, 1e3, 1e-3, 1, 1, 0] + [0, 1e4, 0, 5, 0, 2]
    slope = random.standard_normal((3, 6))
    weight, bias, error = one_layer(z, z @ slope.T + 1)
    assert error < 1e-4
    assert np.allclose(z @ weight.T + bias, z @ slope.T + 1, rtol=1e-4)
    still = one_layer(np.ones((5, 2)), np.arange(10.0).reshape(5, 2))
    assert not still[0].any()
    assert np.allclose(still[1], [4, 5])
