"""Shrinkage by the formula; Kronecker covariances found again."""

from __future__ import annotations

import numpy as np
import pytest
from layers import moments

from onnxtune.calibrate.covariance import intensity, kronecker, ridge, shrunk, suggested_ridge


def test_intensity_is_ledoit_and_wolfs_formula() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 12)) * np.geomspace(1, 5, 12) + 3
    z = x - x.mean(0)
    n, d = z.shape
    c = z.T @ z / n
    mean = np.trace(c) / d
    distance = np.square(c - mean * np.eye(d)).sum()
    noise = sum(np.square(np.outer(row, row) - c).sum() for row in z) / n**2  # their b-bar squared, row by row
    data = moments(x, x[:, :0])
    a = min(noise, distance) / distance
    assert 0.05 < a < 0.95
    assert intensity(data) == pytest.approx(a, rel=1e-10)
    assert suggested_ridge(data) == pytest.approx(a / (1 - a))
    assert np.allclose(shrunk(data), (1 - a) * c + a * mean * np.eye(d), rtol=1e-6, atol=1e-6)


def test_intensity_falls_with_more_rows_and_comes_closer_to_the_truth() -> None:
    random = np.random.default_rng(0)
    truth = np.diag(np.geomspace(1, 50, 30))
    intensities = []
    for n in (20, 100, 2000):
        x = random.standard_normal((n, 30)) @ np.sqrt(truth)
        data = moments(x, x[:, :0])
        intensities.append(intensity(data))
        assert np.linalg.norm(shrunk(data) - truth) <= 1.01 * np.linalg.norm(data.xx - truth)
    assert intensities == sorted(intensities, reverse=True)
    assert intensities[-1] < 0.05


def test_data_without_variance() -> None:
    data = moments(np.ones((10, 4)), np.ones((10, 1)))
    assert intensity(data) == 1.0
    assert suggested_ridge(data) == 10.0
    assert np.linalg.cond(shrunk(data)) < 1e9
    assert np.array_equal(ridge(np.zeros((3, 3)), 0.1), np.eye(3))


def test_kronecker_covariance_is_found_again() -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((n, n)) + 2 * np.eye(n) for n in (5, 9))
    channel, spatial = a @ a.T, b @ b.T
    spatial *= 9 / np.trace(spatial)
    x = np.einsum("cd,ndt,st->ncs", a, random.standard_normal((4000, 5, 9)), b) * (9 / np.trace(b @ b.T)) ** 0.5
    found = kronecker((x + 2).reshape(4000, -1), 5)
    assert np.trace(found.spatial) == pytest.approx(9)
    assert np.allclose(found.channel, channel, atol=0.05 * np.abs(channel).max())
    assert np.allclose(found.spatial, spatial, atol=0.05 * np.abs(spatial).max())


def test_kronecker_of_fewer_rows_than_columns() -> None:
    found = kronecker(np.random.default_rng(0).standard_normal((12, 60)), 15)
    assert np.linalg.eigvalsh(found.channel).min() > 0
    assert np.linalg.eigvalsh(found.spatial).min() > 0
