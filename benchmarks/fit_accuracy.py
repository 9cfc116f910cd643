"""What approximated layers cost in accuracy and save in time, fitted with data and without.

    python -m benchmarks.fit_accuracy --shared FOLDER [--only MODEL ...] [--output benchmarks/results/fit_accuracy.json]

For every layer that calibrated rules offer levels of, and every form: the levels at about a quarter and half of the
layer's multiply-accumulates, each alone in the network. "With data": fitted to 1600 calibration images. "Without":
the same form fitted to white noise, which is the truncated singular value decomposition where the form is one product,
and alternating least squares on the weights elsewhere. Accuracy on the development images, which no fit has seen;
the saved time is that of the layer's region, of one inference on one thread. Writes JSON, a table and a figure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.honesty import right
from benchmarks.suite.figure import text
from benchmarks.suite.trained import Shared
from onnxtune.apply import apply
from onnxtune.cache import Cache
from onnxtune.calibrate.dataset import open_dataset
from onnxtune.calibrate.evidence import Evidence
from onnxtune.calibrate.fitter import Fitter
from onnxtune.calibrate.layer import Layer
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.moments import Accumulator
from onnxtune.calibrate.preprocess import parse
from onnxtune.calibrate.store import FitStore
from onnxtune.catalog import catalog
from onnxtune.devices import cpu_name
from onnxtune.facts import Facts
from onnxtune.model import load
from onnxtune.propose import propose_levels
from onnxtune.runtime import Target, versions
from onnxtune.sizes import bind
from onnxtune.trial import Timer

MODELS = ("own_alex11_cifar10", "own_lenet5_cifar10", "caffe_lenet_mnist")
RATIOS = (0.25, 0.5)
ROWS = 8
"""Rows of noise for each column of a layer."""
IMAGES = 1600


def white(layer: Layer, out_size: tuple[int, ...], seed: int) -> Evidence:
    """Evidence that knows nothing of the data: inputs are independent, of mean 0 and variance 1."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((max(4096, ROWS * layer.columns), layer.columns), np.float32)
    answers = (rows @ layer.weight.T.astype(np.float32) + layer.bias.astype(np.float32)).astype(np.float32)
    if layer.wide:
        return Evidence(None, rows, answers, out_size, seed)
    gathered = Accumulator(layer.columns, layer.outputs)
    gathered.add(rows, answers)
    return Evidence(gathered.finish(), rows[:4096], answers[:4096], out_size, seed)


def chosen(levels: Sequence[Level]) -> Iterator[Level]:
    """Of each layer and form the levels nearest to the ratios."""
    groups: dict[tuple[str, str], list[Level]] = {}
    for level in levels:
        groups.setdefault((level.layer.key, level.family), []).append(level)
    for own in groups.values():
        nearest = (min(own, key=lambda level: abs(np.log(level.share / ratio))) for ratio in RATIOS)
        yield from dict.fromkeys(nearest)


def rows(shared: Shared, name: str, target: Target) -> Iterator[dict[str, Any]]:
    """One row for every level, as plain data."""
    model = load(shared.folder / "models" / f"{name}.onnx")
    facts = Facts(model, bind(model).sizes)
    rules = [r for r in catalog(plugins=False) if r.levels is not None]
    settings = {r.name: {"provider": "cpu"} for r in rules if "provider" in r.card.settings}
    levels = [x for x in propose_levels(facts, rules, settings) if isinstance(x, Level)]
    given = shared.settings(name, "1%")
    held = given["calibration_data"].replace("_calib2000", "_devtest2000")
    preprocess = parse(given["preprocess"])
    with (
        open_dataset(given["calibration_data"], model, preprocess=preprocess) as data,
        open_dataset(held, model, preprocess=preprocess) as held_out,
    ):
        before = float(right(model, held_out).mean())
        fitter = Fitter(model, data, data.digest(), FitStore(None), target, 0, lambda stage, done, total: None)
        timer, seen = Timer(target, Cache(None)), np.arange(IMAGES)
        for level in chosen(levels):
            comparison = timer.region(facts, level.unfitted).comparison
            _, (aware,) = fitter.in_order([level], seen)
            free = level.fitted(lambda layer, change: white(layer, (facts.size(layer.y) or ())[2:], 0), True)
            yield {
                "model": name,
                "layer": level.layer.key,
                "rule": level.rule,
                "form": level.title,
                "macs": round(level.share, 4),
                "region_speedup": None if comparison is None else comparison.speedup,
                "error_with_data": aware.error,
                "before": before,
                "with_data": float(right(apply(model, [aware.proposal]), held_out).mean()),
                "without_data": float(right(apply(model, [free.proposal]), held_out).mean()),
            }


def markdown(results: dict[str, Any]) -> str:
    lines = [
        f"{results['device']}, 1 thread. Top-1 on held-out images, in points lost; the smaller loss in bold.",
        "",
        "| model | layer | form | MACs x | region's speed-up | lost without data | lost with data |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        free, aware = (100 * (row["before"] - row[k]) for k in ("without_data", "with_data"))
        shown = [f"**{v:.2f}**" if v == min(free, aware) else f"{v:.2f}" for v in (free, aware)]
        speed = "not measured" if row["region_speedup"] is None else f"{row['region_speedup']:.2f}x"
        cells = (row["model"], row["layer"], row["form"], f"{row['macs']:.2f}", speed, *shown)
        lines.append("| " + " | ".join(cells) + " |")
    better = sum(r["with_data"] > r["without_data"] for r in results["rows"])
    worse = sum(r["with_data"] < r["without_data"] for r in results["rows"])
    return "\n".join(lines) + f"\n\nThe fit with data is better in {better}, worse in {worse} of {len(lines) - 4}.\n"


def svg(results: dict[str, Any]) -> str:
    """Points lost with data against without; below the line the data has helped."""
    with mpl.rc_context({"svg.hashsalt": "onnxtune", "font.size": 9}):
        drawing = Figure(figsize=(6, 5), layout="constrained")
        axes = drawing.subplots()
        for rule in sorted({r["rule"] for r in results["rows"]}):
            own = [r for r in results["rows"] if r["rule"] == rule]
            lost = [[100 * max(r["before"] - r[k], 0.01) for r in own] for k in ("without_data", "with_data")]
            axes.loglog(*lost, "o", markersize=4, label=rule)
        axes.plot([1, 80], [1, 80], color="#888888", linewidth=0.8)
        axes.set_xlabel("points of accuracy lost, fitted without data")
        axes.set_ylabel("points of accuracy lost, fitted with data")
        axes.legend()
        return text(drawing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/, data/ and manifest.json")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fit_accuracy.json"))
    parser.add_argument("--only", nargs="*", default=MODELS)
    given = parser.parse_args()
    results: dict[str, Any] = {"device": cpu_name(), "versions": versions(), "rows": []}
    for name in given.only:
        for row in rows(Shared(given.shared, given.output.parent), name, Target(threads=1)):
            results["rows"].append(row)
            print(markdown(results).splitlines()[-3], flush=True)
            given.output.write_text(json.dumps(results, indent=1))
    given.output.with_suffix(".md").write_text(markdown(results))
    given.output.with_suffix(".svg").write_text(svg(results))


if __name__ == "__main__":
    main()
