"""Can the verdicts of `onnxtune bench` be trusted? The command, many times over, at its default settings.

A/A: the same file against itself must be "no measurable change". 5 %: a chain of 20 equal convolutions against one of
21 must be "slower". How much the 21st really costs is established beforehand by one long run, with the sessions made
anew 60 times. (What the procedure does on simulated noise, where the truth is known exactly, tests/test_exchange.py
and tests/test_measure.py say.)

    python -m benchmarks.bench_trust [--repeats 50] [--commands 50] [--output benchmarks/results/bench_trust.json]

Every run is kept, with its interval; the exact binomial interval (Clopper & Pearson, 1934) says what the counts are
worth. The results are written after every repeat, so that an interrupted study is a smaller one.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import beta

import onnxtune
from onnxtune import model as models
from onnxtune.bench.machine import load_average, machine
from onnxtune.comparison import compare
from onnxtune.feeds import random_feeds
from onnxtune.measure import Plan, collect
from onnxtune.runtime import resolve
from onnxtune.sizes import bind
from onnxtune.trial import fresh

CHANNELS, SIZE = 24, 20
LENGTH = 20
"""Convolutions of the shorter chain; the longer has one more: 1 / 20 = 5 % more work."""
BLOCKS = 60
"""Of the long run that says what the 21st convolution costs."""
Runs = Callable[[Path, Path, Path], dict[str, Any]]
RIGHT = {"A/A": "no measurable change", "5 %": "slower"}


def chain(length: int) -> onnx.ModelProto:
    """`length` equal 3x3 convolutions with Relu on one image of 24 channels of 20 x 20."""
    rng = np.random.default_rng(0)
    scale = float(np.sqrt(2 / (9 * CHANNELS)))
    nodes, weights = [], []
    for i in range(length):
        weight = (scale * rng.standard_normal((CHANNELS, CHANNELS, 3, 3))).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    shape = [1, CHANNELS, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x0", f"x{length}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def truth(before: Path, after: Path) -> dict[str, float]:
    """The extra cost by a long run of many blocks of fresh sessions, by medians and by the fastest runs."""
    target = resolve("cpu")
    loaded = [models.load(p) for p in (before, after)]
    feeds = random_feeds(loaded[0], bind(loaded[0]).sizes)
    plan = Plan(warmup=1.0, duration=math.inf, rounds=10, blocks=BLOCKS, most=BLOCKS, eager=False, fill=False)
    taken = collect([fresh(m, target, feeds) for m in loaded], plan, lambda times, error: (False, 0.0))
    result = compare(taken.of(0), taken.of(1), seed=0)
    quick = [float(np.median(np.nanmin(taken.of(i), axis=1))) for i in range(2)]
    return {
        "extra": 1 / result.speedup - 1,
        "low": 1 / result.high - 1,
        "high": 1 / result.low - 1,
        "extra_of_fastest": quick[1] / quick[0] - 1,
        "median_before_s": float(np.median(result.before)),
        "blocks": result.blocks,
        "samples": len(result.before),
    }


def command(before: Path, after: Path, folder: Path) -> dict[str, Any]:
    """The command as users call it: its JSON."""
    out = folder / "out.json"
    words = [sys.executable, "-m", "onnxtune", "bench", str(before), str(after), "--providers", "cpu"]
    subprocess.run([*words, "--quiet", "--json", str(out)], check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def call(before: Path, after: Path, _: Path) -> dict[str, Any]:
    """What the command does, in this process, without measuring memory (which comes first, in other processes)."""
    return onnxtune.benchmark([before, after], providers="cpu", memory=False).to_dict()


def one(run: Runs, before: Path, after: Path, folder: Path) -> dict[str, Any]:
    """One run at default settings: what it says, and how long it took."""
    load, started = load_average(), time.perf_counter()
    report = run(before, after, folder)
    seconds = time.perf_counter() - started
    (case,) = report["cases"]
    (found,) = case["comparisons"]
    samples = np.asarray(case["results"][0]["samples"], np.float64)
    return {
        "by": run.__name__,
        **{k: found[k] for k in ("verdict", "speedup", "low", "high", "noise", "error")},
        "blocks": len(samples),
        "samples": int(np.isfinite(samples).sum()),
        "median_s": [r["latency"]["median"] for r in case["results"]],
        "cut": [round(r["cut"], 3) for r in case["results"]],
        "seconds": round(seconds, 2),
        "load": load[0] if load else None,
        "warnings": sorted({w["kind"] for w in case["warnings"]}),
    }


def binomial(right: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share of which `right` of `count` were seen."""
    tail = (1 - confidence) / 2
    low = 0.0 if right == 0 else float(beta.ppf(tail, right, count - right + 1))
    high = 1.0 if right == count else float(beta.ppf(1 - tail, right + 1, count - right))
    return low, high


