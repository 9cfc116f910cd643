"""Latency after onnxtune next to what people would use instead, in one interleaved run per model.

    python -m benchmarks.exact MODEL.onnx [MODEL.onnx ...] --output benchmarks/results/exact.json

Contenders: the original under ORT_ENABLE_ALL, onnxsim, onnxslim, onnxoptimizer (each when installed)
and `onnxtune.optimize` with an empty cache. Every round runs each contender once in random order; the
figure is the ratio of medians, original over contender, with a 99 % bootstrap interval. The original is
there twice: the second copy shows what the machine's noise alone does to the figure. Writes JSON with
all samples, and a Markdown table beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxtune
from onnxtune import model as models
from onnxtune.comparison import compare
from onnxtune.devices import cpu_name
from onnxtune.feeds import random_feeds
from onnxtune.measure import Plan, collect
from onnxtune.runtime import Session, Target, versions
from onnxtune.sizes import bind
from onnxtune.trial import fresh

BLOCKS = 10


def simplifiers() -> dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]]:
    """What people use today, as ModelProto -> ModelProto, where installed."""
    found: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {}
    for name, entry in (("onnxsim", "simplify"), ("onnxslim", "slim"), ("onnxoptimizer", "optimize")):
        try:
            function = getattr(importlib.import_module(name), entry)
        except ImportError:
            print(f"{name} is not installed and left out")
            continue
        found[name] = _first(function)
    return found


def _first(function: Callable[..., Any]) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def call(proto: onnx.ModelProto) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        result = function(copy)
        chosen = result[0] if isinstance(result, tuple) else result
        assert isinstance(chosen, onnx.ModelProto)
        return chosen

    return call


def run(path: Path, target: Target, seed: int = 0) -> dict[str, Any]:
    """One model through all contenders; returns plain data with all samples."""
    original = models.load(path)
    sizes = bind(original).sizes
    feeds = random_feeds(original, sizes, seed)
    protos = {"original": original.proto, "original again": original.proto}
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, change in simplifiers().items():
        began = time.perf_counter()
        try:
            protos[name] = change(original.proto)
        except Exception as error:  # somebody else's tool on any model
            failures[name] = f"{type(error).__name__}: {str(error)[:200]}"
        seconds[name] = time.perf_counter() - began
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = onnxtune.optimize(path, providers="cpu", threads=target.threads, cache=Path(folder) / "cache.sqlite")
    seconds["onnxtune"] = time.perf_counter() - began
    protos["onnxtune"] = result.model
    expected = Session(original, target, "disable").run(feeds)
    contenders = {name: models.Model(proto, name) for name, proto in protos.items()}
    errors = {n: _error(expected, Session(m, target).run(feeds)) for n, m in contenders.items()}
    plan = Plan(warmup=0.2, duration=10.0, rounds=5, blocks=BLOCKS, most=BLOCKS, seed=seed)
    taken = collect([fresh(m, target, feeds) for m in contenders.values()], plan, lambda times, error: (False, 0.0))
    columns = {name: taken.of(i) for i, name in enumerate(contenders)}
    table = {}
    for name, column in columns.items():
        comparison = compare(columns["original"], column, seed=seed)
        table[name] = {
            "median_ms": 1e3 * float(np.nanmedian(column)),
            "speedup": comparison.speedup,
            "low": comparison.low,
            "high": comparison.high,
            "error": errors[name],
            "seconds": seconds.get(name),
            "samples": column[np.isfinite(column)].tolist(),
        }
    rules = dict(result.report.counts())
    return {"model": path.stem, "contenders": table, "rules": rules, "failures": failures}


def _error(expected: dict[str, Any], got: dict[str, Any]) -> float:
    """Largest difference relative to the largest magnitude of the output, over all outputs."""
    worst = 0.0
    for name, want in expected.items():
        scale = float(np.max(np.abs(want), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(want.astype(np.float64) - got[name]), initial=0.0)) / scale)
    return worst


def markdown(results: dict[str, Any]) -> str:
    """The table: speed-up of each contender, interval for onnxtune."""
    names = [
        n for n in ("onnxsim", "onnxslim", "onnxoptimizer") if any(n in m["contenders"] for m in results["models"])
    ]
    setting = (
        f"{results['device']}, {results['threads']} thread, batch 1, ONNX Runtime {results['versions']['onnxruntime']}."
    )
    lines = [
        f"{setting} Speed-up: median latency of the original (ORT_ENABLE_ALL) over the contender's; 99 % interval.",
        "",
        "| model | original, ms | " + " | ".join(names) + " | onnxtune | rules |",
        "|---|---|" + "---|" * (len(names) + 2),
    ]
    for item in results["models"]:
        table = item["contenders"]
        cells = [f"{table[n]['speedup']:.2f}x" if n in table else "failed" for n in names]
        own = table["onnxtune"]
        rules = ", ".join(f"{rule} x{count}" if count > 1 else rule for rule, count in item["rules"].items())
        lines.append(
            f"| {item['model']} | {table['original']['median_ms']:.2f} | {' | '.join(cells)} "
            f"| **{own['speedup']:.2f}x** [{own['low']:.2f}, {own['high']:.2f}] | {rules or 'none'} |"
        )
    ratios = {n: [i["contenders"][n]["speedup"] for i in results["models"] if n in i["contenders"]] for n in names}
    ratios["onnxtune"] = [i["contenders"]["onnxtune"]["speedup"] for i in results["models"]]
    means = {n: float(np.exp(np.mean(np.log(v)))) for n, v in ratios.items()}
    cells = [f"{means[n]:.2f}x" for n in names]
    lines.append(f"| geometric mean | | {' | '.join(cells)} | **{means['onnxtune']:.2f}x** | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/exact.json"))
    parser.add_argument("--add", action="store_true", help="add to the results in OUTPUT, replacing the same models")
    arguments = parser.parse_args()
    target = Target(threads=arguments.threads)
    results: dict[str, Any] = {
        "device": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "threads": arguments.threads,
        "versions": versions(),
        "models": [],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.add and arguments.output.exists():
        known = json.loads(arguments.output.read_text())
        assert all(known[k] == results[k] for k in ("device", "threads")), "results of another machine"
        results["models"] = known["models"]
    for path in arguments.models:
        results["models"] = [m for m in results["models"] if m["model"] != path.stem]
        results["models"].append(run(path, target))
        arguments.output.write_text(json.dumps(results))
        arguments.output.with_suffix(".md").write_text(markdown(results))
        print(markdown(results).splitlines()[-2], flush=True)
    print(markdown(results))


if __name__ == "__main__":
    main()
