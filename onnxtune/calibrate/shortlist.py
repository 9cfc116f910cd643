"""Which levels of a layer are worth a closer look: pure choices among fits by time saved and error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxtune.calibrate.level import Fitted, Level
from onnxtune.calibrate.points import Timed

PROBE, FORMS = 0.25, 3
"""Share of a layer's arithmetic at which its forms are compared, and how many of them go on."""
PER_LAYER, ALL = 6, 8
"""Levels of a layer, of each kind, whose harm is measured; of no more than ALL every one."""


def probe(items: Sequence[Timed], family: str) -> Level:
    """The level of a form that stands for it: about PROBE of the layer's arithmetic."""
    levels = (i.level for i in items if i.level.family == family)
    return min(levels, key=lambda level: abs(math.log(max(level.share, 1e-6) / PROBE)))


def by_kind(fits: Sequence[tuple[Timed, Fitted]]) -> list[list[tuple[Timed, Fitted]]]:
    """Apart what errs in ways that cannot be compared."""
    groups: dict[str, list[tuple[Timed, Fitted]]] = {}
    for item in fits:
        groups.setdefault(item[0].level.kind, []).append(item)
    return list(groups.values())


def front(fits: Sequence[tuple[Timed, Fitted]]) -> list[tuple[Timed, Fitted]]:
    """Those that no other beats in time saved and error, the fastest first."""
    found: list[tuple[Timed, Fitted]] = []
    for item in sorted(fits, key=lambda f: (-f[0].gain, f[1].error)):
        if not found or item[1].error < found[-1][1].error:
            found.append(item)
    return found


def evenly(fits: Sequence[tuple[Timed, Fitted]]) -> list[tuple[Timed, Fitted]]:
    """All of a few, of many PER_LAYER over the whole range of times."""
    if len(fits) <= ALL:
        return list(fits)
    keep = np.unique(np.linspace(0, len(fits) - 1, PER_LAYER).round().astype(int))
    return [fits[i] for i in keep]
