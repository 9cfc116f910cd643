"""Levels under a budget: against all subsets of small random problems."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxtune.choose import choose


def best(saved: list[float], harm: list[float], conflicts: list[set[int]], budget: float) -> float:
    worth = 0.0
    for count in range(len(saved) + 1):
        for chosen in itertools.combinations(range(len(saved)), count):
            fits = sum(harm[i] for i in chosen) <= budget and not any(conflicts[i] & set(chosen) for i in chosen)
            worth = max(worth, sum(saved[i] for i in chosen)) if fits else worth
    return worth


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))
def test_near_the_optimum_and_never_over_budget(seed: int, layers: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    count = layers * levels
    saved, harm = rng.random(count).tolist(), rng.random(count).tolist()
    conflicts = [{j for j in range(count) if j != i and j // levels == i // levels} for i in range(count)]
    budget = float(rng.random() * layers)
    chosen = choose(saved, harm, conflicts, budget)
    assert sum(harm[i] for i in chosen) <= budget + 1e-12
    assert not any(conflicts[i] & chosen for i in chosen)
    assert sum(saved[i] for i in chosen) >= 0.75 * best(saved, harm, conflicts, budget)


def test_an_exchange_beats_the_greedy_start() -> None:
    """By ratio the small one comes first and leaves no room for the large one."""
    assert choose([1.0, 10.0], [0.05, 1.0], [set(), set()], 1.0) == {1}


def test_harmless_levels_are_all_taken() -> None:
    assert choose([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [{1}, {0}, set()], 0.0) == {1, 2}


def test_nothing_fits() -> None:
    assert choose([1.0], [0.5], [set()], 0.1) == frozenset()
    assert choose([], [], [], 1.0) == frozenset()
