"""Findings on the terminal: what is worth a look in full, what is only good to know in a line each."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from onnxtune.finding import REMEDIES, CheckReport, Finding
from onnxtune.render.check_text import counted, places, to_do, totals, worth

COLOURS = {"error": "bold red", "warning": "yellow", "advice": "cyan", "info": "dim"}
INDENT = 10
DETAILS = 3
"""Lines of details that are shown without -v."""
SHORT = 60
"""Characters of details that fit behind a hint."""


def show(report: CheckReport, *, verbose: int = 0, console: Console | None = None) -> None:
    """Print the findings of one model."""
    out = console or Console(highlight=False)
    out.print(f"[bold]{escape(report.model)}[/]: {counted(report.findings)} [dim]({totals(report)})[/]")
    for note in report.notes:
        out.print(f"  [dim]note: {escape(note)}[/]")
    for finding in report.findings:
        _full(finding, out, verbose) if verbose or finding.severity != "info" else _brief(finding, out)


def _full(finding: Finding, out: Console, verbose: int) -> None:
    colour = COLOURS[finding.severity]
    head = f"[{colour}]{finding.severity:7}[/] [bold]{finding.code}[/] {finding.name}: {escape(finding.message)}"
    out.print(Padding(head, (0, 0, 0, 2)))
    lines = [f"[dim]at[/] {escape(places(finding.nodes, 1000 if verbose else 4))}"] if finding.nodes else []
    shown = finding.details if verbose else finding.details[:DETAILS]
    lines += [escape(text) for text in shown]
    if len(finding.details) > len(shown):
        lines.append(f"[dim]... and {len(finding.details) - len(shown)} more (-v shows all)[/]")
    lines.append(f"[dim]do[/] {escape(to_do(finding))}")
    if worth(finding.worth):
        lines.append(f"[dim]worth[/] {escape(worth(finding.worth))}")
    for line in lines:
        out.print(Padding(line, (0, 0, 0, INDENT)))


def _brief(finding: Finding, out: Console) -> None:
    value = f"; {worth(finding.worth)}" if worth(finding.worth) else ""
    joined = ", ".join(finding.details)
    table = f" ({joined})" if 0 < len(joined) <= SHORT else ""
    do = f" [dim]({escape(REMEDIES[finding.remedy])})[/]"
    out.print(
        Padding(
            f"[dim]info[/]    {finding.code} {finding.name}: {escape(finding.message + table + value)}{do}",
            (0, 0, 0, 2),
        )
    )
