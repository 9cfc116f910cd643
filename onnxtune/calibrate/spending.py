"""In what order sets come before the gate, and how sure each look must be, so that all are as sure as the user wants.

Each look at a set that costs too much may let it pass by luck, and more looks are more luck: at 90 % each, three
independent ones would err in 27 % of all searches. So sets are looked at in climbs, whose order is fixed before
(multi-start fixed sequence testing: Angelopoulos et al., Learn then Test, 2021, arXiv 2110.01052):

- A climb starts with one set and goes on, while they pass, to bolder ones; it ends at the first that does not. Every
  look of a climb has the same chance of an error: a set that should not pass must be the first of its kind in order
  to be met, and only there can luck let it pass.
- The chance that the confidence leaves, a, is shared among climbs in a stated order: half of it for the first, half
  of the rest for the second, and so on. The chance that a set passes that should not is at most a/2 + a/4 + ... < a
  (Bonferroni), whatever the sets are and however they depend on each other.

A climb starts with the set that promises most: the gain, times the chance that it passes. That depends on how far the
samples that chose it were lucky, e, in standard deviations, and on its margin, m: it passes if e < m. All sets were
chosen by the same samples, so their e is taken for one and the same: where a set of margin f has failed, e > f, and

    chance = (Phi(m) - Phi(f)) / (1 - Phi(f))
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxtune.calibrate.points import Point

BOLDER, HOPE = 2, 0.2
"""How many bolder sets a climb goes on to at most, and the least chance to pass that these have."""


def confidence_of(climb: int, confidence: float) -> float:
    """One-sided confidence of the looks of a climb (0 is the first), of those that hold at `confidence` together."""
    return 1 - (1 - confidence) * 0.5 ** (climb + 1)


def chance(margin: float, failed: float = -math.inf) -> float:
    """That a set passes, by its margin and the largest of those that have failed."""
    from scipy.special import ndtr

    left = 1 - float(ndtr(failed))
    return max(float(ndtr(margin)) - float(ndtr(failed)), 0.0) / left if left else 0.0


def climb(points: Sequence[Point], margins: Sequence[float], failed: float = -math.inf) -> list[Point]:
    """The sets of a climb among these, in order; [] where none has a chance."""
    chances = [chance(m, failed) for m in margins]
    promise = [p.gain * c for p, c in zip(points, chances, strict=True)]
    first = max(range(len(points)), key=lambda i: promise[i], default=None)
    if first is None or chances[first] < HOPE:
        return []
    bolder = (i for i, p in enumerate(points) if p.gain > points[first].gain and chances[i] >= HOPE)
    return [points[first], *(points[i] for i in sorted(bolder, key=lambda i: points[i].gain)[:BOLDER])]
