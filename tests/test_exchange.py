"""The interval by relabelling: against numbers worked out by hand, and on noise of which the truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxtune.exchange import NAMINGS, OVERLAP, session_interval, shift_interval, split_noise

Array = NDArray[np.float64]


def ones(values: Array) -> Array:
    return np.ones(len(values))


def test_the_namings_are_all_there_are() -> None:
    found = {tuple(np.sign(row)) for row in NAMINGS}
    assert found == {signs for signs in itertools.product((-1, 1), repeat=4) if sum(signs) == 0}
    assert OVERLAP.tolist() == [row @ NAMINGS[0] for row in NAMINGS]


def test_the_estimate_is_the_weighted_difference() -> None:
    values = np.array([[1.0, 3.0, 5.0, 5.0], [0.0, 0.0, 1.0, 1.0]])
    estimate, low, high = shift_interval(values, np.array([3.0, 1.0]), 0.5, 0)
    assert estimate == pytest.approx((3 * 3 + 1) / 4)
    assert low <= estimate <= high


def by_hand(values: Array, error: float, shifts: Array) -> list[float]:
    """Shifts that no one-sided test at error / 2 refutes, by trying every naming for every shift."""
    kept = []
    for shift in shifts:
        moved = values - shift * np.array([0, 0, 1, 1])
        sums = [sum(c) for c in itertools.product(*(moved @ NAMINGS.T))]
        seen = sum(moved @ NAMINGS[0])
        above, below = (np.mean([sign * s >= sign * seen - 1e-12 for s in sums]) for sign in (1, -1))
        if min(above, below) > error / 2:
            kept.append(float(shift))
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_what_trying_every_shift_gives(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0, 1, (4, 4)) + np.array([0, 0, 0.5, 0.5])
    _, low, high = shift_interval(values, ones(values), 0.05, 0)
    grid = np.linspace(low - 0.3, high + 0.3, 61)
    kept = by_hand(values, 0.05, grid)
    step = grid[1] - grid[0]
    assert abs(min(kept) - low) <= step
    assert abs(max(kept) - high) <= step


def test_drawn_namings_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(0, 1, (6, 4))
    exact = shift_interval(values, ones(values), 0.05, 0)
    monkeypatch.setattr("onnxtune.exchange.ENUMERATED", 0)
    assert shift_interval(values, ones(values), 0.05, 0) == pytest.approx(exact, abs=0.05)


def test_too_few_blocks_refute_nothing() -> None:
    values = np.tile([0.0, 0.001, 5.0, 5.001], (2, 1))
    _, low, high = shift_interval(values, ones(values), 0.01, 0)
    assert (low, high) == (-math.inf, math.inf)
    _, low, high = shift_interval(np.tile(values, (2, 1)), np.ones(4), 0.01, 0)
    assert 4.9 < low < high < 5.1, "four blocks do"


def test_a_block_that_counts_for_little_moves_little() -> None:
    values = np.array([[0.0, 0, 1, 1]] * 5 + [[0.0, 90, 0, -90]])
    weights = np.array([1.0] * 5 + [1e-6])
    estimate, low, high = shift_interval(values, weights, 0.01, 0)
    assert (estimate, low, high) == pytest.approx((1, 1, 1), abs=0.01)


def test_few_sessions_by_students_t() -> None:
    """One set: estimate 1, twins differ by 0.1 and 0.1, so a session scatters by 0.1 / sqrt 2; t(0.975; 2) = 4.303."""
    estimate, low, high = session_interval(np.array([[0.0, 0.1, 1.0, 1.1]]), 0.05)
    assert estimate == pytest.approx(1.0)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.1 / math.sqrt(2), rel=1e-3)


def test_noise_is_what_equal_sessions_differ_by() -> None:
    assert split_noise(np.tile([1.0, 1.0, 2.0, 2.0], (4, 1)), np.ones(4), 0) == 0
    assert split_noise(np.array([[0.0, 0.3]]), np.ones(1), 0) == pytest.approx(0.3)
    many = np.random.default_rng(0).normal(0, 0.01, (16, 6))
    expected = 1.645 * 0.01 * math.sqrt(2 / 16)  # 90 % of |N(0, s)| lie within 1.645 s
    assert split_noise(many, np.ones(16), 0) == pytest.approx(expected, rel=0.4)


# --- simulated noise -------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, n: int) -> Array:
    return rng.normal(0, 0.03, n)


def heavy_tails(rng: np.random.Generator, n: int) -> Array:
    return 0.03 * np.abs(rng.standard_t(1.5, n))


def drift(rng: np.random.Generator, n: int) -> Array:
    return rng.normal(0, 0.03, n) + np.cumsum(rng.normal(0, 0.01, n))


def two_clocks(rng: np.random.Generator, n: int) -> Array:
    """Now and then the clock changes between two speeds a third apart."""
    return 0.35 * (np.cumsum(rng.random(n) < 0.02) % 2) + rng.normal(0, 0.01, n)


def sticky(rng: np.random.Generator, n: int) -> Array:
    """Autocorrelated: what is slow stays slow for some fifty runs."""
    steps, value, found = rng.normal(0, 0.01, n), 0.0, np.empty(n)
    for i, step in enumerate(steps):
        value = 0.98 * value + step
        found[i] = value
    return found + rng.normal(0, 0.01, n)


NOISES = (normal, heavy_tails, drift, two_clocks, sticky)
LUCK = (lambda rng, shape: 0.0, lambda rng, shape: 0.03 * rng.integers(0, 2, shape))
"""Of a session's memory layout: none, or one of two speeds 3 % apart for as long as it lives."""


def simulated(noise: object, luck: object, seed: int, blocks: int, rounds: int, shift: float) -> Array:
    """Logarithms of times (blocks, rounds, 4): the noise in the order of running, random within each round."""
    rng = np.random.default_rng(seed)
    shape = (blocks, rounds, 4)
    times = noise(rng, blocks * rounds * 4).reshape(shape)  # type: ignore[operator]
    times = np.take_along_axis(times, np.argsort(rng.random(shape), axis=2), axis=2)
    return times + luck(rng, (blocks, 1, 4)) + np.array([0, 0, shift, shift])  # type: ignore[operator]


@pytest.mark.parametrize("luck", LUCK, ids=["no luck", "luck"])
@pytest.mark.parametrize("noise", NOISES, ids=lambda f: f.__name__)
def test_the_interval_holds_the_truth_as_often_as_it_says(noise: object, luck: object) -> None:
    """At 10 % error, of 200 intervals at most 31 miss (the chance of more is 0.4 %), on whatever noise."""
    missed = 0
    for seed in range(200):
        places = np.median(simulated(noise, luck, seed, 5, 8, 0.02), axis=1)
        _, low, high = shift_interval(places, ones(places), 0.1, seed)
        missed += not low <= 0.02 <= high
    assert missed <= 31
