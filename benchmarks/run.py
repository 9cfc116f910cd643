"""How fast are models after onnxtune, next to what people would use instead, on this machine, in one run?

    python -m benchmarks.run [--shared FOLDER] [--only MODEL ...] [--within BUDGET ...] [--batch 1 --threads 1]
                             [--output FILE.json]

Models: the classic architectures that the onnx package ships (seeded weights), architectures built in code, the demo
network and, with --shared, trained models with data. Contenders: the original under ORT_ENABLE_ALL, onnxsim, onnxslim
and onnxoptimizer where installed, onnxtune exact, and where there is data onnxtune calibrated at two budgets. Each
works in a process of its own, whose time and peak memory are kept. Then all are measured in the same rounds by
`onnxtune.benchmark`. Results go to FILE.json (all samples), beside it a table (.md) and a figure (.svg); models that
are in FILE.json already are left alone unless named with --only. --within 1%: of the calibrated ones, which take
most of the time, those at this budget; --within alone: none. --threads 0: all of the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxtune
from benchmarks.suite import figure, table
from benchmarks.suite.architectures import ARCHITECTURES
from benchmarks.suite.classics import CLASSICS, classic
from benchmarks.suite.contenders import Contender, Made, installed, make
from benchmarks.suite.trained import BUDGETS, CALIBRATED, LARGE, Shared
from onnxtune.bench.machine import machine
from onnxtune.bench.report import Failed, Measured
from onnxtune.comparison import Comparison, compare
from onnxtune.demo import model_path
from onnxtune.feeds import random_feeds
from onnxtune.model import load
from onnxtune.runtime import Session, Target, resolve
from onnxtune.sizes import bind

ORIGINAL = "original"


@dataclass(frozen=True)
class Subject:
    """A model of the suite; `kind`: classic, built, trained or demo."""

    name: str
    kind: str
    write: Callable[[Path], None]


def subjects(shared: Shared | None) -> Iterator[Subject]:
    for name in CLASSICS:
        yield Subject(name, "classic", lambda path, name=name: onnx.save(classic(name), path))  # type: ignore[misc]
    for name, build in ARCHITECTURES.items():
        yield Subject(name, "built", lambda path, build=build: onnx.save(build(), path))  # type: ignore[misc]
    yield Subject("digits", "demo", lambda path: onnx.save(onnx.load(model_path()), path))
    for model in [] if shared is None else shared.models():
        yield Subject(model.stem, "trained", lambda path, model=model: onnx.save(onnx.load(model), path))  # type: ignore[misc]


def contenders(
    name: str, shapes: dict[str, Any], threads: int, shared: Shared | None, within: Sequence[str] | None = None
) -> list[Contender]:
    own = {"threads": threads, "input_shapes": shapes}
    found = [*installed(), Contender("onnxtune exact", {**own, "exact_only": True})]
    if shared is not None and name in CALIBRATED:
        budgets = BUDGETS[shared.metric(name) or "top1"]
        for budget in budgets if within is None else [b for b in budgets if b in within]:
            suffix = "" if budget.endswith("%") else " dB"
            settings = {**own, **shared.settings(name, budget)}
            found.append(Contender(f"onnxtune within {budget}{suffix}", settings))
    return found


def measured(
    subject: Subject,
    batch: int,
    threads: int,
    shared: Shared | None,
    folder: Path,
    within: Sequence[str] | None = None,
) -> dict[str, Any]:
    """One model through all contenders, as plain data with all samples."""
    path = folder / "original.onnx"
    subject.write(path)
    original = load(path)
    sizes = dict(bind(original).sizes)
    shapes = _at_batch(original.proto, sizes, batch) if batch > 1 else {}
    if shapes is None:
        return {"model": subject.name, "kind": subject.kind, "skipped": "its batch is fixed"}
    sizes.update(shapes)
    made = {}
    for contender in contenders(subject.name, shapes, threads, shared, within):
        made[contender.name] = make(contender, path, folder / f"{contender.name}.onnx")
    target = Target(threads=threads)
    feeds = random_feeds(original, sizes)
    expected = Session(original, target, "disable").run(feeds)
    files, errors = {ORIGINAL: path}, {ORIGINAL: 0.0}
    failures = {name: m.failure for name, m in made.items() if m.failure}
    for name, m in made.items():
        if not m.failure:
            try:
                errors[name] = _error(expected, Session(load(m.path), target).run(feeds))
            except onnxtune.OnnxtuneError as error:
                failures[name] = str(error)
                continue
            files[name] = m.path
    report = onnxtune.benchmark(
        [str(f) for f in files.values()], providers="cpu", threads=threads, input_shapes=shapes, memory=False
    )
    rows = [_measured(r) for r in report.cases[0].rows]
    results = dict(zip(files, rows, strict=True))
    tables = {name: _entry(results, name, made.get(name), errors[name]) for name in files}
    if shared is not None and shared.metric(subject.name):
        for name, file in files.items():
            tables[name]["score"] = shared.score(subject.name, file)
    return {
        "model": subject.name,
        "kind": subject.kind,
        "large": subject.name in LARGE,
        "metric": None if shared is None else shared.metric(subject.name),
        "contenders": tables,
        "failures": failures,
        "against_best_peer": _against_peers(results),
        "warnings": [type(c).__name__ for c in report.cases[0].caveats],
    }


def _measured(row: Measured | Failed) -> Measured:
    if isinstance(row, Failed):
        raise RuntimeError(f"{row.model}: {row.reason}")
    return row


def _entry(results: dict[str, Measured], name: str, made: Made | None, error: float) -> dict[str, Any]:
    row = results[name]
    versus = _compare(results[ORIGINAL], row)
    return {
        "median": row.summary.median,
        **_ratio(versus),
        "error": error,
        "made": None if made is None else dict(made.facts),
        "samples": row.kept.tolist(),
    }


def _against_peers(results: dict[str, Measured]) -> dict[str, Any]:
    """onnxtune exact against the fastest of the others."""
    peers = [n for n in results if not n.startswith("onnxtune")]
    best = min(peers, key=lambda n: results[n].summary.median)
    return {"peer": best, **_ratio(_compare(results[best], results["onnxtune exact"]))}


def _compare(first: Measured, second: Measured) -> Comparison:
    return compare(first.samples, second.samples, seed=0)


def _ratio(c: Comparison) -> dict[str, Any]:
    return {"speedup": c.speedup, "low": c.low, "high": c.high, "noise": c.noise, "verdict": c.verdict}


def _at_batch(proto: onnx.ModelProto, sizes: dict[str, tuple[int, ...]], batch: int) -> dict[str, Any] | None:
    """Shapes of the inputs at this batch; None where the model fixes another one."""
    weights = {i.name for i in proto.graph.initializer}
    found = {}
    for value in proto.graph.input:
        if value.name in weights:
            continue
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            return None
        found[value.name] = (batch, *sizes[value.name][1:])
    return found


def _error(expected: dict[str, Any], got: dict[str, Any]) -> float:
    """Largest difference relative to the largest magnitude of the output, over all outputs."""
    worst = 0.0
    for name, want in expected.items():
        scale = float(np.max(np.abs(want), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(want.astype(np.float64) - got[name]), initial=0.0)) / scale)
    return worst


def write(results: dict[str, Any], output: Path) -> None:
    output.write_text(json.dumps(results))
    output.with_suffix(".md").write_text(table.markdown(results))
    output.with_suffix(".svg").write_text(figure.svg(results))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with trained models and their data")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--within", nargs="*", help="calibrated contenders at these budgets only; none: at no budget")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/suite.json"))
    given = parser.parse_args(arguments)
    facts = machine(resolve("cpu", threads=given.threads))
    results: dict[str, Any] = {"machine": facts, "batch": given.batch, "threads": given.threads, "models": []}
    if given.output.exists():
        before = json.loads(given.output.read_text())
        same = before["machine"]["key"] == facts["key"] and (before["batch"], before["threads"]) == (
            given.batch,
            given.threads,
        )
        if not same:
            parser.error(f"{given.output} is of another machine or setting; choose another file")
        results["models"] = before["models"]
    with tempfile.TemporaryDirectory() as scratch:
        shared = Shared(given.shared, Path(scratch)) if given.shared else None
        done = {m["model"] for m in results["models"]}
        for subject in subjects(shared):
            if subject.name not in given.only if given.only else subject.name in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                row = measured(subject, given.batch, given.threads, shared, Path(folder), given.within)
            results["models"] = [*(m for m in results["models"] if m["model"] != subject.name), row]
            write(results, given.output)
            print(table.line(row), flush=True)
    write(results, given.output)
    print(table.summary(results))


if __name__ == "__main__":
    main()
