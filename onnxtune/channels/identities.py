"""Which traced channels are one, which ones share their fate, and how their pads are shared out.

    equal    two traced channels are one: in every tensor they are followed by equally many pads
    tied     they stay or go together, and p_second = factor p_first for the pads behind them

Channels that are equal or tied get one identity. The weight of a traced channel says how many pads come
behind it for each pad channel of its identity: the least whole numbers that satisfy all ties.

    DepthToSpace, b * b channels q, k for each new one q:    p_(q, k) = 0 for all k but the last, p_(q, last) = b b p_q

Ties that contradict each other leave 0: no pads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxtune.channels.axis import Integers

Edge = tuple[Integers, Integers]
Tie = tuple[Integers, Integers, int]
"""(first, second, factor)"""


def identities(count: int, equal: Sequence[Edge], tied: Sequence[Tie]) -> tuple[Integers, int, Integers | None]:
    """(identity of each traced channel; number of identities; weight of each traced channel, None: all 1)."""
    if not tied:
        return *components(count, equal), None
    known, number = components(count, equal)
    ties = [(known[a], known[b], factor) for a, b, factor in tied]
    identity, total = components(number, [(a, b) for a, b, _ in ties])
    return identity[known], total, _weights(number, ties)[known]


def components(count: int, edges: Sequence[Edge]) -> tuple[Integers, int]:
    """(label of the connected component of each of `count` things; number of components)."""
    if not edges or not count:
        return np.arange(count), count
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = np.concatenate([a for a, _ in edges])
    second = np.concatenate([b for _, b in edges])
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    number, label = connected_components(graph, directed=False)
    return np.asarray(label, np.int64), int(number)


def _weights(count: int, ties: Sequence[Tie]) -> Integers:
    around: dict[int, list[tuple[int, Fraction]]] = {}
    weights = np.ones(count, np.int64)
    zero = np.zeros(count, bool)
    for first, second, factor in ties:
        if not factor:
            zero[second] = True
            continue
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            around.setdefault(a, []).append((b, Fraction(factor)))
            around.setdefault(b, []).append((a, Fraction(1, factor)))
    weights[zero] = 0
    done: set[int] = set()
    for start in around:
        if start in done:
            continue
        found, wanted, fits = {start: Fraction(1)}, [start], True
        while wanted:
            here = wanted.pop()
            for other, share in around[here]:
                weight = found[here] * share
                if other not in found:
                    found[other] = weight
                    wanted.append(other)
                fits = fits and found[other] == weight
        done.update(found)
        places = list(found)
        fits = fits and not zero[places].any()
        scale = math.lcm(*(w.denominator for w in found.values()))
        whole = [int(w * scale) for w in found.values()]
        least = math.gcd(*whole)
        weights[places] = [w // least for w in whole] if fits else 0
    return weights
