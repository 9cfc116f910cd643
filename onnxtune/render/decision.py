"""One decision of a run as one line of text, for those who follow it while it falls."""

from __future__ import annotations

from onnxtune.comparison import Comparison
from onnxtune.report import Kept, Outcome, Rejected, Rewrite

WIDTH = 9


def line(decision: Outcome | str) -> str:
    """ "refused   pad_channels at conv1 (Conv -> Conv): slower: 0.93x [0.91, 0.95]" """
    if isinstance(decision, str):
        return f"{'so far':{WIDTH}} {decision}"
    if isinstance(decision, Kept):
        said = f"{_ratio(decision.comparison)}{decision.reason}"
        return f"{'taken':{WIDTH}} {_rewrite(decision.rewrite)}: {said}"
    if isinstance(decision, Rejected):
        verb = "dropped" if decision.stage == "confirm" else "refused"
        return f"{verb:{WIDTH}} {_rewrite(decision.rewrite)}: {decision.reason}"
    return f"{'declined':{WIDTH}} {decision.rule}{_at(decision.node)}: {decision.reason}"


def _rewrite(rewrite: Rewrite) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in rewrite.settings.items() if isinstance(v, (str, int, float)))
    return f"{rewrite.rule}{_at(rewrite.node)} ({rewrite.title}{f'; {settings}' if settings else ''})"


def _at(node: str) -> str:
    return f" at {node}" if node else ""


def _ratio(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.speedup:.2f}x [{comparison.low:.2f}, {comparison.high:.2f}], "
