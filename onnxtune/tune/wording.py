"""Comparisons in the words of the report, and what they mean for the loop. Pure functions."""

from __future__ import annotations

from onnxtune.comparison import Comparison
from onnxtune.steps import Step

ENABLING = "lets other rules fire"
LESS_WORK = "less work, not measured"
SMALLER = "smaller"
NOT_NEEDED = "no other rule needs it"
UNDONE = "it leads back to a graph that was there before"


def slower(comparison: Comparison | None) -> bool:
    return comparison is not None and comparison.verdict == "slower"


def sharp(comparison: Comparison) -> bool:
    """Is the interval narrow enough to say that there is no gain worth having?"""
    return comparison.high < 1.02 and comparison.noise < 0.02


def no_gain(comparison: Comparison | None) -> str:
    if comparison is None:
        return "not measured"
    ratio = f"{comparison.speedup:.2f}x [{comparison.low:.2f}, {comparison.high:.2f}]"
    return f"{comparison.verdict}: {ratio}"


def why_kept(step: Step) -> str:
    if step.forced:
        return "forced"
    if step.comparison is None and step.pays:
        return LESS_WORK
    if step.pays:
        return "faster"
    return ENABLING if step.proposal.safety == "exact" else SMALLER
