"""Choosing levels under a budget of harm: most time saved. Pure function of values."""

from __future__ import annotations

from collections.abc import Sequence

LEAST_HARM = 1e-9


def choose(
    saved: Sequence[float], harm: Sequence[float], conflicts: Sequence[set[int]], budget: float
) -> frozenset[int]:
    """Indices of compatible levels that save most, with a total harm of at most `budget`.

    `saved` in seconds, `harm` in the metric's unit (at least 0), `conflicts[i]`: levels that cannot stand beside
    level i (others of the same layer, overlapping regions). Greedy by time saved for each unit of harm, where taking
    a level may push out those it conflicts with; then refined by single exchanges while that saves more.
    """
    chosen: frozenset[int] = frozenset()
    while (best := _best_move(chosen, saved, harm, conflicts, budget, by_ratio=True)) is not None:
        chosen = best
    while (best := _best_move(chosen, saved, harm, conflicts, budget, by_ratio=False)) is not None:
        chosen = best
    return chosen


def _best_move(
    chosen: frozenset[int],
    saved: Sequence[float],
    harm: Sequence[float],
    conflicts: Sequence[set[int]],
    budget: float,
    *,
    by_ratio: bool,
) -> frozenset[int] | None:
    """The best set that differs by one added level (and what it pushes out, or one more); None when none is better."""
    best, best_value = None, 0.0
    spent = sum(harm[i] for i in chosen)
    for i in range(len(saved)):
        if i in chosen:
            continue
        out = conflicts[i] & chosen
        drops = [out] if by_ratio else [out, *(out | {j} for j in chosen - out)]
        for dropped in drops:
            more = saved[i] - sum(saved[j] for j in dropped)
            cost = harm[i] - sum(harm[j] for j in dropped)
            if more <= 0 or spent + cost > budget:
                continue
            value = more / max(cost, LEAST_HARM) if by_ratio else more
            if value > best_value * (1 + 1e-12):
                best, best_value = (chosen - dropped) | {i}, value
    return best
