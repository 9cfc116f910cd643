"""Looks at the gate: each surer than the one before, all together as sure as was asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxtune.accuracy import normal_quantile
from onnxtune.calibrate.spending import confidence_of


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_chances_of_an_error_add_up_to_no_more_than_was_allowed(confidence: float) -> None:
    chances = [1 - confidence_of(look, confidence) for look in range(12)]
    assert chances[0] == pytest.approx((1 - confidence) / 2)
    assert all(later < earlier for earlier, later in itertools.pairwise(chances))
    assert 0.99 * (1 - confidence) < sum(chances) < 1 - confidence


def test_many_looks_do_not_let_a_costly_set_pass() -> None:
    """Nine sets a hair over the budget, independent of each other: the worst case."""
    values = np.random.default_rng(0).standard_normal((4000, 9))  # estimate less budget, in standard errors

    def passes(confidences: list[float]) -> float:
        return float((values + [normal_quantile(c) for c in confidences] <= 0).any(axis=1).mean())

    assert passes([0.9] * 9) > 0.5
    assert passes([confidence_of(look, 0.9) for look in range(9)]) <= 0.1
