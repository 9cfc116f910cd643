"""Numbers and outcomes of a report in words, the same on terminal, in Markdown and in HTML. No markup in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxtune.comparison import Comparison
from onnxtune.proposal import Decline
from onnxtune.report import Kept, ModelSummary, Report, Rewrite

ENABLING = "lets other rules fire"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Row:
    """One figure of the model before and after; `change` in words, empty where there is none to tell."""

    label: str
    before: str
    after: str
    change: str = ""


@dataclass(frozen=True)
class Headline:
    """`figure`: the one number (or words) that counts; `verdict`: what it means; `detail`: where and how sure."""

    figure: str
    verdict: str
    detail: str
    good: bool


def ratio(comparison: Comparison) -> str:
    """ "1.44x [1.36, 1.51]": speed-up with its interval."""
    return f"{comparison.speedup:.2f}x [{comparison.low:.2f}, {comparison.high:.2f}]"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def arrow(before: float, after: float) -> str:
    """ "0.161 → 0.0644 ms", from seconds."""
    return f"{1e3 * before:.3g} → {milliseconds(after)}"


def medians(comparison: Comparison) -> str:
    return arrow(float(np.median(comparison.before)), float(np.median(comparison.after)))


def median(samples: NDArray[np.float64]) -> str:
    return milliseconds(float(np.median(samples)))


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def millions(count: int) -> str:
    return f"{count / 1e6:,.2f} million" if count >= 10_000 else f"{count:,}"


def where(report: Report) -> str:
    """ "CPU, AMD EPYC, 1 thread": what was measured on."""
    found = report.environment
    words = [str(found[k]) for k in ("provider", "device") if found.get(k)]
    threads = int(report.settings.get("threads") or 0)
    words += [f"{threads} thread{'s' if threads > 1 else ''}"] if threads else []
    return ", ".join(words).replace("ExecutionProvider", "")


def headline(report: Report) -> Headline:
    """The result in a few words, for a reader who reads nothing else."""
    comparison = report.comparison
    if report.status == "already tuned":
        return Headline("already tuned", "this is onnxtune's own result under these settings", "", True)
    if report.status == "over budget":
        return Headline("not written", "what was asked for costs more than the budget allows", where(report), False)
    if report.status == "nothing to gain" or comparison is None:
        best = f"best attempt {ratio(comparison)}; " if comparison is not None else ""
        return Headline("nothing to gain", "the original is kept", best + where(report), True)
    times = f"{medians(comparison)} per inference"
    interval = f"{comparison.confidence:.0%} interval [{comparison.low:.2f}, {comparison.high:.2f}]"
    detail = f"{times}; {interval}; {where(report)}"
    if report.status == "smaller":
        freed = 1 - report.after.weight_bytes / max(report.before.weight_bytes, 1)
        return Headline(f"{freed:.0%} smaller", f"{comparison.speedup:.2f}x in time", detail, True)
    return Headline(f"{comparison.speedup:.2f}x", comparison.verdict, detail, comparison.verdict == "faster")


def sizes(report: Report) -> list[Row]:
    """Bytes, multiply-accumulates, nodes and memory of the model; latency percentiles stand elsewhere."""
    before, after = report.before, report.after
    rows = [
        _row("weights", before.weight_bytes, after.weight_bytes, megabytes),
        _row("multiply-accumulates", before.macs, after.macs, millions),
        _row("nodes", before.nodes, after.nodes, lambda n: f"{n:,}"),
    ]
    if before.peak_bytes:
        rows.append(_row("peak memory", before.peak_bytes, after.peak_bytes, megabytes))
    return rows


def latencies(comparison: Comparison) -> list[Row]:
    """Median, spread and tails, before and after; a tail only where enough samples lie in it."""
    count = min(len(comparison.before), len(comparison.after))
    figures = [("median", 50.0, 1), ("fastest", 0.0, 1), ("25th percentile", 25.0, 12), ("75th percentile", 75.0, 12)]
    figures += [("90th percentile", 90.0, 30), ("99th percentile", 99.0, 300)]
    rows = []
    for label, percent, least in figures:
        if count < least:
            continue
        was, now = (float(np.percentile(s, percent)) for s in (comparison.before, comparison.after))
        change = f"{was / now:.2f}x" if percent <= 50 else ""  # slower ones tell of the machine as well
        change = f"{comparison.speedup:.2f}x" if label == "median" else change  # of the blocks' medians
        rows.append(Row(label, milliseconds(was), milliseconds(now), change))
    return rows


def _row(label: str, was: int, now: int, said: Callable[[int], str]) -> Row:
    change = f"{now / was - 1:+.1%}" if was and now != was else ""
    return Row(label, said(was), said(now), change)


def changed_operators(before: ModelSummary, after: ModelSummary) -> list[tuple[str, int, int]]:
    """(operator, how many before, after), most changed first; those whose number stayed are left out."""
    names = sorted({*before.operators, *after.operators})
    counts = [(name, before.operators.get(name, 0), after.operators.get(name, 0)) for name in names]
    return sorted((c for c in counts if c[1] != c[2]), key=lambda c: -abs(c[2] - c[1]))


def amount(found: Mapping[str, Any], value: float) -> str:
    """A loss in the unit of the calibration's metric, such as "0.42%"."""
    return f"{found['unit']['factor'] * value:.2f}{found['unit']['suffix']}"


def sureness(found: Mapping[str, Any], gate: Mapping[str, Any]) -> str:
    """With which confidence the gate looked at a set, and that it let none pass that is over the budget."""
    each, together = (f"{100 * c:.4g}%" for c in (gate["confidence"], found["confidence"]))
    return f"{each} confidence" + ("" if each == together else f" ({together} that no set over the budget passes)")


def gain(kept: Kept) -> str:
    """What a kept rewrite did to its region, or why it stays."""
    reason = "" if kept.reason == "faster" else kept.reason
    if kept.comparison is None or kept.reason == ENABLING:
        return reason
    return f"{ratio(kept.comparison)} {reason}".rstrip()


def what(rewrite: Rewrite) -> str:
    """Its title with the settings that made it, as far as the title does not say them."""
    plain = {k: str(v) for k, v in rewrite.settings.items() if isinstance(v, (str, int, float))}
    settings = ", ".join(f"{k} {v}" for k, v in plain.items() if len(v) < 4 or v not in rewrite.title)
    return f"{rewrite.title} ({settings})" if settings else rewrite.title


def nameless(reason: str) -> str:
    """The reason without names, so that equal ones count together."""
    return re.sub(r"'[^']*'", "a tensor", reason)


def grouped(items: Iterable[Item], key: Callable[[Item], object]) -> list[list[Item]]:
    """Items with equal keys together, in the order of their first."""
    found: dict[object, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def declines(found: Iterable[Decline]) -> list[list[Decline]]:
    """Declines with equal rule and reason together, the most frequent first."""
    return sorted(grouped(found, lambda d: (d.rule, nameless(d.reason))), key=lambda group: -len(group))


def by_saving(kept: Sequence[Kept]) -> list[Kept]:
    """Those that save most first, those that only enable others last."""

    def rank(item: Kept) -> tuple[bool, float]:
        return item.reason == ENABLING, -(item.comparison.saved if item.comparison else 0.0)

    return sorted(kept, key=rank)
