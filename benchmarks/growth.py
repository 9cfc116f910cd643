"""How `onnxtune optimize` grows with a network: seconds and memory for many nodes.

    python -m benchmarks.growth [--nodes 1000 3000 10000] [--models deep crowded wide] [--modes counted measured]
    python -m benchmarks.growth --rules [--nodes 750 1500 3000] [--megabytes 200]

Each row is a process of its own, which optimises one of `growth_models` from beginning to end, without measuring
(`counted`) or with it (`measured`, the usual time budget, no cache). Prints nodes, seconds of the processor, of which
in ONNX Runtime, peak of the resident memory, how many sessions were made, how many comparisons were timed and how many
rewrites were kept, and the exponent: the slope of log seconds over log nodes. Writes benchmarks/results/growth.json
and .md.

`--rules`: analysis and proposing alone. Seconds of the processor for Facts, `propose` and applying the first proposal
of each rule, and in a process of its own the peak of the resident memory against the model's bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.growth_models import MODELS
from onnxtune.apply import apply
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.model import Model, tensor_bytes, write_text
from onnxtune.proposal import Proposal
from onnxtune.propose import propose

CHANNELS = ("pad_channels", "remove_dead_channels", "merge_duplicate_channels")
GROUPS = ("channels", "all")
MODES = ("counted", "measured")
RESULTS = Path(__file__).parent / "results"


def network(nodes: int, widths: tuple[int, ...], size: int = 16) -> onnx.ModelProto:
    """Residual blocks (Conv, BatchNormalization, Relu, Conv, BatchNormalization, Add, Relu), every fourth with a
    Concat of a second branch, until there are `nodes` nodes. A few scales are 0, a few filters are doubled."""
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"w{len(weights)}"))
        return weights[-1].name

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        made.append(helper.make_node(op, inputs, [f"t{len(made)}"], **attributes))
        return made[-1].output[0]

    def conv(x: str, into: int, out: int, k: int) -> str:
        w = rng.standard_normal((out, into, k, k), np.float32) / np.float32(k * into**0.5)
        w[1 % out] = w[0]
        return add("Conv", x, constant(w), pads=[k // 2] * 4)

    def norm(x: str, c: int) -> str:
        scale = rng.uniform(0.5, 1.5, c)
        scale[rng.random(c) < 0.05] = 0
        parts = (scale, rng.standard_normal(c) * 0.1, rng.standard_normal(c) * 0.1, rng.uniform(0.5, 1.5, c))
        return add("BatchNormalization", x, *(constant(p) for p in parts))

    y, c = add("Relu", conv("x", 3, widths[0], 3)), widths[0]
    block = 0
    while len(made) < nodes - 3:
        inner = widths[block % len(widths)]
        a = add("Relu", norm(conv(y, c, inner, 3), inner))
        if block % 4 == 3:
            b = add("Relu", norm(conv(y, c, inner, 1), inner))
            a = add("Concat", a, b, axis=1)
        into = inner * (2 if block % 4 == 3 else 1)
        y = add("Relu", add("Add", y, norm(conv(a, into, c, 3), c)))
        block += 1
    y = add("Flatten", add("GlobalAveragePool", y))
    add("Gemm", y, constant(rng.standard_normal((c, 10))))
    x = helper.make_tensor_value_info("x", 1, ["N", 3, size, size])
    out = helper.make_tensor_value_info(made[-1].output[0], 1, ["N", 10])
    graph = helper.make_graph(made, "growth", [x], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def work(proto: onnx.ModelProto, group: str) -> tuple[float, int]:
    """Seconds of the processor for analysis, all proposals and one rewrite per rule; how many proposals there were."""
    rules = [r for r in catalog() if r.card.safety == "exact" and (group == "all" or r.name in CHANNELS)]
    model = Model(proto)
    start = time.process_time()
    facts = Facts(model, {"x": (1, *(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]))})
    found = [s for s in propose(facts, rules, {}) if isinstance(s, Proposal)]
    for proposal in {p.rule: p for p in reversed(found)}.values():
        Facts(apply(model, [proposal]), facts.sizes)
    return time.process_time() - start, len(found)


def peak(megabytes: int, group: str) -> tuple[int, int, int]:
    """Bytes of a model with that much weights, and of the largest resident memory above an idle process."""
    width = 512
    each = (width * width * 9 * 2) * 4 / 1e6  # one block of the network
    small = network(10, (8,))
    work(small, group)  # everything is imported and warm
    idle = _peak()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        build = multiprocessing.get_context("spawn").Process(target=_write, args=(path, megabytes, each, width))
        build.start()
        build.join()
        proto = onnx.load(path)
    built = _peak()
    work(proto, group)
    most = _peak()
    return tensor_bytes(Model(proto)), most - idle, built - idle


def _peak() -> int:
    """Largest resident memory of this process so far (Linux; ru_maxrss would hold that of the process before exec)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _write(path: Path, megabytes: int, each: float, width: int) -> None:
    onnx.save(network(round(megabytes / each) * 7 + 4, (width,), 8), path)


