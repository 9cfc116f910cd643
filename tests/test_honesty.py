"""The benchmark of honest bounds: samples of one kind, and held-out losses judged with their own error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.honesty import judged, shuffled, told


def test_both_sets_are_shuffled_together(tmp_path: Path) -> None:
    for name, values in (("a.npz", np.arange(30)), ("b.npz", np.arange(30, 50))):
        np.savez(tmp_path / name, x=values, y=-values)
    cut = [dict(np.load(p)) for p in shuffled(tmp_path / "a.npz", tmp_path / "b.npz", 0, tmp_path)]
    assert [len(c["x"]) for c in cut] == [30, 20]
    assert sorted(np.concatenate([c["x"] for c in cut])) == list(range(50))
    assert all((c["x"] == -c["y"]).all() for c in cut)
    assert (cut[0]["x"] >= 30).any()


def test_the_prediction_bound_counts_both_errors() -> None:
    gate = {"estimate": 0.003, "bound": 0.003 + 1.6449 * 0.002, "confidence": 0.95}
    lost = np.zeros(2000)
    lost[:30], lost[30:40] = 1, -1
    row = judged(gate, lost, 0.9)
    assert row["true_drop"] == pytest.approx(0.01)
    assert row["error"] == pytest.approx(0.0031, rel=0.05)
    assert row["predicted"] == pytest.approx(0.003 + 1.2816 * np.hypot(0.002, row["error"]), rel=1e-3)
    kept = judged(None, np.zeros(2000), 0.9)
    assert kept["bound"] is None
    said = told([row, kept], 0.009, 0.9)
    assert said.startswith("1 of 2 over the budget; the drop is within the gate's bound in 0 of 1")
