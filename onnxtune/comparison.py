"""From latency samples to a verdict: ratio of medians with a bootstrap interval. Pure functions of values.

The bootstrap resamples the interleaved rounds (one sample of each contestant per round) with
replacement and takes percentiles of the ratio of medians (Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["faster", "slower", "no measurable change"]
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Comparison:
    """Latency of `after` against `before`, measured in interleaved rounds.

    Samples are seconds per inference; `again` are those of the A/A control, a second instance of
    the original. `speedup` = median(before) / median(after) with the interval
    [`low`, `high`] at `confidence`. `noise` is the A/A floor: how far from 1 the ratio of `before`
    against itself came in the same rounds (0.01 = 1 %); a change within it is not measurable.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    again: NDArray[np.float64]
    speedup: float
    low: float
    high: float
    noise: float
    confidence: float

    @property
    def verdict(self) -> Verdict:
        if self.low > 1.0 and self.speedup > 1.0 + self.noise:
            return "faster"
        if self.high < 1.0 and self.speedup < 1.0 - self.noise:
            return "slower"
        return "no measurable change"

    @property
    def saved(self) -> float:
        """Seconds saved per inference (negative: lost)."""
        return float(np.median(self.before) - np.median(self.after))


def compare(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    again: NDArray[np.float64],
    *,
    seed: int,
    confidence: float = 0.99,
) -> Comparison:
    """Judge paired samples of three contestants (n,): before, after, and `before` once more (A/A).

    The three arrays come from the same rounds, element by element.
    """
    rng = np.random.default_rng(seed)
    n = len(before)
    rounds = rng.integers(0, n, (RESAMPLES, n))
    ratios = np.median(before[rounds], axis=1) / np.median(after[rounds], axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [tail, 100 - tail])
    speedup = float(np.median(before) / np.median(after))
    noise = abs(float(np.median(before) / np.median(again)) - 1)
    return Comparison(before, after, again, speedup, float(low), float(high), noise, confidence)
