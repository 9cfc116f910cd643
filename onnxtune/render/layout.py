"""Placing a small directed graph on paper: layers, an order with few crossings, positions. Pure functions.

The method is that of Sugiyama, Tagawa and Toda (Methods for Visual Understanding of Hierarchical System Structures,
1981): nodes go into layers by their longest path from a source, edges over several layers get a bend in each, layers
are ordered by the mean place of what they are joined to, a few times down and up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 6
GAP_X, GAP_Y = 18.0, 30.0
BEND = 10.0
"""Width that a line takes which passes a layer."""


@dataclass(frozen=True)
class Placed:
    """Centre of each node, the course of each edge (from the lower end of one node to the upper end of another),
    and the size of the whole; lengths in the unit of the boxes."""

    centres: Mapping[str, tuple[float, float]]
    courses: Sequence[tuple[tuple[float, float], ...]]
    width: float
    height: float


def place(boxes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]) -> Placed:
    """Place boxes (name -> width, height), sources on top. Every end of an edge is a box; there are no cycles."""
    layer = _layers(list(boxes), edges)
    size = dict(boxes)
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in boxes:
        rows[layer[name]].append(name)
    chains = []
    for number, (start, end) in enumerate(edges):
        bends = [f"\0{number}/{i}" for i in range(layer[start] + 1, layer[end])]
        for i, bend in enumerate(bends, layer[start] + 1):
            rows[i].append(bend)
            size[bend] = (BEND, 0.0)
        chains.append([start, *bends, end])
    joined: dict[str, list[str]] = {name: [] for name in size}
    for chain in chains:
        for one, other in pairwise(chain):
            joined[one].append(other)
            joined[other].append(one)
    _order(rows, joined)
    x = _across(rows, size, joined)
    y, height = _down(rows, size)
    left = min((x[n] - size[n][0] / 2 for n in size), default=0.0)
    centres = {n: (x[n] - left, y[n]) for n in size}
    right = max((centres[n][0] + size[n][0] / 2 for n in size), default=0.0)
    courses = [_course(chain, centres, size) for chain in chains]
    return Placed({n: centres[n] for n in boxes}, courses, right, height)


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from a source; then sources come down to just above the first that reads them."""
    before: dict[str, list[str]] = {n: [] for n in names}
    after: dict[str, list[str]] = {n: [] for n in names}
    for start, end in edges:
        before[end].append(start)
        after[start].append(end)
    layer: dict[str, int] = {}
    waiting = {n: len(before[n]) for n in names}
    ready = [n for n in names if not waiting[n]]
    while ready:
        name = ready.pop()
        layer[name] = max((layer[b] + 1 for b in before[name]), default=0)
        for follower in after[name]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    for name in names:
        if not before[name] and after[name]:
            layer[name] = min(layer[f] for f in after[name]) - 1
    return layer


def _order(rows: list[list[str]], joined: Mapping[str, Sequence[str]]) -> None:
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        order = range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1)
        for i in order:
            fixed = {n: p for p, n in enumerate(rows[i - 1 if downwards else i + 1])}
            here = {n: p for p, n in enumerate(rows[i])}

            def mean(name: str, fixed: Mapping[str, int] = fixed, here: Mapping[str, int] = here) -> float:
                places = [fixed[j] for j in joined[name] if j in fixed]
                return sum(places) / len(places) if places else float(here[name])

            rows[i].sort(key=mean)


def _across(
    rows: Sequence[Sequence[str]], size: Mapping[str, tuple[float, float]], joined: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Each node near the mean of what it is joined to, in the order of its layer, none on top of another."""
    x: dict[str, float] = {}
    for row in rows:
        total = sum(size[n][0] for n in row) + GAP_X * (len(row) - 1)
        at = -total / 2
        for name in row:
            x[name] = at + size[name][0] / 2
            at += size[name][0] + GAP_X
    for sweep in range(2 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [_mean([x[j] for j in joined[n]], x[n]) for n in row]
            from_left, from_right = list(wanted), list(wanted)
            for i in range(1, len(row)):
                from_left[i] = max(wanted[i], from_left[i - 1] + _apart(row[i - 1], row[i], size))
            for i in range(len(row) - 2, -1, -1):
                from_right[i] = min(wanted[i], from_right[i + 1] - _apart(row[i], row[i + 1], size))
            for name, one, other in zip(row, from_left, from_right, strict=True):
                x[name] = (one + other) / 2
    return x


def _apart(one: str, other: str, size: Mapping[str, tuple[float, float]]) -> float:
    return (size[one][0] + size[other][0]) / 2 + GAP_X


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _down(rows: Sequence[Sequence[str]], size: Mapping[str, tuple[float, float]]) -> tuple[dict[str, float], float]:
    y: dict[str, float] = {}
    top = 0.0
    for row in rows:
        height = max((size[n][1] for n in row), default=0.0)
        y.update((name, top + height / 2) for name in row)
        top += height + GAP_Y
    return y, max(top - GAP_Y, 0.0)


def _course(
    chain: Sequence[str], centres: Mapping[str, tuple[float, float]], size: Mapping[str, tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    start, *bends, end = chain
    first = (centres[start][0], centres[start][1] + size[start][1] / 2)
    last = (centres[end][0], centres[end][1] - size[end][1] / 2)
    return (first, *(centres[b] for b in bends), last)
