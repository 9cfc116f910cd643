"""Is the accuracy estimate honest? The same calibration with many seeds, judged on samples it has never seen.

    python -m benchmarks.honesty MODEL.onnx --calibration-data C.npz --held-out H.npz --max-drop 1% --seeds 20
        [--preprocess scale=1,mean=...;std=...] [--output benchmarks/results/honesty.json]

Prints for every seed the bound that the gate gave and the true loss of top-1 on the held-out samples (with labels),
and how often the true loss exceeds the budget: at most one in 20 is wanted. Levels are chosen by time, so the set may
differ from seed to seed; measurements are cached between seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import onnxtune
from onnxtune.accuracy import parse_budget
from onnxtune.calibrate.dataset import Dataset, open_dataset
from onnxtune.calibrate.preprocess import parse
from onnxtune.devices import cpu_name
from onnxtune.model import Model, load
from onnxtune.runtime import Session, Target, versions

BATCH = 50


def top1(model: Model, data: Dataset) -> float:
    """Share of samples whose first output's largest value is the label's."""
    session, right = Session(model, Target(threads=1)), 0
    assert data.labels is not None, "held-out samples need labels"
    for indices, feeds, count in data.batches(np.arange(data.count), BATCH):
        output = next(iter(session.run(feeds).values()))[:count]
        right += int((output.reshape(count, -1).argmax(axis=1) == data.labels[indices]).sum())
    return right / data.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration-data", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--preprocess", default="", help="key=value;key=value as on onnxtune's command line")
    parser.add_argument("--max-drop", default="1%")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    table = dict(pair.split("=", 1) for pair in arguments.preprocess.split(";") if pair)
    budget, model = parse_budget(arguments.max_drop, "top1"), load(arguments.model)
    rows: list[dict[str, Any]] = []
    with (
        open_dataset(arguments.held_out, model, preprocess=parse(table)) as held_out,
        tempfile.TemporaryDirectory() as folder,
    ):
        before = top1(model, held_out)
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            result = onnxtune.optimize(
                arguments.model,
                providers="cpu",
                threads=1,
                calibration_data=arguments.calibration_data,
                preprocess=table,
                max_drop=arguments.max_drop,
                seed=seed,
                cache=Path(folder) / "measurements.sqlite",
            )
            found = (result.report.calibration or {}).get("gate")
            drop = before - top1(Model(result.model), held_out)
            bound = None if found is None else found["bound"]
            rows.append({"seed": seed, "speedup": result.report.speedup, "bound": bound, "true_drop": drop})
            print(f"seed {seed}: {result.report.speedup or 1:.2f}x, bound {bound}, true drop {drop:.4f}", flush=True)
    over = sum(row["true_drop"] > budget for row in rows)
    print(f"{over} of {len(rows)} over the budget of {arguments.max_drop}")
    if arguments.output:
        facts = {"device": cpu_name(), "versions": versions(), "model": arguments.model.name, "budget": budget}
        arguments.output.write_text(json.dumps({**facts, "samples": held_out.count, "over": over, "seeds": rows}))


if __name__ == "__main__":
    main()
