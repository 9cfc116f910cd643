"""Models whose weights stay in files, on smaller ones with the thresholds lowered (the large: weights.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import weights

SLACK = 60e6
"""Bytes by which the peaks of two runs may differ for other reasons."""


@pytest.mark.slow
def test_memory_grows_with_twice_the_weights_at_most(tmp_path: Path) -> None:
    """Of two models, of which one has 90 MB of weights more. (What both need beside their weights is the same.)"""
    peaks = []
    for megabytes in (30, 120):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        done = weights.trial(folder, megabytes, width=512, limit=2**24, measure=False)
        assert not done.lost, done.said
        assert done.peak <= done.limit
        peaks.append((done.stored, done.peak))
    (small, low), (large, high) = peaks
    assert large - small > 80e6
    assert high - low <= 2 * (large - small) + SLACK
