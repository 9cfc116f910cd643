"""A report on the terminal: headline, what was kept, what was not and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxtune.render import calibration, words
from onnxtune.render.classes import RULE as CLASSES
from onnxtune.render.classes import ClassRow, channel_classes
from onnxtune.render.words import ratio
from onnxtune.report import Kept, Rejected, Report

SHOWN = 12
"""Rows of a table before the rest is only counted (all with -v)."""


def show(report: Report, written: Path | None, *, verbose: int = 0, console: Console | None = None) -> None:
    """Print the report. `written`: where the result went (None: nowhere)."""
    out = console or Console(highlight=False)
    out.print(headline(report))
    _sizes(report, out)
    for note in report.notes:
        out.print(f"[yellow]note:[/] {escape(note)}")
    if report.calibration is not None:
        for line in calibration.lines(report.calibration):
            out.print(line)
        if report.calibration["points"]:
            out.print(calibration.front(report.calibration))
    limit = 10**6 if verbose else SHOWN
    if report.kept:
        out.print(_kept(report.kept, limit))
    if report.rejected:
        out.print(_rejected(report.rejected, limit))
    classes = channel_classes(report)
    if classes:
        out.print(_classes(classes, limit))
    _declined(report, out, limit)
    if report.verification.get("cases"):
        error = report.verification["largest_relative_error"]
        cases = len(report.verification["cases"])
        what = "Exact rewrites verified" if report.calibration else "Verified"
        out.print(
            f"{what}: {cases} kinds of input, ONNX Runtime unoptimised and as deployed;"
            f" largest relative difference {error:.1e}"
        )
    if written is not None:
        out.print(f"Written: [bold]{escape(str(written))}[/]" + ("" if report.kept else " (the original)"))


def headline(report: Report) -> str:
    """The result in one line."""
    name, comparison = escape(report.model), report.comparison
    if report.status == "already tuned":
        return f"[bold]{name}[/]: already tuned under these settings; nothing to do"
    if report.status == "over budget":
        return f"[bold]{name}[/]: [bold red]not written[/], what was asked for costs more than --max-drop allows"
    if comparison is None and report.kept:
        return f"[bold]{name}[/]: {len(report.kept)} rewrites, {report.status}: the whole model was not timed"
    if report.status == "nothing to gain" or comparison is None:
        extra = f" (best attempt {ratio(comparison)})" if comparison else ""
        return f"[bold]{name}[/]: nothing to gain, the original is kept{extra}"
    if report.status == "smaller":
        return f"[bold]{name}[/]: [bold green]weights {_bytes(report, 'weight_bytes')}[/], {ratio(comparison)} in time"
    colour = "green" if comparison.verdict == "faster" else "red"
    threads = report.settings.get("threads", 0)
    where = f"{report.environment['provider'].removesuffix('ExecutionProvider')}, {report.environment['device']}"
    return (
        f"[bold]{name}[/]: [bold {colour}]{ratio(comparison)}[/] {comparison.verdict},"
        f" {words.median(comparison.before)} -> {words.median(comparison.after)} per inference"
        f" ({escape(where)}{f', {threads} threads' if threads > 1 else ', 1 thread' if threads == 1 else ''})"
    )


def _sizes(report: Report, out: Console) -> None:
    if report.kept:
        memory = f", peak memory {_bytes(report, 'peak_bytes')}" if report.before.peak_bytes else ""
        weights = f"weights {_bytes(report, 'weight_bytes')}"
        out.print(f"Nodes {_change(report, 'nodes')}, {weights}, MACs {_change(report, 'macs')}{memory}")


def _change(report: Report, field: str) -> str:
    was, now = getattr(report.before, field), getattr(report.after, field)
    return f"{was:,} -> {now:,}" if was != now else f"{was:,}"


def _bytes(report: Report, field: str) -> str:
    was, now = (f"{getattr(s, field) / 1e6:.2f}" for s in (report.before, report.after))
    return f"{was} -> {now} MB"


def _kept(kept: tuple[Kept, ...], limit: int) -> Table:
    table = _table(f"Kept ({len(kept)})", "rule", "change", "at", "region", "error")
    groups = words.grouped(kept, lambda k: (k.rewrite.rule, k.rewrite.title, k.reason))
    for items in groups[:limit]:
        first = max(items, key=lambda k: k.comparison.saved if k.comparison else 0.0)
        gain = words.gain(first)
        errors = [k.error for k in items if k.error is not None]
        error = f"{max(errors):.0e}" if errors else ""
        table.add_row(first.rewrite.rule, escape(first.rewrite.title), _where(first, items), gain, error)
    _rest(table, len(groups) - limit)
    return table


def _rejected(rejected: tuple[Rejected, ...], limit: int) -> Table:
    """What lost to an overlapping rewrite is only counted unless everything is shown."""
    beaten = [r for r in rejected if r.stage == "select"] if limit == SHOWN else []
    shown = [r for r in rejected if r not in beaten]
    table = _table(f"Tried and not kept ({len(rejected)})", "rule", "change", "at", "why")
    groups = words.grouped(shown, lambda r: (r.rewrite.rule, words.what(r.rewrite), r.stage))
    for items in groups[:limit]:
        first = items[0]
        table.add_row(first.rewrite.rule, escape(words.what(first.rewrite)), _where(first, items), escape(first.reason))
    _rest(table, len(groups) - limit)
    if beaten:
        table.add_row("", f"... and {len(beaten)} beaten by a better rewrite of the same place (-v shows them)")
    return table


def _where(first: Kept | Rejected, items: Sequence[Kept] | Sequence[Rejected]) -> str:
    more = f" (+{len(items) - 1} more)" if len(items) > 1 else ""
    return escape(first.rewrite.node) + more


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", ratio=3 if heading in ("change", "why", "because") else None)
    return table


def _classes(rows: Sequence[ClassRow], limit: int) -> Table:
    table = _table(f"Classes of channels ({len(rows)})", "class", "channels", "extra MACs", "gain", "why")
    for row in rows[:limit]:
        extra = "" if row.extra_macs is None else f"{row.extra_macs:+,}"
        gain = ratio(row.gain) if row.gain else ""
        if row.together:
            gain += f" with {row.together} other{'s' if row.together > 1 else ''}"
        if row.alone:
            gain += f", alone {row.alone.speedup:.2f}x"
        table.add_row(escape(row.tensor), row.channels, extra, gain, escape(row.result))
    _rest(table, len(rows) - limit)
    return table


def _declined(report: Report, out: Console, limit: int) -> None:
    """Declines by rule and reason; names are left out so that equal reasons count together.

    Those that speak of a class of channels have a table of their own.
    """
    listed = [d for d in report.declined if d.rule != CLASSES]
    groups = words.declines(listed)
    if not groups:
        return
    table = _table(f"Declined ({len(listed)})", "rule", "times", "because")
    for group in groups[:limit]:
        table.add_row(group[0].rule, str(len(group)), escape(words.nameless(group[0].reason)))
    _rest(table, len(groups) - limit)
    out.print(table)


def _rest(table: Table, left: int) -> None:
    if left > 0:
        table.add_row("", f"... and {left} more (-v shows all)")
