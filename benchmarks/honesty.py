"""Is the accuracy estimate honest? The same calibration with many seeds, judged on samples it has never seen.

    python -m benchmarks.honesty MODEL.onnx --calibration-data C.npz --held-out H.npz --max-drop 1% --seeds 20
        [--pooled] [--preprocess scale=1,mean=...;std=...] [--output benchmarks/results/honesty.json]

Prints for every seed the estimate and bound that the gate gave and the true loss of top-1 on the held-out samples
(with labels) with its standard error, and how often the true loss exceeds the budget: at most one in 20 is wanted.

A loss on some thousand samples is itself a sample, with an error larger than the gate's, and all seeds share it. So
bounds that are right do not hold for it at their confidence. What must is the *prediction* bound: the estimate, and
the quantile of the gate's error and the held-out samples' together. `--pooled` shuffles both sets of samples
together for each seed and cuts them again, so that calibration and judge see samples of one kind (networks know the
images that they were trained on better), and each seed is judged on others.

Levels are chosen by time, so the set may differ from seed to seed; measurements are cached between seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onnxtune
from onnxtune.accuracy import normal_quantile, parse_budget
from onnxtune.calibrate.dataset import Dataset, open_dataset
from onnxtune.calibrate.preprocess import parse
from onnxtune.devices import cpu_name
from onnxtune.model import Model, load
from onnxtune.runtime import Session, Target, versions

BATCH = 50
CONFIDENCE = 0.9


def right(model: Model, data: Dataset) -> NDArray[np.float64]:
    """(n,) 1 where the first output's largest value is the label's, else 0."""
    session, found = Session(model, Target(threads=1)), np.zeros(data.count)
    assert data.labels is not None, "held-out samples need labels"
    for indices, feeds, count in data.batches(np.arange(data.count), BATCH):
        output = next(iter(session.run(feeds).values()))[:count]
        found[indices] = output.reshape(count, -1).argmax(axis=1) == data.labels[indices]
    return found


def shuffled(first: Path, second: Path, seed: int, folder: Path) -> tuple[Path, Path]:
    """The samples of two NPZ of the same arrays, shuffled together and cut again, in files in `folder`."""
    with np.load(first) as one, np.load(second) as other:
        count, arrays = len(next(iter(one.values()))), {k: np.concatenate([one[k], other[k]]) for k in one.files}
    order = np.random.default_rng(seed).permutation(len(next(iter(arrays.values()))))
    written = folder / "calibration.npz", folder / "held_out.npz"
    for path, chosen in zip(written, (order[:count], order[count:]), strict=True):
        np.savez(path, allow_pickle=False, **{k: v[chosen] for k, v in arrays.items()})
    return written


def judged(gate: dict[str, Any] | None, lost: NDArray[np.float64], confidence: float) -> dict[str, Any]:
    """What the gate said of a set and what the held-out samples say: `lost` (n,) of 1, 0, -1."""
    drop, error = float(lost.mean()), float(lost.std(ddof=1)) / math.sqrt(len(lost))
    if gate is None:
        return {"estimate": None, "bound": None, "sure": None, "predicted": None, "true_drop": drop, "error": error}
    own = (gate["bound"] - gate["estimate"]) / normal_quantile(gate["confidence"])
    predicted = gate["estimate"] + normal_quantile(confidence) * math.hypot(own, error)
    said = {"estimate": gate["estimate"], "bound": gate["bound"], "sure": gate["confidence"], "predicted": predicted}
    return {**said, "true_drop": drop, "error": error}


def told(rows: Sequence[dict[str, Any]], budget: float, confidence: float) -> str:
    """The sentence at the end."""
    over = sum(row["true_drop"] > budget for row in rows)
    known = [row for row in rows if row["bound"] is not None]
    held, foreseen = (sum(r["true_drop"] <= r[k] for r in known) for k in ("bound", "predicted"))
    bias = float(np.mean([r["true_drop"] - r["estimate"] for r in known])) if known else 0.0
    return (
        f"{over} of {len(rows)} over the budget; the drop is within the gate's bound in {held} of {len(known)}, within"
        f" the prediction bound at {confidence:.0%} in {foreseen}; mean drop less estimate {bias:+.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration-data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--preprocess", default="", help="key=value;key=value as on onnxtune's command line")
    parser.add_argument("--max-drop", default="1%")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--pooled", action="store_true", help="shuffle both sets of samples together for each seed")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    table = dict(pair.split("=", 1) for pair in arguments.preprocess.split(";") if pair)
    budget, model = parse_budget(arguments.max_drop, "top1"), load(arguments.model)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            data, rest = arguments.calibration_data, arguments.held_out
            if arguments.pooled:
                data, rest = shuffled(data, rest, seed, folder)
            start = time.perf_counter()
            result = onnxtune.optimize(
                arguments.model,
                providers="cpu",
                threads=1,
                calibration_data=str(data),
                preprocess=table,
                max_drop=arguments.max_drop,
                confidence=CONFIDENCE,
                seed=seed,
                cache=folder / "measurements.sqlite",
            )
            seconds = time.perf_counter() - start
            with open_dataset(str(rest), model, preprocess=parse(table)) as held_out:
                lost = right(model, held_out) - right(Model(result.model), held_out)
            row = judged((result.report.calibration or {}).get("gate"), lost, CONFIDENCE)
            rows.append({"seed": seed, "speedup": result.report.speedup, **row, "seconds": seconds})
            drop = f"true drop {row['true_drop']:.4f} +- {row['error']:.4f}"
            said = f"estimate {row['estimate']}, bound {row['bound']} at {row['sure']}"
            print(f"seed {seed}: {result.report.speedup or 1:.2f}x, {said}, {drop}, {seconds:.0f} s", flush=True)
            if arguments.output:
                facts = {"device": cpu_name(), "versions": versions(), "model": arguments.model.name}
                facts |= {"budget": budget, "samples": len(lost), "pooled": arguments.pooled}
                facts["over"] = sum(row["true_drop"] > budget for row in rows)
                arguments.output.write_text(json.dumps({**facts, "seeds": rows}))
    print(told(rows, budget, CONFIDENCE))


if __name__ == "__main__":
    main()
