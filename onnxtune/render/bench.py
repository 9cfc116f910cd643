"""A benchmark as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxtune.bench.statistics import histogram, summarize
from onnxtune.comparison import Comparison


def table(names: Sequence[str], result: Comparison) -> str:
    """One line per model with times in milliseconds; for two models also the verdict."""
    samples = (result.before, result.after)[: len(names)]
    low, high = np.percentile(np.concatenate(samples), [1, 99])
    width = max(len(n) for n in names)
    lines = [f"{'model':{width}}  {'median':>9} {'p90':>9} {'p99':>9} {'min':>9}  ms"]
    for name, taken in zip(names, samples, strict=True):
        summary = summarize(taken, (90, 99))
        times = (summary.median, *(value for _, value in summary.percentiles), summary.minimum)
        cells = " ".join(f"{1e3 * t:9.3f}" for t in times)
        lines.append(f"{name:{width}}  {cells}  {histogram(taken, float(low), float(high))}")
    if len(names) == 2:
        lines.append(
            f"{names[1]}: {result.verdict}; {result.speedup:.3f}x"
            f" ({result.confidence:.0%} interval {result.low:.3f} to {result.high:.3f}, A/A noise {result.noise:.1%})"
        )
    return "\n".join(lines)
