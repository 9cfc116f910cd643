"""What calibration cost and bought, on the terminal: the estimate with its bound, and the points that were tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from onnxtune.render.words import amount, sureness


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Sentences: the data, the metric and why, the loss with its bound."""
    splits = found["splits"]
    yield (
        f"Calibration: {found['samples']} samples of {escape(found['source'])}"
        f" ({splits['fit']} to fit, {splits['select']} to choose, {splits['gate']} for the gate)"
    )
    plan = found["plans"][0]
    budget = amount(found, found["budget"])
    what = f"{escape(plan['metric'])} of '{escape(plan['output'])}' ({escape(plan['why'])})"
    yield f"Metric: {what}, at most {budget} less"
    if found["sampled"]:
        layers = [f"{escape(s['layer'])} ({s['columns']} columns)" for s in found["sampled"]]
        most = max(s["rows"] for s in found["sampled"])
        yield f"Fitted to a sample of at most {most} rows, too wide for a covariance: {', '.join(layers)}"
    gate = found["gate"]
    if gate is None:
        yield f"{_why_none(found)}: exact rewrites only"
        return
    values = ""
    if gate["before"] is not None:
        values = f" ({amount(found, gate['before'])} -> {amount(found, gate['after'])})"
    style = "bold red" if gate["bound"] > found["budget"] else "bold"
    yield (
        f"[{style}]Loss of {escape(gate['metric'])}: {amount(found, gate['estimate'])}, at most"
        f" {amount(found, gate['bound'])}[/] at {sureness(found, gate)}, on {gate['samples']} samples"
        f" that neither fit nor choice has seen{values}"
    )
    labelled = "" if gate["labelled"] is None else f"; counted by the labels {amount(found, gate['labelled'])}"
    flips = "" if gate["flips"] is None else f"; {gate['flips']:.1%} of the decisions changed"
    yield f"Estimator: {escape(gate['estimator'])}{labelled}{flips}"
    needed = gate["needed_for_half"]
    if needed is not None and needed > gate["samples"]:
        yield f"Half the budget would need about {needed} samples at this loss"


def _why_none(found: Mapping[str, Any]) -> str:
    levels, points = found["levels"], found["points"]
    if not levels["offered"]:
        return "No layer has a form that calibration could fit"
    if not levels["faster"]:
        return f"None of the {levels['offered']} forms that calibration could fit is faster here"
    kept = [p for p in points if p["gate"] is not None and p["gate"]["bound"] <= found["budget"]]
    if kept:
        best = min(kept, key=lambda p: float(p["latency"]))
        before, after = (1e3 * p["latency"] for p in (found["exact"], best))
        loss = _bounded(found, best["gate"])
        return (
            f"What keeps the budget (loss {loss}) is not enough faster, {before:.3g} -> {after:.3g} ms by its regions"
        )
    if points:
        least = min((p["gate"] or p["drop"] for p in points), key=lambda d: float(d["estimate"]))
        return f"Of {len(points)} tried sets none keeps the budget: the most careful loses {_bounded(found, least)}"
    return "No form that is faster here saves enough to be worth any accuracy"


def front(found: Mapping[str, Any]) -> Table:
    """The sets of levels that were tried: latency as the regions promise, loss, size."""
    table = Table(title="Tried sets of calibrated rewrites", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "ms", "loss (select)", "loss (gate)", "MB", "million MACs"):
        table.add_column(heading, justify="right" if heading else "left")
    exact = found["exact"]
    rows = [{**exact, "drop": None, "gate": None, "chosen": found["gate"] is None}, *found["points"]]
    for row in sorted(rows, key=lambda r: float(r["latency"])):
        table.add_row(
            "->" if row["chosen"] else "",
            f"{1e3 * row['latency']:.3g}",
            "exact" if row["drop"] is None else _bounded(found, row["drop"]),
            "" if row["gate"] is None else _bounded(found, row["gate"]),
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['macs'] / 1e6:.1f}",
        )
    return table


def _bounded(found: Mapping[str, Any], drop: Mapping[str, Any]) -> str:
    return f"{amount(found, drop['estimate'])} (at most {amount(found, drop['bound'])})"
