"""A benchmark as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.bench.caveats import Caveat
from onnxtune.bench.report import BenchmarkReport, Case, Failed, Measured, Row
from onnxtune.bench.statistics import histogram
from onnxtune.comparison import Comparison

BAR = 24
"""Characters of a histogram."""


def text(report: BenchmarkReport) -> str:
    """Every case with a line per model, verdicts, the knees of a sweep, and what speaks against the figures."""
    swept = len(report.cases) > 1
    blocks = ["\n".join(sweep(report))] if swept else ["\n".join(single(report.cases[0]))]
    blocks += ["\n".join(_caveats(report))] if any(c.caveats for c in report.cases) else []
    blocks += ["\n".join(f"note: {n}" for n in report.notes)] if report.notes else []
    return "\n\n".join(blocks)


def single(case: Case) -> Iterator[str]:
    """Median, mean, percentiles, minimum, scatter, throughput and histogram of each model; then the verdicts."""
    measured = case.measured
    low, high = _limits(measured)
    percents = [p for p, _ in measured[0].summary.percentiles if p != 50]
    wide = max(len(r.model) for r in case.rows)
    heads = ["median", "mean", *(f"p{p:g}" for p in percents), "min", "MAD"]
    yield f"{'ms':{wide}}  " + " ".join(f"{h:>9}" for h in heads) + f"  {'items/s':>9}  " + _range(low, high)
    for row in case.rows:
        yield f"{row.model:{wide}}  {_line(row, low, high)}"
    yield from _verdicts(case, wide)
    yield ""
    for row in measured:
        yield f"{row.model:{wide}}  {_start(row)}"


def sweep(report: BenchmarkReport) -> Iterator[str]:
    """One line per case and model: latency, throughput, memory, verdict; then the knees."""
    wide = max(len(m) for m in report.models)
    label = max(len(c.label) for c in report.cases)
    yield f"{'':{label}}  {'':{wide}}  {'median ms':>10} {'p90 ms':>10} {'items/s':>10} {'memory MB':>10}"
    for case in report.cases:
        against = (None, *case.comparisons)
        for i, (row, result) in enumerate(zip(case.rows, against, strict=True)):
            yield f"{'' if i else case.label:{label}}  {row.model:{wide}}  {_short(row, result)}".rstrip()
    for i, model in enumerate(report.models):
        knee = report.knee(i)
        if knee is not None:
            yield f"{model}: batch {knee} is the smallest with at least 95 % of the best throughput"


def verdict(result: Comparison) -> str:
    """ "slower; 0.952x (99% interval 0.941 to 0.963, A/A noise 0.4%)"."""
    return (
        f"{result.verdict}; {result.speedup:.3f}x"
        f" ({result.confidence:.0%} interval {result.low:.3f} to {result.high:.3f}, A/A noise {result.noise:.1%})"
    )


def _verdicts(case: Case, wide: int) -> Iterator[str]:
    for row, result in zip(case.rows[1:], case.comparisons, strict=True):
        if result is not None:
            yield f"{row.model:{wide}}  {verdict(result)} against {case.rows[0].model}"
    if len(case.rows) == 1:
        yield f"{case.rows[0].model:{wide}}  A/A noise {case.measured[0].noise:.1%}: two sessions of it differ by that"


def _line(row: Row, low: float, high: float) -> str:
    if isinstance(row, Failed):
        return row.reason
    s = row.summary
    times = (s.median, s.mean, *(v for p, v in s.percentiles if p != 50), s.minimum, s.mad)
    drawn = histogram(row.kept, low, high, BAR)
    return " ".join(f"{1e3 * t:9.3f}" for t in times) + f"  {row.throughput:9.1f}  {drawn}"


def _start(row: Measured) -> str:
    """How it starts and what it takes."""
    parts = [
        f"{row.summary.count} samples",
        f"session {1e3 * row.session:.3g} ms",
        f"first run {1e3 * row.first:.3g} ms",
        f"model {row.model_bytes / 1e6:.3g} MB",
    ]
    if row.memory is not None and row.memory.needed is not None:
        parts.append(f"memory {row.memory.needed / 1e6:.3g} MB at the peak")
    if row.memory is not None and row.memory.device is not None:
        parts.append(f"on the device {row.memory.device / 1e6:.3g} MB")
    return ", ".join([*parts, *filter(None, [row.rewritten])])


def _short(row: Row, result: Comparison | None) -> str:
    if isinstance(row, Failed):
        return row.reason
    p90 = float(np.percentile(row.kept, 90))
    needed = None
    if row.memory is not None:
        needed = row.memory.device if row.memory.device is not None else row.memory.needed
    memory = "" if needed is None else f"{needed / 1e6:.1f}"
    said = "" if result is None else f"{result.verdict}; {result.speedup:.3f}x [{result.low:.3f}, {result.high:.3f}]"
    return f"{1e3 * row.summary.median:10.3f} {1e3 * p90:10.3f} {row.throughput:10.1f} {memory:>10}  {said}"


def _limits(measured: tuple[Measured, ...]) -> tuple[float, float]:
    """What the histograms span: all but the outermost percents, and no further than twice the slowest median."""
    low, high = np.percentile(np.concatenate([m.kept for m in measured]), [1, 99])
    return float(low), min(float(high), 2 * max(m.summary.median for m in measured))


def _range(low: float, high: float) -> str:
    left, right = f"{1e3 * low:.3g}", f"{1e3 * high:.3g} ms"
    return left + " " * max(1, BAR - len(left) - len(right)) + right


def _caveats(report: BenchmarkReport) -> Iterator[str]:
    """Of a sweep one per kind and model, with the cases it holds for."""
    found: dict[tuple[str, str], list[tuple[str, Caveat]]] = {}
    for case in report.cases:
        for caveat in case.caveats:
            key = (type(caveat).__name__, getattr(caveat, "model", ""))
            found.setdefault(key, []).append((case.label, caveat))
    for entries in found.values():
        label, caveat = entries[0]
        more = f" (and {len(entries) - 1} more cases)" if len(entries) > 1 else ""
        where = f"{label}{more}: " if label else ""
        yield f"warning: {where}{caveat.text}; {caveat.remedy}"
