"""Choosing among proposals that overlap: the set that saves most time. Pure function of values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from onnxtune.proposal import Proposal, overlap

EXACT_LIMIT = 18
"""Largest group of mutually connected proposals that is searched completely."""

T = TypeVar("T")


def select(proposals: Sequence[Proposal], saved: Sequence[float]) -> list[int]:
    """Indices of a set of non-overlapping proposals with the largest total of `saved` (seconds).

    Each connected group of overlapping proposals is solved exactly up to EXACT_LIMIT members by
    branch and bound, larger ones greedily by saved time.
    """
    conflicts = [
        {j for j in range(len(proposals)) if j != i and overlap(proposals[i], proposals[j])}
        for i in range(len(proposals))
    ]
    chosen: list[int] = []
    for group in _groups(conflicts):
        ordered = sorted(group, key=lambda i: (-saved[i], i))
        chosen += _best(ordered, conflicts, saved) if len(group) <= EXACT_LIMIT else _greedy(ordered, conflicts)
    return sorted(chosen)


def _groups(conflicts: Sequence[set[int]]) -> list[list[int]]:
    left = set(range(len(conflicts)))
    groups = []
    while left:
        wave = [min(left)]
        group = set(wave)
        while wave:
            wave = [j for i in wave for j in conflicts[i] if j not in group and not group.add(j)]  # type: ignore[func-returns-value]
        left -= group
        groups.append(sorted(group))
    return groups


def _greedy(ordered: Sequence[int], conflicts: Sequence[set[int]]) -> list[int]:
    chosen: list[int] = []
    for i in ordered:
        if conflicts[i].isdisjoint(chosen):
            chosen.append(i)
    return chosen


def _best(ordered: Sequence[int], conflicts: Sequence[set[int]], saved: Sequence[float]) -> list[int]:
    best: list[int] = []
    best_value = float("-inf")

    def search(rest: Sequence[int], taken: list[int], value: float) -> None:
        nonlocal best, best_value
        if value > best_value:
            best, best_value = list(taken), value
        bound = value + sum(max(saved[i], 0.0) for i in rest)
        if not rest or bound <= best_value:
            return
        first, others = rest[0], rest[1:]
        search([i for i in others if i not in conflicts[first]], [*taken, first], value + saved[first])
        search(others, taken, value)

    search(ordered, [], 0.0)
    return best
