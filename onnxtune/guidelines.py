"""The fourteen design guidelines for CNNs, and what onnxtune does about each: the table of README and
documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxtune.catalog import catalog
from onnxtune.checks import checkers
from onnxtune.rule import Rule

GUIDELINES: Mapping[int, str] = {
    1: "input height and width a power of two",
    2: "kernels of 1x1, 3x3, 5x5",
    3: "zero padding",
    4: "channel counts a power of two",
    5: "pooling 2x2 with stride 2",
    6: "Global Average Pooling instead of fully connected layers",
    7: "several small kernels instead of a large one",
    8: "kernels of several sizes side by side",
    9: "deformable kernels",
    10: "1x1 bottlenecks",
    11: "skip connections",
    12: "dense connections",
    13: "L0, L1, L2 penalties and dropout against overfitting",
    14: "mini-batches of 32 to 256, powers of two",
}


@dataclass(frozen=True)
class GuidelineRow:
    """One guideline: the exact and the calibrated rules that serve it, codes of the checks that watch it."""

    number: int
    guideline: str
    exact: tuple[str, ...]
    calibrated: tuple[str, ...]
    checks: tuple[str, ...]


def guideline_table(rules: Sequence[Rule] | None = None) -> tuple[GuidelineRow, ...]:
    """All guidelines with the rules (ours, or those given) whose TOML names them, and the checks whose card does."""
    rules = catalog(plugins=False) if rules is None else rules
    rows = []
    for number, text in GUIDELINES.items():
        own = [r for r in rules if number in r.card.guidelines]
        exact = tuple(r.name for r in own if r.card.safety == "exact")
        calibrated = tuple(r.name for r in own if r.levels is not None)
        checks = tuple(c.card.code for c in checkers() if number in c.card.guidelines)
        rows.append(GuidelineRow(number, text, exact, calibrated, checks))
    return tuple(rows)
