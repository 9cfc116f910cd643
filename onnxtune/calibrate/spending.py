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

A climb starts with the set that promises most: the gain, times the chance that it passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxtune.calibrate.points import Point

BOLDER, HOPE = 2, 0.2
"""How many bolder sets a climb goes on to at most, and the least chance to pass that these have."""


def confidence_of(climb: int, confidence: float) -> float:
    """One-sided confidence of the looks of a climb (0 is the first), of those that hold at `confidence` together."""
    return 1 - (1 - confidence) * 0.5 ** (climb + 1)


def climb(points: Sequence[Point], samples: int, sure: float, budget: float) -> list[Point]:
    """The sets of a climb among these, in order; [] where none has a chance. `samples`, `sure`: the gate's."""
    chance = {id(p): p.drop.chance(samples, sure, budget) for p in points}
    start = max(points, key=lambda p: p.gain * chance[id(p)], default=None)
    if start is None or chance[id(start)] < HOPE:
        return []
    bolder = sorted((p for p in points if p.gain > start.gain and chance[id(p)] >= HOPE), key=lambda p: p.gain)
    return [start, *bolder[:BOLDER]]
