"""The suite's results as one figure: bars of speed-ups, and what accuracy the calibrated ones cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.suite.table import EXACT, PEERS, setting

Row = Mapping[str, Any]
COLORS = {"onnxsim": "#b8b8b8", "onnxslim": "#8c8c8c", "onnxoptimizer": "#dcdcdc", EXACT: "#1f77b4"}


def svg(results: Row) -> str:
    """Both panels; the same bytes for the same results."""
    rows = sorted((m for m in results["models"] if "contenders" in m), key=lambda m: m["contenders"][EXACT]["speedup"])
    with mpl.rc_context({"svg.hashsalt": "onnxtune", "font.size": 8}):
        drawing = Figure(figsize=(10, 1.5 + 0.32 * max(len(rows), 8)), layout="constrained")
        left, right = drawing.subplots(1, 2, width_ratios=(3, 2))
        _bars(left, rows)
        _scatter(right, rows)
        drawing.suptitle(setting(results), fontsize=9)
        return text(drawing)


def text(drawing: Figure) -> str:
    """A figure as SVG without a date. With a fixed `svg.hashsalt` the same figure gives the same bytes."""
    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    names = [*PEERS, EXACT]
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        here = [(y, m["contenders"][name]) for y, m in enumerate(rows) if name in m["contenders"]]
        place = [y + height * (i - len(names) / 2 + 0.5) for y, _ in here]
        values = np.array([c["speedup"] for _, c in here])
        spread = np.array([[max(c["speedup"] - c["low"], 0), max(c["high"] - c["speedup"], 0)] for _, c in here])
        axes.barh(place, values, height, color=COLORS[name], label=name)
        if len(here):
            axes.errorbar(values, place, xerr=spread.T, fmt="none", ecolor="#333333", elinewidth=0.6)
    axes.axvline(1, color="#333333", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [m["model"] for m in rows])
    axes.set_xlabel("speed-up over the original")
    axes.legend(loc="lower right")


def _scatter(axes: Axes, rows: Sequence[Row]) -> None:
    """Loss of the metric against latency, each model a line from its original to its calibrated forms."""
    for m in rows:
        table = m["contenders"]
        points = [(n, c) for n, c in table.items() if n == "original" or " within " in n]
        if len(points) < 2 or table["original"].get("score") is None:
            continue
        points.sort(key=lambda p: -p[1]["median"])
        first = table["original"]
        factor = 100 if m["metric"] == "top1" else 10
        x = [c["median"] / first["median"] for _, c in points]
        y = [factor * (first["score"] - c["score"]) for _, c in points]
        axes.plot(x, y, "o-", markersize=4, linewidth=0.8, label=m["model"])
    axes.axhline(1, color="#aa3333", linewidth=0.8, linestyle="--")
    axes.set_xlabel("latency, share of the original's")
    axes.set_ylabel("loss: points of accuracy, or tenths of a dB")
    if axes.lines[1:]:
        axes.legend(loc="upper right")
