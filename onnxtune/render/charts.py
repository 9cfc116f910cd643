"""Charts of a report as SVG: latency distributions, and the front of latency and loss.

As in drawings, colours come from the style sheet by class and all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.comparison import Comparison

WIDTH = 400.0
BINS = 40
LEFT, RIGHT = 12.0, 12.0
FENCE, LEAST = 6.0, 0.25
"""How far above the median samples are drawn: so many times what the fast tenth lies below it, at least that share of
it. What lies beyond is counted: on a busy machine that is other work, not the model."""


def distributions(comparison: Comparison) -> str:
    """Histograms of both models' samples over one axis of milliseconds, with their medians."""
    before, after = 1e3 * comparison.before, 1e3 * comparison.after
    high = max(_fence(s) for s in (before, after))
    low = min(float(s.min()) for s in (before, after))
    margin = 0.04 * (high - low) or 0.05 * high or 1e-6
    axis = _Axis(low - margin, high + margin, LEFT, WIDTH - RIGHT)
    edges = np.linspace(axis.low, axis.high, BINS + 1)
    parts = []
    for kind, label, samples, base in (("before", "original", before, 74.0), ("after", "result", after, 158.0)):
        parts += _histogram(kind, label, samples, edges, axis, base)
    beyond = sum(int((s > axis.high).sum()) for s in (before, after))
    more = f" ({beyond} slower sample{'s' if beyond > 1 else ''} beyond)" if beyond else ""
    parts += axis.drawn(170.0, f"milliseconds per inference{more}")
    return _svg(parts, 206.0, "Distribution of latency samples of the original and of the result")


def _fence(samples: NDArray[np.float64]) -> float:
    """The largest sample that other work on the machine has not held up, as far as the faster half can tell."""
    fast, middle = np.percentile(samples, [10, 50])
    return float(samples[samples <= middle + max(FENCE * (middle - fast), LEAST * middle)].max())


def _histogram(
    kind: str, label: str, samples: NDArray[np.float64], edges: NDArray[np.float64], axis: _Axis, base: float
) -> list[str]:
    counts, _ = np.histogram(samples, bins=edges)
    step = (axis.right - axis.left) / len(counts)
    tallest = max(int(counts.max()), 1)
    parts = [f'<line class="axis" x1="{axis.left}" x2="{axis.right}" y1="{base}" y2="{base}"/>']
    for i, count in enumerate(counts):
        if count:
            height = 52.0 * count / tallest
            x = axis.left + i * step
            shape = f'x="{x:.1f}" y="{base - height:.1f}" width="{max(step - 1, 1):.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="{kind}" {shape}/>')
    middle = float(np.median(samples))
    x = axis.at(middle)
    parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{base - 56}" y2="{base}"/>')
    anchor, dx = ("start", 5) if x < WIDTH * 0.6 else ("end", -5)
    words = f"{label}: median {middle:.3g} ms"
    parts.append(f'<text class="b" x="{x + dx:.1f}" y="{base - 58}" text-anchor="{anchor}">{words}</text>')
    return parts


def front(found: Mapping[str, Any]) -> str:
    """Latency against loss of every set of calibrated rewrites that was tried, with bounds and the budget.

    The loss is that of the gate where the set came before it, else that of the select split.
    """
    factor, suffix = float(found["unit"]["factor"]), str(found["unit"]["suffix"])
    points = [(1e3 * p["latency"], p["gate"] or p["drop"], bool(p["chosen"])) for p in found["points"]]
    exact = 1e3 * float(found["exact"]["latency"])
    budget = factor * float(found["budget"])
    losses = [factor * float(drop[k]) for _, drop, _ in points for k in ("estimate", "bound")]
    x = _Axis.around([exact, *(p[0] for p in points)], 46.0, WIDTH - 14)
    y = _Axis.around([0.0, budget, *losses], 236.0, 20.0)
    level = y.at(budget)
    allowed = f"budget {budget:g}{escape(suffix)}"
    parts = [
        *y.grid(x.left, x.right, suffix),
        *x.drawn(246.0, "milliseconds per inference, as the timed layers promise"),
        f'<line class="budget" x1="{x.left}" x2="{x.right}" y1="{level:.1f}" y2="{level:.1f}"/>',
        f'<text class="note" x="{x.right}" y="{level - 5:.1f}" text-anchor="end">{allowed}</text>',
    ]
    best = _undominated([(exact, 0.0), *((at, factor * float(d["estimate"])) for at, d, _ in points)])
    line = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in best)
    parts.append(f'<polyline class="front" points="{line}"/>')
    parts.append(f'<circle class="before" cx="{x.at(exact):.1f}" cy="{y.at(0.0):.1f}" r="5"/>')
    anchor = "end" if x.at(exact) > WIDTH / 2 else "start"
    side = -9 if anchor == "end" else 9
    parts.append(
        f'<text class="b" x="{x.at(exact) + side:.1f}" y="{y.at(0.0) - 7:.1f}" text-anchor="{anchor}">exact</text>'
    )
    for latency, drop, chosen in sorted(points, key=lambda point: point[2]):  # the taken one on top
        at, value, bound = (
            x.at(latency),
            y.at(factor * float(drop["estimate"])),
            y.at(factor * float(drop["bound"])),
        )
        kind = "chosen" if chosen else "tried"
        parts.append(f'<line class="whisker" x1="{at:.1f}" x2="{at:.1f}" y1="{value:.1f}" y2="{bound:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{at:.1f}" cy="{value:.1f}" r="{6 if chosen else 4.5}"/>')
        if chosen:
            parts.append(f'<text class="b" x="{at + 10:.1f}" y="{value + 4:.1f}">taken</text>')
    return _svg(parts, 282.0, "Latency against loss of the sets of rewrites that were tried")


def _undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats in both, by latency."""
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


class _Axis:
    """A linear scale from values to places; `left` is the place of `low`."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    @classmethod
    def around(cls, values: Sequence[float], left: float, right: float) -> _Axis:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - margin, high + margin, left, right)

    def at(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def ticks(self, count: int = 4) -> list[float]:
        """Round numbers within the axis: multiples of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / count
        power = 10 ** math.floor(math.log10(raw))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= 0.7 * raw)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]

    def drawn(self, y: float, title: str) -> list[str]:
        """As an x axis at height y."""
        parts = []
        for tick in self.ticks():
            x = self.at(tick)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 12}" y2="{y - 7}"/>')
            parts.append(f'<text class="s" x="{x:.1f}" y="{y + 6}" text-anchor="middle">{tick:.4g}</text>')
        middle = (self.left + self.right) / 2
        parts.append(f'<text class="s" x="{middle:.1f}" y="{y + 24}" text-anchor="middle">{escape(title)}</text>')
        return parts

    def grid(self, left: float, right: float, suffix: str) -> list[str]:
        """As a y axis with lines across."""
        parts = []
        for tick in self.ticks():
            y = self.at(tick)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            label = f"{tick:.3g}{suffix}" if abs(tick) > 1e-12 else f"0{suffix}"
            parts.append(f'<text class="s" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        return parts


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH:.0f} {height:.0f}">'
        f"{''.join(parts)}</svg>"
    )
