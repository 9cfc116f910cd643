"""Two clips, one interval.

    clip(clip(x, a, b), c, d) = clip(x, max(a, c), min(b, d))    where max(a, c) <= min(b, d)

Both sides are x inside of the common part of the intervals, and the nearer end of it outside. Where the intervals have
nothing in common the left side is a constant, which is left to constant folding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxtune.fragment import Builder
from onnxtune.pattern import Match
from onnxtune.rule import No


def rewrite(match: Match, new: Builder, settings: Mapping[str, Any]) -> str | No:
    lower = np.maximum(match.constant("low"), match.constant("lower"))
    upper = np.minimum(match.constant("high"), match.constant("upper"))
    if lower > upper:
        return No("the two intervals have no number in common")
    return new.Clip(match["x"], lower, upper)
