"""How sure each look at the gate must be, so that all of them together are as sure as the user wants.

Sets come before the same samples one after the other, until one passes. Each look at a set that costs too much may
let it pass by luck, and more looks are more luck: at 90 % each, three independent ones would err in 27 % of all
searches. So the chance of an error that the confidence leaves, a, is spent in a stated order: half of it on the
first look, half of the rest on the second, and so on. Whatever the sets are and however they depend on each other,
the chance that one of them passes wrongly is at most a/2 + a/4 + ... < a (Bonferroni), and the bound of the set that
passes holds as well, since so do all that were looked at.
"""

from __future__ import annotations


def confidence_of(look: int, confidence: float) -> float:
    """One-sided confidence of a look (0 is the first), of those that hold at `confidence` all together."""
    return 1 - (1 - confidence) * 0.5 ** (look + 1)