def whole(kind: str, nodes: int, measured: bool) -> dict[str, Any]:
    """One run of `optimize`, counted."""
    import onnxtune
    from onnxtune import runtime, trial

    proto = MODELS[kind](nodes)
    inside: Counter[str] = Counter()

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            inside[name] += 1
            start, outermost = time.process_time(), not inside["depth"]  # a comparison makes and runs sessions
            inside["depth"] += 1
            try:
                return work(*arguments, **named)
            finally:
                inside["depth"] -= 1
                if outermost:
                    inside["onnxruntime"] += time.process_time() - start  # type: ignore[assignment]

        return call

    created, run = counted("sessions", runtime.create), counted("runs", runtime.Session.run)
    start, began = time.process_time(), time.perf_counter()
    with (
        patch.object(runtime, "create", created),
        patch.object(runtime.Session, "run", run),
        patch.object(trial, "measure", counted("comparisons", trial.__dict__["measure"])),
    ):
        made = onnxtune.optimize(proto, providers="cpu", threads=1, measure=measured, plugins=False, cache=False)
    return {
        "model": kind, "mode": "measured" if measured else "counted", "nodes": len(proto.graph.node),
        "seconds": time.process_time() - start, "elapsed": time.perf_counter() - began,
        "onnxruntime": inside["onnxruntime"], "peak_mb": _peak() / 1e6, "sessions": inside["sessions"],
        "comparisons": inside["comparisons"], "kept": len(made.report.kept), "after": made.report.after.nodes,
        "status": made.report.status,
    }  # fmt: skip


def exponent(rows: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float]) -> float:
    """Slope of log(value) over log(nodes)."""
    x, y = (np.log([value(r) for r in rows]) for value in (lambda r: r["nodes"], of))
    return float(np.polyfit(x, y, 1)[0])


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown, an exponent for each model and mode."""
    text = ["# Growth with the number of nodes\n", f"{INTRODUCTION}\n"]
    for key in dict.fromkeys((r["model"], r["mode"]) for r in rows):
        own = [r for r in rows if (r["model"], r["mode"]) == key]
        text.append(f"## {key[0]}, {key[1]}\n")
        text.append(
            "| nodes | after | seconds | in ONNX Runtime | elapsed | peak MB | sessions | comparisons | kept | status |"
        )
        text.append("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|")
        text += [
            f"| {r['nodes']} | {r['after']} | {r['seconds']:.1f} | {r['onnxruntime']:.1f} | {r['elapsed']:.0f} "
            f"| {r['peak_mb']:.0f} | {r['sessions']} | {r['comparisons']} | {r['kept']} | {r['status']} |"
            for r in own
        ]
        if len(own) > 1:
            total, rest = (
                exponent(own, f) for f in (lambda r: r["seconds"], lambda r: r["seconds"] - r["onnxruntime"])
            )
            text.append(f"\nExponent of seconds {total:.2f}; without ONNX Runtime {rest:.2f}.\n")
    return "\n".join(text)


INTRODUCTION = """\
`python -m benchmarks.growth`: seconds of the processor of a whole `optimize` on the CPU provider with one thread, each
row in a process of its own. `counted`: without measuring (`--no-measure`); `measured`: with the usual time budget and
without a cache. `deep`: residual blocks, every third with something to rewrite; `crowded`: a rule fires at every third
node; `wide`: dozens to hundreds of equal branches of one tensor. `elapsed`: seconds on the clock; the machine was
shared with other work, which takes from the time budget, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 3000, 10000])
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--results", type=Path, default=RESULTS / "growth.json", help="rows there are kept")
    parser.add_argument("--rules", action="store_true", help="analysis and proposing alone")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        stored, most, built = peak(arguments.megabytes, arguments.peak)
        print(
            f"{arguments.peak}: {stored:,} bytes of weights; peak {most:,} bytes, {most / stored:.2f} times the model"
            f" (loaded: {built / stored:.2f})"
        )
    elif arguments.one:
        kind, nodes, mode = arguments.one
        print(json.dumps(whole(kind, int(nodes), mode == "measured")))
    elif arguments.rules:
        _rules(arguments.nodes, arguments.megabytes)
    else:
        _wholes(arguments)


def _wholes(arguments: argparse.Namespace) -> None:
    rows = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
    for mode, kind, nodes in itertools.product(arguments.modes, arguments.models, arguments.nodes):
        command = [sys.executable, "-m", "benchmarks.growth", "--one", kind, str(nodes), mode]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = {**json.loads(done.stdout.splitlines()[-1]), "asked": nodes}
        print(json.dumps(row), flush=True)
        same = [r for r in rows if (r["mode"], r["model"], r["asked"]) == (mode, kind, nodes)]
        rows = [*(r for r in rows if r not in same), row]
        rows.sort(key=lambda r: (MODES.index(r["mode"]), list(MODELS).index(r["model"]), r["asked"]))
        write_text(arguments.results, json.dumps(rows, indent=1) + "\n")
        write_text(arguments.results.with_suffix(".md"), tables(rows))
    print(tables(rows))


def _rules(nodes: Sequence[int], megabytes: int) -> None:
    for group in GROUPS:
        for number in nodes:
            proto = network(number, (13, 16, 27, 32))
            seconds, proposals = work(proto, group)
            print(f"{group}: {len(proto.graph.node)} nodes, {seconds:.2f} s, {proposals} proposals", flush=True)
        command = [sys.executable, "-m", "benchmarks.growth", "--peak", group, "--megabytes", str(megabytes)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
