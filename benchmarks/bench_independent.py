"""Do the medians of `onnxtune bench` agree with a loop that knows nothing of onnxtune?

The loop does what onnxruntime_perf_test does: a session with default options, some runs to warm up, then run after
run with the clock around it. It takes turns with onnxtune.benchmark, several of each for every model, so that both
see the same machine. Of the loop's runs two medians are given: of all, and of those during which the system did not
take the processor away (getrusage's ru_nivcsw, read by the loop itself), as onnxtune counts them. On an idle machine
these are the same; on a busy one the first says what the neighbours do.

    python -m benchmarks.bench_independent MODEL... [--turns 8] [--output benchmarks/results/bench_independent.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import onnxtune
from onnxtune.bench.machine import machine
from onnxtune.feeds import random_feeds
from onnxtune.model import load
from onnxtune.runtime import resolve
from onnxtune.sizes import bind

THREADS = 1
LIMIT = 0.03
"""Relative difference of medians that is allowed."""


def loop(path: Path, feeds: dict[str, NDArray[Any]], seconds: float) -> tuple[list[float], list[int]]:
    """Seconds of each run, and how often the processor was taken away during it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(10):
        session.run(None, feeds)
    times: list[float] = []
    cuts: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
        cuts.append(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before)
    return times, cuts


def study(path: Path, turns: int) -> dict[str, Any]:
    """One model through both, in turns."""
    model = load(path)
    feeds = random_feeds(model, bind(model).sizes)
    ours: list[float] = []
    theirs: list[float] = []
    cuts: list[int] = []
    for turn in range(turns):
        report = onnxtune.benchmark(
            path, providers="cpu", threads=THREADS, duration=1.0, warmup=0.05, memory=False, seed=turn
        )
        ours += report.cases[0].measured[0].kept.tolist()
        times, switched = loop(path, feeds, 1.0)
        theirs += times
        cuts += switched
    clean = [t for t, c in zip(theirs, cuts, strict=True) if c == 0]
    middle = float(np.median(ours))
    difference = middle / float(np.median(clean)) - 1 if clean else None
    return {
        "model": path.name,
        "turns": turns,
        "onnxtune": {"count": len(ours), "median": middle, "samples": ours},
        "loop": {"count": len(theirs), "median": float(np.median(theirs)), "samples": theirs, "cuts": cuts},
        "uncut": {"count": len(clean), "median": float(np.median(clean)) if clean else None},
        "difference": difference,
        "agree": difference is not None and abs(difference) <= LIMIT,
    }


def table(results: Sequence[dict[str, Any]], device: str) -> str:
    """Markdown."""
    lines = [
        "# Medians of `onnxtune bench` beside an independent loop",
        "",
        f"{device}, {THREADS} thread, {results[0]['turns']} turns of each. Times in milliseconds.",
        "",
        "| model | onnxtune | loop, runs not cut by other processes | difference | loop, all runs | runs cut |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        cut = 1 - r["uncut"]["count"] / r["loop"]["count"]
        uncut = "" if r["difference"] is None else f"{1e3 * r['uncut']['median']:.3f}"
        difference = "" if r["difference"] is None else f"{r['difference']:+.1%}"
        lines.append(
            f"| {r['model']} | {1e3 * r['onnxtune']['median']:.3f} | {uncut} | {difference}"
            f" | {1e3 * r['loop']['median']:.3f} | {cut:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bench_independent.json")
    chosen = parser.parse_args(arguments)
    where = machine(resolve("cpu", threads=THREADS))
    results = []
    for path in chosen.models:
        results.append(study(path, chosen.turns))
        print(path.name, {k: results[-1][k] for k in ("difference", "agree")}, flush=True)
        chosen.output.write_text(json.dumps({"machine": where, "limit": LIMIT, "results": results}) + "\n")
        chosen.output.with_suffix(".md").write_text(table(results, where["device"]))


if __name__ == "__main__":
    main()
