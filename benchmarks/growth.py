"""How analysis and rewriting grow with a network: time for many nodes, memory for many weights.

    python -m benchmarks.growth [--nodes 3000] [--megabytes 200]

Prints for each group of rules the number of nodes, the seconds of the processor for Facts, `propose` and applying
the first proposal of each rule, and in a process of its own the peak of the resident memory against the model's bytes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.apply import apply
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.model import Model, tensor_bytes
from onnxtune.proposal import Proposal
from onnxtune.propose import propose

CHANNELS = ("pad_channels", "remove_dead_channels", "merge_duplicate_channels")
GROUPS = ("channels", "all")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[750, 1500, 3000])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        stored, most, built = peak(arguments.megabytes, arguments.peak)
        print(
            f"{arguments.peak}: {stored:,} bytes of weights; peak {most:,} bytes, {most / stored:.2f} times the model"
            f" (loaded: {built / stored:.2f})"
        )
        return
    for group in GROUPS:
        for nodes in arguments.nodes:
            proto = network(nodes, (13, 16, 27, 32))
            seconds, proposals = work(proto, group)
            print(f"{group}: {len(proto.graph.node)} nodes, {seconds:.2f} s, {proposals} proposals", flush=True)
        command = [sys.executable, "-m", "benchmarks.growth", "--peak", group, "--megabytes", str(arguments.megabytes)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
