"""From latency samples to a verdict: the ratio of medians with an interval. Pure functions of values.

Samples come in blocks of fresh sessions, two per model. A session's place is the median of its block; what
these tell of the two models, and how sure that is, comes from `exchange`. Quiet blocks count more than noisy ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxtune.exchange import session_interval, shift_interval, split_noise

Verdict = Literal["faster", "slower", "no measurable change"]
RELABELLED = 4
"""Blocks from which relabelling can refute anything at 99 %."""
QUIET = 1e-6
"""Relative spread below which no block is quieter than another."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Latency of `after` against `before`, measured in interleaved rounds.

    Samples are seconds per inference, (n,) of all blocks and both sessions. `speedup` is the ratio of median
    latencies, before / after (blocks' ratios in geometric mean), with the interval [`low`, `high`]. The interval errs
    with a chance of `error`, which is this look's share of 1 - `confidence`: however often the samples were looked at
    before measuring ended, all intervals together hold at `confidence`. `noise` is the A/A floor: how far from 1 the
    ratio of equal sessions comes over the whole measurement (0.01 = 1 %); a change within it is not measurable.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    speedup: float
    low: float
    high: float
    noise: float
    confidence: float
    blocks: int = 1
    error: float = 0.01

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
        return float(np.median(self.before)) * (1 - 1 / self.speedup)

    @property
    def width(self) -> float:
        """Of the interval, relative to the speed-up."""
        return (self.high - self.low) / self.speedup


def compare(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    *,
    seed: int,
    confidence: float = 0.99,
    error: float | None = None,
) -> Comparison:
    """Judge samples (blocks, rounds, 2) of two models, two sessions of each, taken in the same rounds; NaN: left out.

    `error`: the chance at which this interval may err; 1 - `confidence` when the samples are looked at once.
    """
    allowed = 1 - confidence if error is None else error
    places, weights = located(np.concatenate([before, after], axis=2))
    if len(places) >= RELABELLED:
        shift, low, high = shift_interval(places, weights, allowed, seed)
    else:
        shift, low, high = session_interval(places, allowed)
    noise = float(np.expm1(split_noise(places, weights, seed)))
    return Comparison(
        before[np.isfinite(before)],
        after[np.isfinite(after)],
        float(np.exp(-shift)),
        float(np.exp(-high)),
        float(np.exp(-low)),
        noise,
        confidence,
        len(before),
        allowed,
    )


def self_noise(samples: NDArray[np.float64], seed: int) -> float:
    """The A/A floor of samples (blocks, rounds, 2 per model): how far from 1 ratios of equal sessions come."""
    return float(np.expm1(split_noise(*located(samples), seed)))


def located(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of samples (blocks, rounds, sessions): places (blocks, sessions), medians of logarithms; weights (blocks,)."""
    logs = np.log(samples)
    places = np.nanmedian(logs, axis=1)
    return places, block_weights(np.nanmedian(np.abs(logs - places[:, None]), axis=1))


def block_weights(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much blocks count, from the relative spread (blocks, sessions) within each session.

    A quiet block counts at most twice as much as the usual one: sessions differ from each other in quiet times, too.
    """
    variance = np.mean(spread**2, axis=1) + QUIET**2
    weights: NDArray[np.float64] = 1 / (variance + np.median(variance))
    return weights
