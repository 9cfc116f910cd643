"""A benchmark as files: CSV, Markdown, and the input of github-action-benchmark."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from onnxtune.bench.report import BenchmarkReport, Case, Failed, Measured, Row
from onnxtune.comparison import Comparison

COLUMNS = (
    "case", "batch", "model", "items", "samples", "median_s", "mean_s", "min_s", "mad_s", "items_per_s", "noise",
    "session_s", "first_run_s", "model_bytes", "peak_bytes", "device_bytes", "speedup", "speedup_low", "speedup_high",
    "verdict", "failure",
)  # fmt: skip


def as_csv(report: BenchmarkReport) -> str:
    """A row per case and model; times in seconds, sizes in bytes. Percentiles stand last, as p50_s and so on."""
    percents = _percents(report)
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, *(f"p{p:g}_s" for p in percents)], lineterminator="\n")
    writer.writeheader()
    for case in report.cases:
        for row, result in zip(case.rows, (None, *case.comparisons), strict=True):
            writer.writerow({"case": case.label, "batch": case.batch, "model": row.model, **_cells(row, result)})
    return out.getvalue()


def _cells(row: Row, result: Comparison | None) -> dict[str, Any]:
    if isinstance(row, Failed):
        return {"failure": row.reason}
    s, memory = row.summary, row.memory
    judged = {} if result is None else {
        "speedup": result.speedup, "speedup_low": result.low, "speedup_high": result.high, "verdict": result.verdict
    }  # fmt: skip
    return {
        "items": row.items,
        "samples": s.count,
        "median_s": s.median,
        "mean_s": s.mean,
        "min_s": s.minimum,
        "mad_s": s.mad,
        "items_per_s": row.throughput,
        "noise": row.noise,
        "session_s": row.session,
        "first_run_s": row.first,
        "model_bytes": row.model_bytes,
        "peak_bytes": None if memory is None else memory.needed,
        "device_bytes": None if memory is None else memory.device,
        **judged,
        **{f"p{p:g}_s": value for p, value in s.percentiles},
    }


def as_markdown(report: BenchmarkReport) -> str:
    """A table with a row per case and model, verdicts, knees and warnings; fit for a job summary."""
    swept = len(report.cases) > 1
    percents = [p for p in _percents(report) if p != 50]
    several = len(report.models) > 1
    heads = [
        *(["case"] if swept else []), "model", "median ms", *(f"p{p:g} ms" for p in percents), "min ms", "items/s",
        "memory MB", *(["speed-up", "verdict"] if several else []),
    ]  # fmt: skip
    lines = [f"**{report.settings['provider'].removesuffix('ExecutionProvider')}**, {_device(report)}", ""]
    lines += [_table_row(heads), _table_row(["---"] * len(heads))]
    for case in report.cases:
        for row, result in zip(case.rows, (None, *case.comparisons), strict=True):
            cells = [*([case.label] if swept else []), f"`{row.model}`", *_markdown_cells(row, percents)]
            if several:
                cells += ["", ""] if result is None else [_ratio(result), result.verdict]
            lines.append(_table_row(cells))
    knees = [(m, report.knee(i)) for i, m in enumerate(report.models)]
    lines += [f"\n`{m}`: batch {k} is the smallest with at least 95 % of the best throughput." for m, k in knees if k]
    said = [f"- {_where(c)}{caveat.text}; {caveat.remedy}" for c in report.cases for caveat in c.caveats]
    lines += ["", *said] if said else []
    return "\n".join(lines) + "\n"


def as_benchmark_action(report: BenchmarkReport) -> str:
    """Medians in milliseconds for github-action-benchmark's customSmallerIsBetter, with their scatter."""
    entries = [
        {
            "name": " ".join(filter(None, (row.model, case.label))),
            "unit": "ms",
            "value": 1e3 * row.summary.median,
            "range": f"± {1e3 * row.summary.mad:.3g}",
            "extra": f"{row.throughput:.1f} items/s, A/A noise {row.noise:.1%}, {report.settings['provider']}",
        }
        for case in report.cases
        for row in case.measured
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False)


def _percents(report: BenchmarkReport) -> tuple[float, ...]:
    return next(row.percentiles for case in report.cases for row in case.measured)


def _markdown_cells(row: Row, percents: list[float]) -> list[str]:
    if isinstance(row, Failed):
        return [row.reason, *[""] * (len(percents) + 3)]
    values = dict(row.summary.percentiles)
    times = (row.summary.median, *(values[p] for p in percents), row.summary.minimum)
    return [*(f"{1e3 * t:.3f}" for t in times), f"{row.throughput:.1f}", _memory(row)]


def _memory(row: Measured) -> str:
    if row.memory is None:
        return ""
    needed = row.memory.device if row.memory.device is not None else row.memory.needed
    return "" if needed is None else f"{needed / 1e6:.1f}"


def _ratio(result: Comparison) -> str:
    return f"{result.speedup:.3f}x [{result.low:.3f}, {result.high:.3f}]"


def _table_row(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _device(report: BenchmarkReport) -> str:
    return str(report.machine.get("device", "unknown device"))


def _where(case: Case) -> str:
    return f"{case.label}: " if case.label else ""
