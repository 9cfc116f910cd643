"""Pruned consumers: exact where channels are redundant, the least squares optimum, a good choice of channels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from layers import maps, moments, sample, square, weights

from onnxtune.calibrate.prune import cheapest, prune
from onnxtune.calibrate.solve import relative_error
from onnxtune.calibrate.wide_convs import Rows

THREE = square(3)


def test_redundant_channels_cost_nothing() -> None:
    """Channel 2 is a mix of 0 and 1, channel 4 is not read at all: these two go."""
    x = maps(6)
    x[:, 2] = 0.5 * x[:, 0] + x[:, 1]
    weight, bias = weights(8, 6, 3)
    weight[:, 4] = 0
    rows = sample(x, THREE)
    y = rows @ weight.reshape(8, -1).T + bias
    data = moments(rows, y)
    keep = cheapest([weight], [data], 2, ridge=1e-6)
    assert 4 not in keep
    assert len({0, 1, 2} & set(keep)) == 2
    found = prune(weight, data, keep, ridge=1e-9)
    assert found.weight.shape == (8, 4, 3, 3)
    assert found.rel_error < 1e-4
    left = sample(x[:, list(keep)], THREE)
    assert np.allclose(left @ found.weight.reshape(8, -1).T + found.bias, y, atol=1e-3 * np.abs(y).max())


def test_least_squares_optimum_and_error() -> None:
    weight, bias = weights(8, 6, 3)
    x = maps(6)
    rows = sample(x, THREE)
    y = rows @ weight.reshape(8, -1).T + bias
    keep = (0, 2, 5)
    found = prune(weight, moments(rows, y), keep, ridge=0)
    left = sample(x[:, list(keep)], THREE)
    design = np.concatenate([left, np.ones((len(left), 1))], axis=1)
    want = np.linalg.lstsq(design, y, rcond=None)[0].T
    assert np.allclose(found.weight.reshape(8, -1), want[:, :-1])
    assert np.allclose(found.bias, want[:, -1])
    answer = left @ found.weight.reshape(8, -1).T + found.bias
    assert found.rel_error == pytest.approx(relative_error(y, answer))
    dropped = left @ weight[:, list(keep)].reshape(8, -1).T + bias
    assert found.rel_error < 0.8 * relative_error(y, dropped)


def test_the_choice_is_near_the_best_of_all() -> None:
    weight, bias = weights(8, 6, 3)
    rows = sample(maps(6), THREE)
    data = moments(rows, rows @ weight.reshape(8, -1).T + bias)
    for remove in (1, 2, 3):
        errors = {k: prune(weight, data, k).rel_error for k in combinations(range(6), 6 - remove)}
        chosen = errors[cheapest([weight], [data], remove)]
        assert chosen <= min(errors.values()) * (1.001 if remove == 1 else 1.1)


def test_nothing_removed_changes_nothing() -> None:
    weight, bias = weights(8, 6, 3)
    rows = sample(maps(6), THREE)
    data = moments(rows, rows @ weight.reshape(8, -1).T + bias)
    found = prune(weight, data, cheapest([weight], [data], 0))
    assert np.allclose(found.weight, weight)
    assert np.allclose(found.bias, bias)
    assert found.rel_error < 1e-6
    with pytest.raises(ValueError, match="cannot remove 6 of 6"):
        cheapest([weight], [data], 6)


def test_from_a_sample_of_rows_nearly_the_same() -> None:
    """The same channels or ones that are hardly worse, and weights that do as well on rows held out."""
    weight, bias = weights(8, 6, 3)
    every = maps(6)
    x, held = sample(every[:45], THREE), sample(every[45:], THREE, seed=1)
    y, wanted = (r @ weight.reshape(8, -1).T + bias for r in (x, held))
    data, rows = moments(x, y), Rows.of(x, y)
    for remove in (1, 2, 3):
        full, few = (prune(weight, data, cheapest([weight], [s], remove)) for s in (data, rows))
        assert few.rel_error <= 1.1 * full.rel_error
        found = prune(weight, rows, full.keep)
        columns = np.arange(54).reshape(6, 9)[list(full.keep)].ravel()
        answers = [held[:, columns] @ p.weight.reshape(8, -1).T + p.bias for p in (full, found)]
        best, ours = (relative_error(wanted, a) for a in answers)
        assert ours < 1.05 * best
        assert found.rel_error == pytest.approx(ours, rel=0.1)


def test_the_channel_that_nobody_reads_goes_first_from_a_sample() -> None:
    weight, bias = weights(8, 6, 3)
    weight[:, 4] = 0
    x = sample(maps(6), THREE)
    rows = Rows.of(x, x @ weight.reshape(8, -1).T + bias)
    keep = cheapest([weight], [rows], 1)
    assert keep == (0, 1, 2, 3, 5)
    found = prune(weight, rows, keep)
    assert found.rel_error < 1e-3
    assert np.allclose(found.weight, weight[:, keep], atol=1e-2)


def test_a_sample_and_a_covariance_together() -> None:
    """Of one class some readers may be wide and others not."""
    weight, bias = weights(8, 6, 3)
    x = sample(maps(6), THREE)
    y = x @ weight.reshape(8, -1).T + bias
    both = cheapest([weight, weight], [moments(x, y), Rows.of(x, y)], 2)
    errors = {k: prune(weight, moments(x, y), k).rel_error for k in combinations(range(6), 4)}
    assert errors[both] <= 1.1 * min(errors.values())
