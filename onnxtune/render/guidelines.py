"""The table of guidelines as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from onnxtune.guidelines import GuidelineRow


def guideline_markdown(rows: Iterable[GuidelineRow]) -> str:
    """| # | guideline | exact | calibrated | checks |"""
    lines = ["| # | guideline | exact rewrites | calibrated rewrites | `check` |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row.exact, row.calibrated, row.checks)
        shown = " | ".join(", ".join(f"`{c}`" for c in cell) or "-" for cell in cells)
        lines.append(f"| {row.number} | {row.guideline} | {shown} |")
    return "\n".join(lines)