def summary(runs: Sequence[dict[str, Any]], right: str) -> dict[str, Any]:
    count = len(runs)
    hits = sum(r["verdict"] == right for r in runs)
    low, high = binomial(hits, count)
    return {
        "right": right,
        "runs": count,
        "hits": hits,
        "share": hits / count,
        "low": low,
        "high": high,
        "verdicts": dict(Counter(r["verdict"] for r in runs)),
        "median_speedup": float(np.median([r["speedup"] for r in runs])),
        "median_width": float(np.median([r["high"] - r["low"] for r in runs])),
        "median_seconds": float(np.median([r["seconds"] for r in runs])),
        "load_from": min(r["load"] for r in runs),
        "load_to": max(r["load"] for r in runs),
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: what was studied, and a row for each study."""
    true, machine_ = results["truth"], results["machine"]
    by = Counter(run["by"] for runs in results["runs"].values() for run in runs)
    where = f"{machine_['device']}, {machine_['cpu']['usable_cores']} cores"
    intro = (
        f"`onnxtune bench A B --providers cpu` at its default settings ({by['command']} runs as a command,"
        f" {by['call']} as the same Python call) on {where}, beside other work. A: {LENGTH} equal convolutions"
        f" (median {1e3 * true['median_before_s']:.2f} ms). B of the second row: {LENGTH + 1} of them, which a long"
        f" run of {true['blocks']} blocks of fresh sessions ({true['samples']} samples of each) puts at"
        f" {true['extra']:+.2%} [{true['low']:+.2%}, {true['high']:+.2%}] in time; by the fastest runs"
        f" {true['extra_of_fastest']:+.2%}."
    )
    heads = ("study", "right answer", "right", "share", "exact 95 % interval", "median speed-up", "interval's width")
    lines = ["# Can the verdicts of `onnxtune bench` be trusted?", "", intro, ""]
    lines += [_row([*heads, "seconds", "load average"]), _row(["---"] * (len(heads) + 2))]
    for name, s in results["summary"].items():
        cells = (
            name, s["right"], f"{s['hits']} of {s['runs']}", f"{s['share']:.0%}", f"{s['low']:.1%} to {s['high']:.1%}",
            f"{s['median_speedup']:.4f}", f"{s['median_width']:.4f}", f"{s['median_seconds']:.1f}",
            f"{s['load_from']:.1f} to {s['load_to']:.1f}",
        )  # fmt: skip
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--commands", type=int, default=50, help="repeats as a command; the rest as a Python call")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bench_trust.json")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after = folder / "chain.onnx", folder / "longer.onnx"
        onnx.save(chain(LENGTH), before)
        onnx.save(chain(LENGTH + 1), after)
        results: dict[str, Any] = {
            "machine": machine(resolve("cpu")),
            "truth": truth(before, after),
            "summary": {},
            "runs": {study: [] for study in RIGHT},
        }
        print(results["truth"], flush=True)
        for i in range(chosen.repeats):
            for study, right in RIGHT.items():
                by = command if i < chosen.commands else call
                run = one(by, before, before if study == "A/A" else after, folder)
                results["runs"][study].append(run)
                results["summary"][study] = summary(results["runs"][study], right)
                print(i, study, run, flush=True)
            chosen.output.write_text(json.dumps(results, indent=1) + "\n")
            chosen.output.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
