"""Smaller heads, form by form: what each one gains, and what it costs on samples that it has never seen.

    python -m benchmarks.heads [--shared FOLDER] [--only MODEL ...] [--form FORM ...] [--large] [--seconds N]
                               [--output benchmarks/results/heads.json]

For every model and form, one cell: `onnxtune optimize --only replace_fc_head --head FORM --max-drop 1%` in a process of
its own (exit code, what it said, time, memory), and of what was written the parameters of the head, its time alone and
the model's, each against the original's in the same rounds, and the loss on held-out samples. `forced` is gap once
more, with --force-rules. Models: the demo network and, with --shared, trained ones with data.

--large: VGG-19 and AlexNet (seeded weights) with 128 random images and the agreement metric, on two threads. Their
losses mean nothing, so the budgets are wide; what is measured is time and memory of the search, and the head's time.

Cells that are in the file already are left alone unless --only names their model; --seconds: after that long no new
one is begun. Beside FILE.json a table is written, FILE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.utils import Extractor

import onnxtune
from benchmarks.suite.classics import classic
from benchmarks.suite.trained import Shared
from onnxtune.bench.machine import machine
from onnxtune.bench.report import Failed
from onnxtune.bench.resident import field as field_of
from onnxtune.comparison import compare
from onnxtune.demo import FOLDER, model_path
from onnxtune.facts import Facts
from onnxtune.fully_connected import FullyConnected, fully_connected
from onnxtune.model import Model, load
from onnxtune.runtime import resolve
from onnxtune.sizes import bind

RULE = "replace_fc_head"
FORMS = ("auto", "gap", "pyramid", "maps", "low_rank", "forced")
TRAINED = ("own_alex11_cifar10", "caffe_lenet_mnist", "own_lenet5_cifar10")
LARGE = {"vgg19": "60%", "bvlc_alexnet": "80%"}
"""Models with random weights, and the agreement that they may lose."""
IMAGES = 128
DEMO = "digits"
COSTS = ("wall, s", "cpu, s", "peak, GB")
LEGEND = (
    "Speed-up: median latency of the original over the result's, 99 % interval; head: from the first fully connected"
    " layer's input on. Loss (gate): of the metric on calibration samples that the fit has not seen, and its upper"
    " bound; (held out): on 2000 other samples. `forced`: gap with --force-rules. Exit code 1: nothing was written."
)


@dataclass(frozen=True)
class Cell:
    """One run: `model` and `form` name it, `path` and `flags` are what the command line gets."""

    model: str
    form: str
    path: Path
    flags: tuple[str, ...]
    threads: tuple[int, ...] = (1,)
    """At which the head is timed; the search has the last of them."""

    @property
    def name(self) -> str:
        return f"{self.model} {self.form}"


@dataclass(frozen=True)
class Ran:
    """How a command ended: exit code, last line of its errors, wall and processor seconds, peak memory in bytes."""

    code: int
    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def cells(shared: Shared | None, *, large: bool, scratch: Path) -> Iterator[Cell]:
    demo = ("--calibration-data", str(FOLDER / "digits.npz"), "--scale", "1/255", "--max-drop", "1%")
    trained = (
        [] if shared is None else [(n, shared.folder / "models" / f"{n}.onnx", _flags(shared, n)) for n in TRAINED]
    )
    for name, path, flags in [*trained, (DEMO, model_path(), demo)]:
        for form in FORMS:
            asked = ("--head", "gap", "--force-rules", RULE) if form == "forced" else ("--head", form)
            yield Cell(name, form, path, (*flags, *asked))
    for name, drop in LARGE.items() if large else ():
        flags = ("--metric", "agreement", "--max-drop", drop, "--head", "low_rank", "--no-cache")
        yield Cell(name, "low_rank", *_random(name, scratch, flags), threads=(1, 2))


def _flags(shared: Shared, name: str) -> tuple[str, ...]:
    settings = shared.settings(name, "1%")
    preprocess = [(f"--{key}", value) for key, value in settings["preprocess"].items()]
    pairs = [("--calibration-data", settings["calibration_data"]), ("--max-drop", settings["max_drop"]), *preprocess]
    return tuple(word for pair in pairs for word in pair)


def _random(name: str, scratch: Path, flags: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """The model with seeded weights and random images, as files."""
    path, data = scratch / f"{name}.onnx", scratch / f"{name}.npz"
    if not path.exists():
        proto = classic(name)
        fed = proto.graph.input[0]
        shape = [d.dim_value for d in fed.type.tensor_type.shape.dim][1:]
        images = np.random.default_rng(0).standard_normal((IMAGES, *shape), dtype=np.float32)
        np.savez(data, allow_pickle=False, **{fed.name: images})
        onnx.save(proto, path)
    return path, ("--calibration-data", str(data), *flags)


def ran(words: Sequence[str]) -> Ran:
    """The command to its end, in a process of its own; its peak is that of it and its children together, as seen every
    tenth of a second. (What `wait4` says of memory is not its own: a process inherits the peak of its parent.)"""
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            peak = max(peak, _resident(process.pid))
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().strip().splitlines() or [""]
    seconds = {"wall": time.perf_counter() - start, "cpu": usage.ru_utime + usage.ru_stime}
    return Ran(process.returncode, said[-1], {**seconds, "peak": peak or None})


def _resident(pid: int) -> int:
    """Bytes that a process and its descendants hold, by Linux's /proc; 0 where that does not tell."""
    folder = Path("/proc", str(pid))
    try:
        own = field_of((folder / "status").read_text(), "VmRSS") or 0
        children = (folder / "task" / str(pid) / "children").read_text().split()
    except OSError:  # it ended meanwhile
        return 0
    return own + sum(_resident(int(child)) for child in children)


