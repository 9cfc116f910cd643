"""Comparisons that say what a test wants, in place of a clock."""

from __future__ import annotations

import numpy as np

from onnxtune.comparison import Comparison


def saving(seconds: float, of: float = 1.0) -> Comparison:
    """A sharp comparison that saves so many seconds of `of`."""
    before = np.full(4, of)
    ratio = of / (of - seconds)
    return Comparison(before, before - seconds, ratio, ratio * 0.9999, ratio * 1.0001, 0.0, 0.99)
