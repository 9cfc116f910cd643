"""Findings as Markdown, short enough for a pull request or a step summary."""

from __future__ import annotations

from collections.abc import Sequence

from onnxtune.finding import CheckReport
from onnxtune.render.check_text import counted, places, to_do, totals, worth


def markdown(reports: Sequence[CheckReport]) -> str:
    """A heading and a table for each model."""
    return "\n\n".join(_model(r) for r in reports) + "\n"


def _model(report: CheckReport) -> str:
    lines = [f"### {_cell(report.model)}: {counted(report.findings)}", "", totals(report) + "."]
    lines += [f"Note: {note}." for note in report.notes]
    if report.findings:
        lines += ["", "| | check | finding | at | worth | to do |", "|---|---|---|---|---|---|"]
    for f in report.findings:
        at = f"`{places(f.nodes)}`" if f.nodes else ""
        cells = (f.severity, f"{f.code} {f.name}", f.message, at, worth(f.worth), to_do(f))
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
