"""Checks and what they found, in words: pieces that terminal, Markdown and SARIF share."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from onnxtune.finding import REMEDIES, SEVERITIES, Check, Checker, CheckReport, Finding, Worth
from onnxtune.guidelines import GUIDELINES

NO_GAIN = 1.005
"""Measured speed-up below which nothing is gained."""
SHOWN = 4
"""Nodes that are named before the rest is counted."""


def places(nodes: tuple[str, ...], shown: int = SHOWN) -> str:
    """ "conv1, conv2 (+3 more)" """
    more = len(nodes) - shown
    return ", ".join(nodes[:shown]) + (f" (+{more} more)" if more > 0 else "")


def counted(findings: Iterable[Finding]) -> str:
    """ "1 warning, 2 advice", the gravest first."""
    counts = Counter(f.severity for f in findings)
    plural = {"warning": "warnings", "error": "errors"}
    said = (f"{counts[s]} {plural.get(s, s) if counts[s] > 1 else s}" for s in reversed(SEVERITIES) if counts[s])
    return ", ".join(said) or "nothing found"


def totals(report: CheckReport) -> str:
    macs, weights = report.totals["macs"], report.totals["weight_bytes"]
    latency = f", {1e3 * report.latency:.3g} ms" if report.latency else ""
    return f"{_short(macs)} multiply-accumulates, {weights / 1e6:.3g} MB of weights{latency}"


def worth(value: Worth | None) -> str:
    """What following the advice would be worth, in a few words; "" when that is not known."""
    if value is None or (value.speedup is None and not value.table):
        return ""
    if value.speedup is None:
        rows = (f"{r['height']}x{r['width']}: {1e3 * r['seconds']:.3g} ms" for r in value.table)
        return f"measured: {', '.join(rows)}"
    if value.kind == "estimated":
        return f"about {value.speedup:.2f}x, estimated from {value.by}"
    if value.speedup < NO_GAIN:
        return "measured: not faster here"
    return f"{value.speedup:.2f}x measured ({value.by})"


def to_do(finding: Finding) -> str:
    """How to follow the advice: command or training, what happens, by which rules."""
    rules = f" [{', '.join(finding.rules)}]" if finding.rules and finding.remedy in ("optimize", "calibrate") else ""
    return f"{REMEDIES[finding.remedy]}: {finding.action}{rules}"


def explain(checker: Checker) -> str:
    """Everything about a check, as plain text."""
    card = checker.card
    parts = [f"{card.code} {card.name}", "", checker.explanation, ""]
    parts += [f"Severity: {card.severity}, unless the numbers say otherwise", f"To do: {REMEDIES[card.remedy]}"]
    parts += [_indented(card.action), "", "Fires when:", _indented(card.fires)]
    parts += ["", "Stays quiet for:", _indented(card.quiet)]
    if card.rules:
        parts += ["", f"Rules that do it: {', '.join(card.rules)} (`onnxtune rules explain NAME`)"]
    if card.guidelines:
        parts += ["", f"Guideline: {', '.join(f'{g} ({GUIDELINES[g]})' for g in card.guidelines)}"]
    if card.references:
        parts += ["", "References:", *(f"  - {r}" for r in card.references)]
    return "\n".join(parts)


def listing(checkers: Iterable[Checker]) -> str:
    """One line per check: code, name, severity, summary, guidelines."""
    cards = [c.card for c in checkers]
    width = max((len(c.name) for c in cards), default=0)
    return "\n".join(f"{c.code}  {c.name:{width}}  {c.severity:8}{c.summary}{_serves(c)}" for c in cards)


def _serves(card: Check) -> str:
    numbers = ", ".join(map(str, card.guidelines))
    return f" (guideline{'s' if len(card.guidelines) > 1 else ''} {numbers})" if numbers else ""


def _indented(text: str) -> str:
    return textwrap.fill(text, 96, initial_indent="  ", subsequent_indent="  ")


def _short(count: int) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{name}"
    return str(count)
