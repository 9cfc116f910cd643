"""Shrinkage by the formula, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from layers import moments

from onnxtune.calibrate.covariance import intensity, ridge, shrunk, suggested_ridge


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
