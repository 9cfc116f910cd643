"""Choosing among proposals that overlap: the set that saves most time. Pure function of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    chosen: list[int] = []
    for group in _groups(proposals):
        ordered = sorted(group, key=lambda i: (-saved[i], i))
        if len(group) > EXACT_LIMIT:
            chosen += _greedy(ordered, proposals)
            continue
        conflicts = {i: {j for j in group if j != i and overlap(proposals[i], proposals[j])} for i in group}
        chosen += _best(ordered, conflicts, saved)
    return sorted(chosen)


def _groups(proposals: Sequence[Proposal]) -> list[list[int]]:
    """Indices that hang together by the nodes that they remove, in order. Takes as long as there are such nodes."""
    removers: dict[str, list[int]] = {}
    for i, proposal in enumerate(proposals):
        for key in proposal.removes:
            removers.setdefault(key, []).append(i)
    groups = []
    seen: set[int] = set()
    asked: set[str] = set()
    for start in range(len(proposals)):
        if start in seen:
            continue
        seen.add(start)
        group = [start]
        for i in group:  # grows on the way
            for key in proposals[i].removes - asked:
                asked.add(key)
                fresh = [j for j in removers[key] if j not in seen]
                seen.update(fresh)
                group += fresh
        groups.append(sorted(group))
    return groups


def _greedy(ordered: Sequence[int], proposals: Sequence[Proposal]) -> list[int]:
    chosen: list[int] = []
    taken: set[str] = set()
    for i in ordered:
        if taken.isdisjoint(proposals[i].removes):
            chosen.append(i)
            taken |= proposals[i].removes
    return chosen


def _best(ordered: Sequence[int], conflicts: Mapping[int, set[int]], saved: Sequence[float]) -> list[int]:
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
