"""Statistics on synthetic samples: no change is no change, the interval covers, a real change is seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxtune.comparison import Comparison, block_weights, compare, self_noise

Samples = NDArray[np.float64]


def latencies(rng: np.random.Generator, blocks: int, *medians: float, spread: float = 0.05) -> list[Samples]:
    """(blocks, 6, 2) of each model. Right-skewed like real ones: rare slow runs, and a drift that all share."""
    drift = (1 + 0.1 * np.sin(np.linspace(0, 6, 6 * blocks))).reshape(blocks, 6, 1)
    return [m * drift * np.exp(np.abs(rng.normal(0, spread, (blocks, 6, 2)))) for m in medians]


def judged(before: float, after: float, *, blocks: int = 8, seed: int = 0, spread: float = 0.05) -> Comparison:
    samples = latencies(np.random.default_rng(seed), blocks, before, after, spread=spread)
    return compare(*samples, seed=seed)


def test_the_figure_is_the_ratio_of_medians() -> None:
    before = np.array([[[2.0, 2.0], [4.0, 4.0], [9.0, 9.0]]] * 4)
    after = np.array([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]] * 4)
    result = compare(before, after, seed=0)
    assert result.speedup == pytest.approx(2.0)
    assert result.saved == pytest.approx(2.0)
    assert result.noise == 0
    assert result.low <= result.speedup <= result.high
    assert (result.confidence, result.error, result.blocks) == (0.99, pytest.approx(0.01), 4)


def test_equal_contestants_show_no_change() -> None:
    """A/A: at 99 % confidence, two in 200 may err; more than six do with a chance of 0.4 %."""
    verdicts = [judged(1e-3, 1e-3, seed=s).verdict for s in range(200)]
    assert verdicts.count("no measurable change") >= 194


@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
def test_identical_samples_show_no_change(blocks: int) -> None:
    same = np.full((blocks, 5, 2), 1e-3)
    result = compare(same, same, seed=0)
    assert (result.speedup, result.low, result.high, result.noise, result.saved) == (1, 1, 1, 0, 0)
    assert result.verdict == "no measurable change"


@pytest.mark.parametrize("ratio", [1.1, 1.5, 4.0])
def test_a_change_is_seen_in_both_directions(ratio: float) -> None:
    assert judged(ratio * 1e-3, 1e-3).verdict == "faster"
    assert judged(1e-3, ratio * 1e-3).verdict == "slower"
    assert judged(ratio * 1e-3, 1e-3).saved == pytest.approx((ratio - 1) * 1e-3, rel=0.3)


@pytest.mark.parametrize("blocks", [2, 4, 10])
def test_the_interval_covers_the_true_ratio(blocks: int) -> None:
    """Nominal 90 %: of 200 simulated comparisons at least 168 hold the true ratio. Two blocks: by Student's t."""
    covered = 0
    for seed in range(200):
        samples = latencies(np.random.default_rng(seed), blocks, 1.3, 1.0)
        result = compare(*samples, seed=seed, confidence=0.9)
        covered += result.low <= 1.3 <= result.high
    assert covered >= 168


def test_more_confidence_is_a_wider_interval() -> None:
    samples = latencies(np.random.default_rng(1), 8, 1.0, 1.0)
    widths = [compare(*samples, seed=0, confidence=c).width for c in (0.5, 0.9, 0.99)]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]
    assert compare(*samples, seed=0, error=0.002).width > widths[2], "an early look must be surer"


def test_the_seed_decides() -> None:
    samples = latencies(np.random.default_rng(1), 12, 1.0, 1.0)
    first, again, other = (compare(*samples, seed=s) for s in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)


def test_a_few_slow_runs_change_nothing() -> None:
    samples = latencies(np.random.default_rng(2), 8, 1.2, 1.0)
    samples[1][:, 2] *= 50
    result = compare(*samples, seed=0)
    assert result.verdict == "faster"
    assert result.speedup == pytest.approx(1.2, rel=0.05)


def test_what_is_left_out_counts_nowhere() -> None:
    samples = latencies(np.random.default_rng(2), 8, 1.2, 1.0)
    samples[1][:, :3, 0] *= 50
    samples[1][:, :3, 0] = np.nan
    result = compare(*samples, seed=0)
    assert result.speedup == pytest.approx(1.2, rel=0.05)
    assert (len(result.before), len(result.after)) == (96, 72)
    assert np.isfinite(result.after).all()


def test_a_noisy_block_counts_less_and_a_quiet_one_at_most_twice() -> None:
    weights = block_weights(np.array([[0.01, 0.01], [0.01, 0.01], [0.01, 0.01], [0.0, 0.0], [0.5, 0.5]]))
    assert weights[3] == pytest.approx(2 * weights[0], rel=1e-3)
    assert weights[4] < 0.01 * weights[0]


def test_luck_of_a_session_is_noise() -> None:
    """Sessions 10 % apart, however steady each is, leave a change of 3 % open."""
    rng = np.random.default_rng(0)
    sessions = 1e-3 * (1 + 0.1 * rng.integers(0, 2, (2, 8, 1, 2)))
    before, after = np.repeat(sessions, 6, axis=2) * (1 + rng.normal(0, 1e-3, (2, 8, 6, 2)))
    result = compare(before, 1.03 * after, seed=0)
    assert result.verdict == "no measurable change"
    assert result.noise > 0.02
    assert self_noise(before, 0) > 0.02


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
    assert Comparison(one, one, speedup, low, high, noise, 0.99).verdict == verdict
