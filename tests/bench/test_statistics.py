"""Statistics of latency samples, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxtune.bench.statistics import histogram, summarize


def test_summary_of_known_samples() -> None:
    summary = summarize(np.array([4.0, 1.0, 2.0, 3.0, 100.0]), [50, 100])
    assert (summary.count, summary.median, summary.mean, summary.minimum) == (5, 3.0, 22.0, 1.0)
    assert summary.mad == 1.0  # of the distances 1, 2, 1, 0, 97
    assert summary.percentiles == ((50, 3.0), (100, 100.0))
    assert summary.throughput(6) == 2.0


def test_one_sample() -> None:
    summary = summarize(np.array([0.5]))
    assert summary.mad == 0
    assert [value for _, value in summary.percentiles] == [0.5] * 4


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize(np.array([]))


def test_histogram_keeps_outliers_in_the_last_bar_and_rare_ones_visible() -> None:
    drawn = histogram(np.array([0.0] * 800 + [99.0]), 0.0, 1.0, 4)
    assert drawn == "█  ▁"


def test_histogram_of_equal_samples() -> None:
    assert histogram(np.full(5, 2.0), 2.0, 2.0, 3).count("█") == 1
