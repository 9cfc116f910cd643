"""Looks at the gate: each climb surer than the one before, all together as sure as was asked for."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from onnxtune.accuracy import Drop, normal_quantile
from onnxtune.calibrate.spending import BOLDER, chance, climb, confidence_of


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_chances_of_an_error_add_up_to_no_more_than_was_allowed(confidence: float) -> None:
    chances = [1 - confidence_of(number, confidence) for number in range(12)]
    assert chances[0] == pytest.approx((1 - confidence) / 2)
    assert all(later < earlier for earlier, later in itertools.pairwise(chances))
    assert 0.99 * (1 - confidence) < sum(chances) < 1 - confidence


def test_many_looks_do_not_let_a_costly_set_pass() -> None:
    """Nine sets a hair over the budget, independent of each other: the worst case."""
    values = np.random.default_rng(0).standard_normal((4000, 9))  # estimate less budget, in standard errors

    def passes(confidences: list[float]) -> float:
        return float((values + [normal_quantile(c) for c in confidences] <= 0).any(axis=1).mean())

    assert passes([0.9] * 9) > 0.5
    assert passes([confidence_of(number, 0.9) for number in range(9)]) <= 0.1


@dataclass(frozen=True)
class Tried:
    """What the order of the sets goes by."""

    gain: float
    drop: Drop


def tried(gain: float, estimate: float, samples: int = 400, deviation: float = 0.1) -> Any:
    return Tried(gain, Drop("top1", "made up", estimate, estimate, 0.9, samples, deviation))


def gains(points: list[Any], failed: float = -math.inf) -> list[float]:
    return [p.gain for p in climb(points, [margin(p) for p in points], failed)]


def margin(point: Any) -> float:
    found: float = point.drop.margin(1600, 0.95, 0.01)
    return found


def test_a_climb_starts_where_gain_and_chance_are_best_and_goes_on_to_bolder_sets() -> None:
    careful, good, bold, hopeless = tried(1.0, 0.0), tried(2.0, 0.003), tried(3.0, 0.007), tried(9.0, 0.05)
    assert chance(margin(good)) > 0.6 > 0.5 > chance(margin(bold))
    assert gains([hopeless, bold, good, careful]) == [2.0, 3.0]
    assert gains([hopeless, bold]) == [3.0]
    assert gains([hopeless]) == []
    assert gains([]) == []
    many = [tried(1 + 1e-3 * i, 0.0) for i in range(9)]
    assert len(gains([*many, tried(2.0, 0.009)])) <= 1 + BOLDER


def test_where_a_set_has_failed_those_with_no_more_margin_have_no_chance() -> None:
    careful, good, alike = tried(1.0, 0.0), tried(2.0, 0.003), tried(2.1, 0.0031)
    assert gains([careful, good, alike])[0] > 1.0
    assert gains([careful, alike], margin(good)) == [1.0]
    assert gains([alike], margin(good)) == []
    assert gains([alike], margin(alike)) == []
    assert chance(1.0, 0.9) < chance(1.0, 0.0) < chance(1.0)
    assert chance(1.0, math.inf) == chance(-1.0, 0.0) == 0
    assert chance(math.inf, 3.0) == 1


def test_a_climb_errs_no_more_than_its_first_look() -> None:
    """Sets more and more over the budget, with one and the same error of the estimate or each with its own."""
    rng = np.random.default_rng(0)
    for shared in (True, False):
        errors = np.repeat(rng.standard_normal((4000, 1)), 3, 1) if shared else rng.standard_normal((4000, 3))
        passes = errors + np.array([0.0, 0.5, 1.0]) + normal_quantile(0.95) <= 0  # all are over the budget
        assert passes[:, 0].mean() <= 0.05 + 0.012  # what comes after a look that failed is not looked at
        within = errors + np.array([-3.0, 0.0, 0.5]) + normal_quantile(0.95) <= 0  # the first one is within it
        assert (within[:, 0] & within[:, 1]).mean() <= 0.05 + 0.012


def test_the_chance_to_pass_is_what_a_simulation_finds() -> None:
    """400 samples choose, 1,600 others decide: each difference 0.5 with a chance that is not known."""
    rng = np.random.default_rng(1)
    passed, told = [], []
    for _ in range(3000):
        share = rng.uniform(0.0, 0.03)
        seen, judged = rng.binomial(400, share) / 400, rng.binomial(1600, share) / 1600
        first, second = (
            Drop("function", "made up", m / 2, 0.0, 0.9, n, float(np.sqrt(max(m * (1 - m), 1e-4)) / 2))
            for m, n in ((seen, 400), (judged, 1600))
        )
        told.append(chance(first.margin(1600, 0.95, 0.01)))
        passed.append(second.foreseen(1600, 0.95) <= 0.01)
    told_, passed_ = np.array(told), np.array(passed)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        band = (told_ >= low) & (told_ <= high)
        assert abs(passed_[band].mean() - told_[band].mean()) < 0.12
