"""What a person reads: the headline says the truth, equal rewrites share a row, nothing is lost with -v."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from onnxtune.comparison import Comparison, compare
from onnxtune.proposal import Decline
from onnxtune.render.calibration import lines
from onnxtune.render.terminal import show
from onnxtune.report import Kept, ModelSummary, Outcome, Rejected, Report, Rewrite, Status

SIZE = ModelSummary(10, 4_000_000, 1_000_000, {"Conv": 10})


def timed(speedup: float) -> Comparison:
    rng = np.random.default_rng(0)
    before, after = (rng.normal(m, 1e-8, (4, 10, 2)) for m in (2e-3, 2e-3 / speedup))
    return compare(before, after, seed=0)


def rewrite(rule: str = "some_rule", title: str = "A -> B", node: str = "n1", **settings: object) -> Rewrite:
    return Rewrite(rule, title, node, 1, "exact", False, settings)


def text(*outcomes: Outcome, status: Status = "faster", speedup: float | None = 1.5, verbose: int = 0) -> str:
    report = Report(
        model="net[1].onnx",
        status=status,
        before=SIZE,
        after=ModelSummary(8, 4_000_000, 2_000_000, {}),
        comparison=timed(speedup) if speedup else None,
        outcomes=outcomes,
        verification={"cases": ["normal", "ones"], "largest_relative_error": 3e-7},
        notes=("height was assumed",),
        environment={"provider": "CPUExecutionProvider", "device": "a CPU"},
        settings={"threads": 1},
        seconds={},
    )
    stream = io.StringIO()
    show(report, Path("out.onnx"), verbose=verbose, console=Console(file=stream, width=160, highlight=False))
    return stream.getvalue()


def test_headline_and_sizes() -> None:
    shown = text(Kept(rewrite(), timed(1.5), 1e-7, "faster"))
    assert "net[1].onnx: 1.50x [" in shown
    assert "faster, 2 ms -> 1.33 ms per inference (CPU, a CPU, 1 thread)" in shown
    assert "Nodes 10 -> 8, weights 4.00 -> 4.00 MB, MACs 1,000,000 -> 2,000,000" in shown
    assert "note: height was assumed" in shown
    assert "2 kinds of input" in shown
    assert "Written: out.onnx" in shown


@pytest.mark.parametrize(
    ("status", "said"),
    [("nothing to gain", "nothing to gain, the original is kept"), ("already tuned", "already tuned")],
)
def test_nothing_was_changed(status: Status, said: str) -> None:
    shown = text(status=status, speedup=None)
    assert said in shown
    assert "(the original)" in shown
    assert "Nodes" not in shown


def test_a_forced_slowdown_is_called_slower() -> None:
    assert "slower" in text(Kept(rewrite(), timed(0.5), None, "forced"), status="forced", speedup=0.5)


def test_equal_rewrites_share_a_row() -> None:
    kept = [Kept(rewrite(node=f"n{i}"), timed(1.2 + i / 10), 10.0**-i, "faster") for i in range(1, 4)]
    shown = text(*kept)
    assert "Kept (3)" in shown
    assert shown.count("some_rule") == 1
    assert "n3 (+2 more)" in shown
    assert "1e-01" in shown, "the largest error of the group"


def test_what_was_beaten_is_counted_and_shown_with_v() -> None:
    beaten = [Rejected(rewrite(title=f"t{i}"), "select", "an overlapping rewrite saves more") for i in range(3)]
    slow = Rejected(rewrite("slow_rule", form="conv", channels={"a": 4}), "measure", "slower: 0.9x", timed(0.9))
    shown = text(slow, *beaten)
    assert "slow_rule" in shown
    assert "A -> B (form conv)" in shown
    assert "and 3 beaten" in shown
    assert "t1" not in shown
    assert all(f"t{i}" in text(slow, *beaten, verbose=1) for i in range(3))


def test_each_class_of_channels_has_its_row() -> None:
    def padded(*tensors: str) -> Rewrite:
        classes = [{"tensor": t, "from": 63, "to": 64, "extra_macs": 1000} for t in tensors]
        return replace(rewrite("pad_channels"), details={"classes": classes})

    shown = text(
        Kept(padded("a", "b"), timed(1.3), None, "faster"),
        Rejected(padded("b"), "select", "an overlapping rewrite saves more time", timed(1.1)),
        Rejected(padded("c"), "measure", "slower: 0.9x", timed(0.9)),
        Decline("pad_channels", "d", "37 channels: 'd' is a graph output"),
        Decline("other", "d", "for a reason"),
    )
    assert "Classes of channels (4)" in shown
    rows = {line.split()[0]: line for line in shown[shown.index("Classes") :].splitlines() if line}
    assert "63 -> 64" in rows["a"]
    assert "+1,000" in rows["a"]
    assert "1.30x" in rows["a"]
    assert "with 1 other" in rows["a"]
    assert "kept" in rows["a"]
    assert "alone 1.10x" in rows["b"]
    assert "slower: 0.9x" in rows["c"]
    assert "is a graph output" in rows["d"]
    assert "Declined (1)" in shown


def test_declines_are_grouped_by_reason() -> None:
    shown = text(*(Decline("r", f"n{i}", f"'w{i}' is not constant") for i in range(5)), Decline("r", "m", "other"))
    assert "Declined (6)" in shown
    assert "5      a tensor is not constant" in shown


def test_long_lists_are_cut_unless_asked_for() -> None:
    many = [Rejected(rewrite(f"rule{i:02}"), "measure", "slower") for i in range(20)]
    assert "rule19" not in text(*many)
    assert "... and 8 more (-v shows all)" in text(*many)
    assert "rule19" in text(*many, verbose=1)


def calibrated(*points: dict[str, object], offered: int = 3, faster: int = 2) -> str:
    """What is said where no calibrated rewrite was kept."""
    found = {
        "samples": 90,
        "source": "d.npz",
        "splits": {"fit": 54, "select": 18, "gate": 18},
        "plans": [{"metric": "top1", "output": "y", "why": "labels"}],
        "budget": 0.01,
        "unit": {"factor": 100, "suffix": "%"},
        "sampled": [],
        "gate": None,
        "levels": {"offered": offered, "faster": faster},
        "exact": {"latency": 2e-3},
        "points": list(points),
    }
    return list(lines(found))[-1]


def test_why_nothing_calibrated_was_kept() -> None:
    bad = {"latency": 1e-3, "drop": {"estimate": 0.03, "bound": 0.04}, "gate": None}
    good = {**bad, "latency": 1.9e-3, "gate": {"estimate": 0.001, "bound": 0.004}}
    assert "No layer has a form" in calibrated(offered=0, faster=0)
    assert "None of the 3 forms" in calibrated(faster=0)
    assert "saves enough" in calibrated()
    assert "Of 1 tried sets none keeps the budget: the most careful loses 3.00% (at most 4.00%)" in calibrated(bad)
    said = calibrated(bad, good)
    assert "keeps the budget (loss 0.10% (at most 0.40%)) is not enough faster, 2 -> 1.9 ms" in said
