"""Reports made by hand: all kinds of outcome, hostile names, and as long as that of a very large model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from onnxtune.comparison import Comparison, compare
from onnxtune.profile import NodeTime, Profile
from onnxtune.proposal import Decline
from onnxtune.report import Kept, ModelSummary, Outcome, Rejected, Report, Rewrite
from onnxtune.subgraph import Subgraph, SubgraphNode

HOSTILE = "</title><script>alert(1)</script>|`x``y` **b** [l](javascript:z) @team #1 ' \" \\ <img src=x onerror=q>"


@cache
def timed(speedup: float, count: int = 40) -> Comparison:
    rng = np.random.default_rng(0)
    before, after = (rng.normal(m, 1e-7, (5, count // 10, 2)) for m in (2e-3, 2e-3 / speedup))
    return compare(before, after, seed=0)


def chain(*operators: str, stem: str = "t") -> Subgraph:
    """Operators one after the other, 8 channels of 4x4."""
    nodes = tuple(
        SubgraphNode(f"{stem}{i + 1}", op, (f"{stem}{i}",), (f"{stem}{i + 1}",), ((8, 8, 3, 3),), {"strides": [2, 2]})
        for i, op in enumerate(operators)
    )
    return Subgraph(nodes, {f"{stem}{i}": (1, 8, 4, 4) for i in range(len(operators) + 1)})


def kept(rule: str = "fold", node: str = "n1", stem: str = "t", **settings: Any) -> Kept:
    rewrite = Rewrite(rule, "Conv + Mul -> Conv", node, 2, "exact", False, settings)
    return Kept(rewrite, timed(1.5), 1e-7, "faster", chain("Conv", "Mul", stem=stem), chain("Conv", stem=stem))


def rejected(node: str = "n2", reason: str = "slower: 0.90x [0.88, 0.92]") -> Rejected:
    return Rejected(Rewrite("pad", "12 -> 16", node, 1, "exact", False), "measure", reason, timed(0.9))


def drop(estimate: float) -> dict[str, Any]:
    return {
        "metric": "top1",
        "estimator": "expected",
        "estimate": estimate,
        "bound": estimate + 0.003,
        "confidence": 0.9,
        "samples": 1600,
        "deviation": 0.03,
        "doubt": 0.0,
        "weight": 0.0,
        "before": 0.84,
        "after": 0.84 - estimate,
        "labelled": None,
        "labelled_low": None,
        "flips": 0.04,
        "output": "",
    }


def calibration() -> dict[str, Any]:
    def point(latency: float, loss: float, chosen: bool) -> dict[str, Any]:
        gate = drop(loss + 1e-4) if chosen else None
        found = {"latency": latency, "macs": 10**7, "bytes": 2 * 10**6, "drop": drop(loss), "gate": gate}
        return {**found, "levels": ["Conv 5x5 as cp", "prune"], "chosen": chosen}

    return {
        "source": "data.npz",
        "samples": 2000,
        "sha256": "0" * 64,
        "max_drop": "1%",
        "metric": None,
        "confidence": 0.9,
        "crop_border": 0,
        "splits": {"fit": 1200, "select": 400, "gate": 400},
        "plans": [{"output": "logits", "metric": "top1", "why": "class scores and labels are there"}],
        "levels": {"offered": 120, "faster": 40},
        "sampled": [{"layer": "/fc/Gemm", "columns": 25088, "rows": 40000}],
        "budget": 0.01,
        "refused": False,
        "unit": {"factor": 100.0, "suffix": "%"},
        "gate": {**drop(0.004), "needed_for_half": 5000},
        "veto": drop(0.004),
        "exact": {"latency": 2e-3, "bytes": 4 * 10**6, "macs": 5 * 10**7},
        "points": [point(5e-4, 0.02, False), point(6e-4, 0.004, True)],
    }


def profiled(*seconds: float) -> Profile:
    nodes = tuple(NodeTime(f"node{i}", "Conv" if i % 2 else "Relu", "CPU", s) for i, s in enumerate(seconds))
    return Profile(nodes, sum(seconds))


def report(*outcomes: Outcome, **changes: Any) -> Report:
    """A faster model, unless `changes` say otherwise."""
    plain = Report(
        model="net.onnx",
        status="faster",
        before=ModelSummary(10, 4_000_000, 50_000_000, {"Conv": 4, "Mul": 2}, 6_000_000),
        after=ModelSummary(8, 2_000_000, 20_000_000, {"Conv": 4}, 3_000_000),
        comparison=timed(1.5),
        outcomes=outcomes or (kept(), rejected(), Decline("fuse", "n3", "'n3' is a graph output")),
        verification={"cases": ["normal", "ones"], "levels": ["all"], "largest_relative_error": 3e-7},
        notes=("height was assumed to be 224",),
        environment={"onnxtune": "0.1.0", "provider": "CPUExecutionProvider", "device": "a CPU"},
        settings={"threads": 1, "seed": 0, "measured_sizes": {"x": [1, 3, 20, 20]}},
        seconds={"measure": 2.0},
        profile_before=profiled(1e-3, 5e-4, 2e-4),
        profile_after=profiled(6e-4, 2e-4),
        reproduce="onnxtune optimize net.onnx --threads 1",
        source_sha256="0" * 64,
    )
    return replace(plain, **changes)


def nothing_to_gain() -> Report:
    same = ModelSummary(10, 4_000_000, 50_000_000, {"Conv": 4}, 6_000_000)
    found = report(rejected(), Decline("fuse", "n3", "no"), status="nothing to gain", before=same, after=same)
    return replace(found, comparison=None, profile_after=None, notes=())


def already_tuned() -> Report:
    found = replace(nothing_to_gain(), status="already tuned", outcomes=(), verification={}, seconds={})
    return replace(found, profile_before=None)


def over_budget() -> Report:
    return replace(nothing_to_gain(), status="over budget", calibration={**calibration(), "refused": True})


def hostile() -> Report:
    """Names, reasons and settings that try to get out of wherever they are put."""
    place = kept(HOSTILE, HOSTILE, HOSTILE, mode=HOSTILE)
    data = {**calibration(), "source": HOSTILE}
    data["points"] = [{**p, "levels": [HOSTILE]} for p in data["points"]]
    found = report(
        place,
        replace(rejected(HOSTILE, HOSTILE), rewrite=replace(rejected().rewrite, title=HOSTILE)),
        Decline(HOSTILE, HOSTILE, HOSTILE),
        Decline("pad_channels", HOSTILE, f"37 channels: {HOSTILE}"),
        model=HOSTILE,
        notes=(HOSTILE,),
        calibration=data,
        reproduce=f"onnxtune optimize '{HOSTILE}'",
        environment={"onnxtune": "0.1.0", HOSTILE: HOSTILE, "device": HOSTILE},
        settings={"threads": 1, HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
    )
    shown = Profile((NodeTime(HOSTILE, HOSTILE, "CPU", 1e-3),), 1e-3)
    return replace(found, profile_before=shown, profile_after=shown)


def enormous(count: int = 10_000) -> Report:
    """As of a model with `count` nodes, each in some outcome and no two alike."""
    long = "/a/rather/long/path/of/modules" * 3
    outcomes: list[Outcome] = []
    for i in range(count // 4):
        name = f"{long}/{i}"
        outcomes.append(replace(kept(node=name, stem=f"{name}."), rewrite=replace(kept().rewrite, title=f"step {i}")))
        outcomes.append(rejected(name, f"slower than number {i}"))
        outcomes += [Decline(f"rule{i % 50}", name, f"reason {i}"), Decline("fuse", name, "'x' is a graph output")]
    nodes = tuple(NodeTime(f"{long}/{i}", f"Op{i % 300}", "CPU", 1e-6 * (i % 97)) for i in range(count))
    profile = Profile(nodes, 1.0)
    return report(*outcomes, profile_before=profile, profile_after=profile)
