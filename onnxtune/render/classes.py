"""What became of each class of channels that pad_channels looked at: from, to, extra arithmetic, gain or why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxtune.comparison import Comparison
from onnxtune.report import Kept, Rejected, Report

RULE = "pad_channels"


@dataclass(frozen=True)
class ClassRow:
    """`gain`: of the rewrite that `result` speaks of; `together`: with how many other classes it was measured;
    `alone`: of padding this class only, where that was measured, too."""

    tensor: str
    channels: str
    extra_macs: int | None
    gain: Comparison | None
    together: int
    alone: Comparison | None
    result: str


def channel_classes(report: Report) -> list[ClassRow]:
    """Kept ones first; of several attempts for a class the one that tells most: kept, else alone, else the smallest."""
    attempts: dict[str, list[tuple[Kept | Rejected, Mapping[str, Any]]]] = {}
    outcomes: list[Kept | Rejected] = [*report.kept, *report.rejected]
    for outcome in outcomes:
        if outcome.rewrite.rule == RULE:
            for described in outcome.rewrite.details.get("classes", ()):
                attempts.setdefault(str(described["tensor"]), []).append((outcome, described))
    rows = [_row(tensor, found) for tensor, found in attempts.items()]
    for decline in report.declined:
        size, separator, reason = decline.reason.partition(": ")
        if decline.rule == RULE and separator and decline.node not in attempts:
            rows.append(ClassRow(decline.node, size.removesuffix(" channels"), None, None, 0, None, reason))
    return sorted(rows, key=lambda row: (row.result not in ("kept", "forced"), row.extra_macs is None))


def _row(tensor: str, attempts: list[tuple[Kept | Rejected, Mapping[str, Any]]]) -> ClassRow:
    def others(outcome: Kept | Rejected) -> int:
        return len(outcome.rewrite.details["classes"]) - 1

    def rank(attempt: tuple[Kept | Rejected, Mapping[str, Any]]) -> tuple[bool, bool, int]:
        outcome = attempt[0]
        return isinstance(outcome, Rejected), outcome.comparison is None, others(outcome)

    best, described = min(attempts, key=rank)
    alone = next((o.comparison for o, d in attempts if not others(o) and d["to"] == described["to"]), None)
    result = best.reason
    if isinstance(best, Kept):
        result = "kept" if best.reason == "faster" else best.reason
    return ClassRow(
        tensor,
        f"{described['from']} -> {described['to']}",
        int(described["extra_macs"]),
        best.comparison,
        others(best),
        alone if alone is not best.comparison else None,
        result,
    )