def entrance(model: Model) -> str:
    """The tensor that enters the first fully connected layer: where the head begins."""
    facts = Facts(model, bind(model).sizes)
    layers = (fully_connected(facts, node) for node in facts.nodes)
    return next(layer.x for layer in layers if isinstance(layer, FullyConnected))


def head(source: Path, tensor: str, path: Path) -> int:
    """Write the part of a model from this tensor on; returns how many parameters it has."""
    full = onnx.shape_inference.infer_shapes(onnx.load(source))
    part = Extractor(full).extract_model([tensor], [o.name for o in full.graph.output])
    onnx.save(part, path)
    read = {i for node in part.graph.node for i in node.input}
    return sum(int(np.prod(w.dims)) for w in part.graph.initializer if w.name in read and len(w.dims) > 0)


def compared(before: Path, after: Path, threads: int) -> dict[str, Any]:
    """How many times faster the second is, at batch 1, in rounds that take turns."""
    report = onnxtune.benchmark([str(before), str(after)], providers="cpu", threads=threads, memory=False)
    rows = [r for r in report.cases[0].rows if not isinstance(r, Failed)]
    if len(rows) != 2:
        raise RuntimeError(f"{after}: {'; '.join(r.reason for r in report.cases[0].rows if isinstance(r, Failed))}")
    c = compare(rows[0].samples, rows[1].samples, seed=0)
    times = {"before": rows[0].summary.median, "after": rows[1].summary.median}
    return {**times, "speedup": c.speedup, "low": c.low, "high": c.high}


def measured(cell: Cell, shared: Shared | None, scratch: Path) -> dict[str, Any]:
    """One cell as plain data."""
    out, report = scratch / "out.onnx", scratch / "report.json"
    for old in (out, report):
        old.unlink(missing_ok=True)
    words = [sys.executable, "-m", "onnxtune", "optimize", str(cell.path), "-o", str(out), *cell.flags]
    words += ["--only", RULE, "--threads", str(cell.threads[-1]), "--json", str(report)]
    done = ran(words)
    said = done.said.replace(f"{cell.path}: ", "")
    row = {"model": cell.model, "form": cell.form, "code": done.code, "said": said, **done.facts}
    if report.exists():
        calibration = json.loads(report.read_text()).get("calibration") or {}
        row["gate"] = calibration.get("gate")
        row["budget"] = calibration.get("budget")
    if not out.exists():
        return row
    tensor = entrance(load(cell.path))
    parts = scratch / "head_before.onnx", scratch / "head_after.onnx"
    sizes = [head(m, tensor, p) for m, p in zip((cell.path, out), parts, strict=True)]
    row |= {"parameters": sizes, "bytes": [cell.path.stat().st_size, out.stat().st_size]}
    row["head"] = {str(t): compared(*parts, t) for t in cell.threads}
    row["whole"] = compared(cell.path, out, cell.threads[-1])
    if shared is not None and cell.model in TRAINED:
        row["held_out"] = [shared.score(cell.model, p) for p in (cell.path, out)]
    return row


