"""What the latency samples of one model say. Pure functions of values; times are seconds per inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Summary:
    """Latency of one model. `mad` is the median absolute deviation from the median, unscaled."""

    count: int
    median: float
    mean: float
    minimum: float
    mad: float
    percentiles: tuple[tuple[float, float], ...]

    def throughput(self, batch: int) -> float:
        """Items per second at the median, of inferences that process `batch` items each."""
        return batch / self.median


def summarize(samples: NDArray[np.float64], percentiles: Sequence[float] = PERCENTILES) -> Summary:
    """Summary of samples (n,), n at least 1."""
    if not len(samples):
        raise ValueError("no samples to summarize")
    median = float(np.median(samples))
    return Summary(
        count=len(samples),
        median=median,
        mean=float(np.mean(samples)),
        minimum=float(np.min(samples)),
        mad=float(np.median(np.abs(samples - median))),
        percentiles=tuple((p, float(np.percentile(samples, p))) for p in percentiles),
    )


def histogram(samples: NDArray[np.float64], low: float, high: float, width: int = 24) -> str:
    """One line of `width` bars over [`low`, `high`]; what lies outside counts in the outermost bars.

    Models drawn over the same interval can be compared by eye. A bar that holds anything is visible.
    """
    counts, _ = np.histogram(np.clip(samples, low, high), bins=width, range=(low, high))
    heights = np.ceil(counts / max(int(counts.max()), 1) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[h] for h in heights)
