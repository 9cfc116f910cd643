"""Settings of the runtime that were tried, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxtune.bench.settings import Tried, Tuning
from onnxtune.comparison import Comparison
from onnxtune.render.console import console_for_output


def show(tuning: Tuning, *, console: Console | None = None) -> None:
    """A section of its own: the model is the same throughout."""
    out = console or console_for_output()
    out.print(f"Runtime settings for [bold]{escape(tuning.model)}[/], against ONNX Runtime's defaults (same model)")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting")
    table.add_column("speed-up", justify="right")
    table.add_column("verdict", overflow="fold")
    for t in tuning.tried:
        table.add_row(escape(t.choice.label), *_cells(t))
    out.print(table)
    for line in conclusion(tuning):
        out.print(line, soft_wrap=True)
    if tuning.code:
        out.print(tuning.code, markup=False, soft_wrap=True)


def _cells(tried: Tried) -> tuple[str, str]:
    if tried.comparison is None:
        return "", escape(tried.problem)
    return f"{tried.comparison.speedup:.3f}x", tried.comparison.verdict


def conclusion(tuning: Tuning) -> list[str]:
    if tuning.best is not None and tuning.confirmed is not None:
        return [
            f"Best: [bold]{escape(tuning.best.label)}[/]: {interval(tuning.confirmed)}, measured anew. To use it:",
            "",
        ]
    if tuning.confirmed is not None:
        return [f"Nothing beats the defaults: the best attempt, measured anew, came to {interval(tuning.confirmed)}"]
    return ["Nothing beats the defaults measurably"]


def interval(result: Comparison) -> str:
    return f"{result.speedup:.3f}x ({result.confidence:.0%} interval {result.low:.3f} to {result.high:.3f})"
