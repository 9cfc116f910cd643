"""Statistics on synthetic samples: no change is no change, the interval covers, a real change is seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxtune.comparison import Comparison, compare

Samples = NDArray[np.float64]


def latencies(rng: np.random.Generator, rounds: int, *medians: float, spread: float = 0.05) -> list[Samples]:
    """Right-skewed like real ones: rare slow rounds, and a drift that all contestants of a round share."""
    drift = 1 + 0.1 * np.sin(np.linspace(0, 6, rounds))
    return [m * drift * np.exp(np.abs(rng.normal(0, spread, rounds))) for m in medians]


def judged(before: float, after: float, *, rounds: int = 40, seed: int = 0, spread: float = 0.05) -> Comparison:
    samples = latencies(np.random.default_rng(seed), rounds, before, after, before, spread=spread)
    return compare(*samples, seed=seed)


def test_the_figure_is_the_ratio_of_medians() -> None:
    result = compare(np.array([2.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0, 9.0]), seed=0)
    assert result.speedup == 2.0
    assert result.saved == 2.0
    assert result.noise == pytest.approx(0.2)
    assert result.low <= result.speedup <= result.high
    assert result.confidence == 0.99


def test_equal_contestants_show_no_change() -> None:
    """A/A: at 99 % confidence, one in a hundred may err on either side; 200 tries."""
    verdicts = [judged(1e-3, 1e-3, seed=s).verdict for s in range(200)]
    assert verdicts.count("no measurable change") >= 196


def test_identical_samples_show_no_change() -> None:
    same = np.full(20, 1e-3)
    result = compare(same, same, same, seed=0)
    assert (result.speedup, result.low, result.high, result.noise, result.saved) == (1, 1, 1, 0, 0)
    assert result.verdict == "no measurable change"


@pytest.mark.parametrize("ratio", [1.1, 1.5, 4.0])
def test_a_change_is_seen_in_both_directions(ratio: float) -> None:
    assert judged(ratio * 1e-3, 1e-3).verdict == "faster"
    assert judged(1e-3, ratio * 1e-3).verdict == "slower"
    assert judged(ratio * 1e-3, 1e-3).saved == pytest.approx((ratio - 1) * 1e-3, rel=0.3)


@pytest.mark.parametrize("rounds", [20, 60])
def test_the_interval_covers_the_true_ratio(rounds: int) -> None:
    """Nominal 90 %: of 300 simulated comparisons at least 85 % hold the true ratio."""
    covered = 0
    for seed in range(300):
        samples = latencies(np.random.default_rng(seed), rounds, 1.3, 1.0, 1.3)
        result = compare(*samples, seed=seed, confidence=0.9)
        covered += result.low <= 1.3 <= result.high
    assert covered >= 255


def test_more_confidence_is_a_wider_interval() -> None:
    samples = latencies(np.random.default_rng(1), 30, 1.0, 1.0, 1.0)
    widths = [
        (result := compare(*samples, seed=0, confidence=c)).high - result.low for c in (0.5, 0.9, 0.99)
    ]  # fmt: skip
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_the_seed_decides() -> None:
    samples = latencies(np.random.default_rng(1), 30, 1.0, 1.0, 1.0)
    first, again, other = (compare(*samples, seed=s) for s in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)


def test_a_few_slow_rounds_change_nothing() -> None:
    samples = latencies(np.random.default_rng(2), 40, 1.2, 1.0, 1.2)
    samples[1][::10] *= 50
    result = compare(*samples, seed=0)
    assert result.verdict == "faster"
    assert result.speedup == pytest.approx(1.2, rel=0.05)


@pytest.mark.parametrize(
    ("speedup", "low", "high", "noise", "verdict"),
    [
        (1.10, 1.05, 1.15, 0.01, "faster"),
        (1.10, 1.05, 1.15, 0.20, "no measurable change"),
        (1.10, 0.99, 1.15, 0.01, "no measurable change"),
        (1.10, 1.00, 1.15, 0.00, "no measurable change"),
        (0.90, 0.85, 0.95, 0.01, "slower"),
        (0.90, 0.85, 0.95, 0.20, "no measurable change"),
        (0.90, 0.85, 1.01, 0.01, "no measurable change"),
    ],
)
def test_verdicts(speedup: float, low: float, high: float, noise: float, verdict: str) -> None:
    one = np.ones(1)
    assert Comparison(one, one, one, speedup, low, high, noise, 0.99).verdict == verdict
