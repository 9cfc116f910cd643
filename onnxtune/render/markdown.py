"""A report as Markdown for a pull request or a job summary: headline first, details folded.

Names and reasons come from models and may hold anything: names stand in code spans, text has its punctuation
escaped, so that neither HTML nor links nor mentions come out of them. The text stays well under the megabyte that a
job summary may hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from onnxtune.profile import by_operator
from onnxtune.render import words
from onnxtune.report import Report

ROWS = 25
"""Rows of a table before the rest is only counted."""
LONGEST = 160
"""Characters of a name or reason."""


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown."""
    head = words.headline(report)
    title = f"{head.figure} {head.verdict}" if head.figure[:1].isdigit() else f"{head.figure}, {head.verdict}"
    parts = [f"### {name(report.model)}: {text(title)}", ""]
    if head.detail:
        parts += [text(head.detail), ""]
    parts += _accuracy(report)
    parts += [*_figures(report), ""]
    parts += [f"> {text(note)}\n" for note in report.notes]
    for summary, table in _folded(report):
        parts += [f"<details><summary>{summary}</summary>", "", *table, "", "</details>", ""]
    return "\n".join(parts).rstrip() + "\n"


def name(value: str) -> str:
    """As a code span, with a fence longer than any row of backticks inside; bars are escaped, for tables."""
    shown = _short(value).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}" if shown else ""


def text(value: str) -> str:
    """With everything escaped that Markdown or HTML would take for its own; `@name` notifies nobody."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", _short(value, 4 * LONGEST))
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        escaped = escaped.replace(character, entity)
    return escaped.replace("@", "@\u200b").replace("://", ":\u200b//")


def _short(value: str, limit: int = LONGEST) -> str:
    line = " ".join(value.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _accuracy(report: Report) -> list[str]:
    found = report.calibration
    if found and found["gate"]:
        gate = found["gate"]
        loss, bound, budget = (words.amount(found, v) for v in (gate["estimate"], gate["bound"], found["budget"]))
        sure = f"{words.sureness(found, gate)}, {gate['samples']} samples; budget {budget}"
        return [f"Loss of {text(gate['metric'])}: **{loss}**, at most **{bound}** ({sure})", ""]
    if report.kept and report.verification.get("cases"):
        error, kinds = report.verification["largest_relative_error"], len(report.verification["cases"])
        return [f"Same function: largest relative difference {error:.0e} on {kinds} kinds of input", ""]
    return []


def _figures(report: Report) -> list[str]:
    rows = []
    if report.comparison is not None and report.kept:
        tails = [r for r in words.latencies(report.comparison) if r.label in ("median", "99th percentile")]
        rows += [words.Row(f"latency, {r.label}", r.before, r.after, r.change) for r in tails]
    rows += words.sizes(report)
    if not report.kept:
        return _table(("", "model"), "lr", ((text(r.label), r.before) for r in rows))
    cells = ((text(r.label), r.before, r.after, r.change) for r in rows)
    return _table(("", "original", "result", "change"), "lrrr", cells)


def _folded(report: Report) -> Iterator[tuple[str, list[str]]]:
    """(summary, lines) of every part that has something to say."""
    if report.kept:
        groups = words.grouped(words.by_saving(report.kept), lambda k: (k.rewrite.rule, k.rewrite.title, k.reason))
        rows = [
            (name(k[0].rewrite.rule), text(words.what(k[0].rewrite)), _place(k, k[0].rewrite.node), words.gain(k[0]))
            for k in groups
        ]
        yield f"{len(report.kept):,} rewrites kept", _table(("rule", "change", "at", "region"), "lllr", rows)
    if report.profile_before is not None:
        yield "Where the time goes, by operator", _profile(report)
    if report.calibration and report.calibration["points"]:
        yield "Sets of calibrated rewrites that were tried", _points(report.calibration)
    if report.rejected:
        tried = words.grouped(report.rejected, lambda r: (r.rewrite.rule, words.what(r.rewrite), r.stage))
        rows = [
            (name(r[0].rewrite.rule), text(words.what(r[0].rewrite)), _place(r, r[0].rewrite.node), text(r[0].reason))
            for r in tried
        ]
        yield f"{len(report.rejected):,} tried and not kept", _table(("rule", "change", "at", "why"), "llll", rows)
    if report.declined:
        said = words.declines(report.declined)
        declined = [(name(d[0].rule), f"{len(d):,}", text(words.nameless(d[0].reason))) for d in said]
        yield f"{len(report.declined):,} declined", _table(("rule", "times", "because"), "lrl", declined)
    yield "How to get this again", _origin(report)


def _profile(report: Report) -> list[str]:
    before, after = report.profile_before, report.profile_after
    assert before is not None, "asked before"
    was = {operator: (count, seconds) for operator, count, seconds in by_operator(before.nodes)}
    now = {operator: (count, seconds) for operator, count, seconds in by_operator(after.nodes)} if after else {}
    order = sorted({*was, *now}, key=lambda o: -max(was.get(o, (0, 0.0))[1], now.get(o, (0, 0.0))[1]))

    def cells(operator: str) -> tuple[str, ...]:
        pairs = [was.get(operator), now.get(operator)] if after else [was.get(operator)]
        shown = (("", "") if p is None else (str(p[0]), words.milliseconds(p[1])) for p in pairs)
        return (name(operator), *(cell for pair in shown for cell in pair))

    headings = ("operator", "kernels", "original", "kernels", "result") if after else ("operator", "kernels", "time")
    return _table(headings, "lrrrr", [cells(o) for o in order])


def _points(found: dict[str, Any] | Any) -> list[str]:
    exact = found["exact"]
    rows = [("exact rewrites only", words.milliseconds(exact["latency"]), "none", "", words.megabytes(exact["bytes"]))]
    for point in found["points"]:
        drops = [
            "" if d is None else f"{words.amount(found, d['estimate'])} (≤ {words.amount(found, d['bound'])})"
            for d in (point["drop"], point["gate"])
        ]
        levels = "; ".join(point["levels"])
        taken = "**taken:** " if point["chosen"] else ""
        latency, size = words.milliseconds(point["latency"]), words.megabytes(point["bytes"])
        rows.append((taken + text(levels), latency, drops[0], drops[1], size))
    return _table(("set", "latency", "loss (select)", "loss (gate)", "weights"), "lrrrr", rows)


def _origin(report: Report) -> list[str]:
    lines = []
    if report.reproduce:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", report.reproduce)), default=0))
        lines += [fence, " ".join(report.reproduce.split("\n"))[:4000], fence, ""]
    rows = [(text(key), name(str(value))) for key, value in report.environment.items()]
    rows += [("seed", name(str(report.settings.get("seed", ""))))] if "seed" in report.settings else []
    rows += [("graph SHA-256", name(report.source_sha256))] if report.source_sha256 else []
    return [*lines, *_table(("", ""), "ll", rows)]


def _place(items: Sequence[object], first: str) -> str:
    more = f" (+{len(items) - 1:,} more)" if len(items) > 1 else ""
    return name(first) + more


def _table(headings: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows beyond ROWS are counted."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    rule = ["---:" if a == "r" else "---" for a in align[: len(headings)]]
    lines = [f"| {' | '.join(headings)} |", f"| {' | '.join(rule)} |", *body[:ROWS]]
    return (
        [*lines, "", f"… and {len(body) - ROWS:,} more; the JSON report holds them all"] if len(body) > ROWS else lines
    )