def markdown(results: Mapping[str, Any]) -> str:
    """The table: one line for each cell."""
    facts = results["machine"]
    on = f"{facts['cpu']['model']}, ONNX Runtime {facts['versions']['onnxruntime']}, batch 1"
    head = ("model", "form", "exit", "loss (gate)", "loss (held out)", "head parameters", "head", "model", *COSTS)
    lines = [f"{on}. {LEGEND}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(_line(row) for row in results["cells"])]) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    gate, held, sizes = row.get("gate"), row.get("held_out"), row.get("parameters")
    lost = "" if gate is None else f"{100 * gate['estimate']:.2f} % (< {100 * gate['bound']:.2f})"
    true = "" if held is None else f"{100 * (held[0] - held[1]):.2f} %"
    kept = sizes is not None and sizes[0] == sizes[1]
    less = (
        ""
        if sizes is None
        else "original kept"
        if kept
        else f"{sizes[0]:,} -> {sizes[1]:,} ({sizes[0] / sizes[1]:.1f}x)"
    )
    own = ", ".join(_shown(c) + (f" ({t} threads)" if t != "1" else "") for t, c in row.get("head", {}).items())
    whole = _shown(row["whole"]) if "whole" in row else ""
    peak = "" if row["peak"] is None else f"{row['peak'] / 1e9:.2f}"
    costs = f"{row['wall']:.0f} | {row['cpu']:.0f} | {peak}"
    return f"| {row['model']} | {row['form']} | {row['code']} | {lost} | {true} | {less} | {own} | {whole} | {costs} |"


def _shown(c: Mapping[str, float]) -> str:
    return f"{c['speedup']:.2f}x [{c['low']:.2f}, {c['high']:.2f}]"


def merged(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """With this cell in place of an older one of its name, in a fixed order."""
    order = {n: i for i, n in enumerate((*TRAINED, DEMO, *LARGE))}
    others = [r for r in rows if (r["model"], r["form"]) != (row["model"], row["form"])]
    return sorted([*others, row], key=lambda r: (order[r["model"]], FORMS.index(r["form"])))


def write(results: Mapping[str, Any], output: Path) -> None:
    output.write_text(json.dumps(results, indent=1) + "\n")
    output.with_suffix(".md").write_text(markdown(results))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with trained models and their data")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--form", nargs="*", default=[])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/heads.json"))
    given = parser.parse_args(arguments)
    facts = machine(resolve("cpu", threads=1))
    results: dict[str, Any] = {"machine": facts, "cells": []}
    if given.output.exists():
        before = json.loads(given.output.read_text())
        if before["machine"]["key"] != facts["key"]:
            parser.error(f"{given.output} is of another machine; choose another file")
        results["cells"] = before["cells"]
    stop = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shared = Shared(given.shared.resolve(), scratch) if given.shared else None
        done = {f"{r['model']} {r['form']}" for r in results["cells"]}
        for cell in cells(shared, large=given.large, scratch=scratch):
            wanted = cell.model in given.only if given.only else cell.name not in done
            if not wanted or (given.form and cell.form not in given.form) or time.monotonic() > stop:
                continue
            row = measured(cell, shared, scratch)
            results["cells"] = merged(results["cells"], row)
            write(results, given.output)
            print(_line(row), row["said"] if row["code"] else "", flush=True)


if __name__ == "__main__":
    main()
