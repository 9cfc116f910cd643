"""Models that are large: more than 2 GiB of weights, thousands of nodes.

    python tests/robustness/scale.py weights [--megabytes 3000]
    python tests/robustness/scale.py nodes [--nodes 1000 3000 10000]
    python tests/robustness/scale.py deep [--nodes 10000]

weights: a wide convolutional net whose weights lie in a file beside it goes through `onnxtune optimize` with a rule
forced; prints the peak of the resident memory against the weights, and checks that the result names its own data
file by a relative path, and computes the same.
nodes: seconds of the processor for Facts, all proposals and one rewrite of each rule (`benchmarks.growth`).
deep: a chain of so many nodes, and bodies of If in each other, through the whole of `optimize` without measuring.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 1024
RULES = "replace_lrn"


def write_wide(path: Path, megabytes: int) -> int:
    """Convolutions of WIDTH channels (37.7 MB each) until the weights have that size; returns their bytes."""
    each = WIDTH * WIDTH * 9 * 4
    layers = max(1, round(megabytes * 1e6 / each))
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["t0"], pads=[1] * 4),
        helper.make_node("LRN", ["t0"], ["n0"], size=5),
    ]
    first = rng.standard_normal((WIDTH, 3, 3, 3)).astype(np.float32) / 5
    weights = [onnx.numpy_helper.from_array(first, "first")]
    name, data = "n0", path.with_name(path.name + ".weights")
    with data.open("wb") as stream:
        for i in range(layers):
            block = rng.standard_normal((WIDTH // 16, WIDTH, 3, 3)).astype(np.float32) * np.float32(
                1 / (9 * WIDTH) ** 0.5
            )
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH, 3, 3])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", stream.tell()), ("length", each)):
                tensor.external_data.add(key=key, value=str(value))
            for shift in range(16):
                stream.write(np.roll(block, shift, 1).tobytes())
            weights.append(tensor)
            nodes += [
                helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], pads=[1] * 4),
                helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
            ]
            name = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    x = helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", 1, [1, WIDTH, 1, 1])
    graph = helper.make_graph(nodes, "wide", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return layers * each + first.nbytes


CHILD = """
import sys, threading, time
from pathlib import Path
import onnxtune.model, onnxtune.runtime
limit = int(sys.argv[3])
if limit:  # the path of models above what one protobuf message holds, on a small one
    onnxtune.model.MAPPED_ABOVE = onnxtune.runtime.IN_MEMORY = limit
def held(name):
    return int(next(x for x in Path('/proc/self/status').read_text().splitlines() if x.startswith(name)).split()[1]) * 1024
import onnxtune.api
idle = held('VmRSS')
result = onnxtune.optimize(sys.argv[1], providers='cpu', threads=1, plugins=False, cache=False, exact_only=True,
    only=['replace_lrn'], force_rules=['replace_lrn'], time_budget=float(sys.argv[4]))
result.save(sys.argv[2])
print(held('VmHWM'), idle, dict(result.report.counts()))
"""


def large(folder: Path, megabytes: int, limit: int = 0, budget: float = 0.0) -> tuple[int, int, list[str]]:
    """(bytes of weights, peak of the resident memory, what is wrong with the result)."""
    path, out = folder / "wide.onnx", folder / "out" / "result.onnx"
    out.parent.mkdir()
    stored = write_wide(path, megabytes)
    command = [sys.executable, "-c", CHILD, str(path), str(out), str(limit), str(budget)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return stored, 0, [done.stderr[-2000:]]
    peak = int(done.stdout.split()[0])
    wrong = []
    if "replace_lrn" not in done.stdout:
        wrong.append(f"the rewrite is not there: {done.stdout}")
    bare = onnx.load(out, load_external_data=False)
    places = {e.value for t in bare.graph.initializer for e in t.external_data if e.key == "location"}
    if places != {"result.onnx.data"}:
        wrong.append(f"its data is said to lie at {places}")
    if sorted(p.name for p in out.parent.iterdir()) != ["result.onnx", "result.onnx.data"]:
        wrong.append(f"left behind: {[p.name for p in out.parent.iterdir()]}")
    moved = folder / "moved"
    out.parent.rename(moved)  # a relative name survives that
    values = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    want, have = (_run(p, values) for p in (path, moved / "result.onnx"))
    difference = float(np.max(np.abs(want - have)) / np.max(np.abs(want)))
    if not difference < 1e-4:
        wrong.append(f"it differs by {difference:.2g}")
    return stored, peak, wrong


def _run(path: Path, values: np.ndarray) -> np.ndarray:
    import onnxruntime

    return np.asarray(
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": values})[0]
    )


def chain(nodes: int) -> onnx.ModelProto:
    """Sigmoid, Tanh, Sigmoid, ...: each node reads the one before, and no rule has anything to say."""
    made = [helper.make_node(("Sigmoid", "Tanh")[i % 2], [f"t{i}"], [f"t{i + 1}"]) for i in range(nodes)]
    x = helper.make_tensor_value_info("t0", 1, ["N", 4])
    y = helper.make_tensor_value_info(f"t{nodes}", 1, ["N", 4])
    graph = helper.make_graph(made, "chain", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def nested(depth: int) -> onnx.ModelProto:
    """If in If in If; a file can hold about 30 (protobuf reads 100 messages in each other)."""
    x = helper.make_tensor_value_info("x", 1, ["N", 4])
    body = [helper.make_node("Relu", ["x"], ["o0"])]
    for i in range(depth):
        out = helper.make_tensor_value_info(f"o{i}", 1, ["N", 4])
        other = helper.make_graph(
            [helper.make_node("Abs", ["x"], [f"e{i}"])],
            f"e{i}",
            [],
            [helper.make_tensor_value_info(f"e{i}", 1, ["N", 4])],
        )
        then = helper.make_graph(body, f"b{i}", [], [out])
        body = [helper.make_node("If", ["c"], [f"o{i + 1}"], then_branch=then, else_branch=other)]
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info(f"o{depth}", 1, ["N", 4])
    graph = helper.make_graph(body, "nested", [x, c], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def through(proto: onnx.ModelProto) -> tuple[float, str]:
    """Seconds of the processor of `optimize` without measuring, and how it ended."""
    import onnxtune

    began = time.process_time()
    result = onnxtune.optimize(proto, providers="cpu", threads=1, measure=False, exact_only=True, plugins=False)
    return time.process_time() - began, result.report.status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("weights", "nodes", "deep"))
    parser.add_argument("--megabytes", type=int, default=3000)
    parser.add_argument("--budget", type=float, default=0.0, help="seconds of measuring")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 3000, 10000])
    arguments = parser.parse_args()
    if arguments.what == "weights":
        with tempfile.TemporaryDirectory() as folder:
            stored, peak, wrong = large(Path(folder), arguments.megabytes, budget=arguments.budget)
        print(f"{stored / 1e9:.2f} GB of weights; peak {peak / 1e9:.2f} GB, {peak / stored:.2f} times the weights")
        print("\n".join(f"LOST {w}" for w in wrong))
        return int(bool(wrong) or peak > 2 * stored + 1e9)
    sys.path.insert(0, str(ROOT))
    if arguments.what == "nodes":
        from benchmarks.growth import network, work

        for nodes in arguments.nodes:
            seconds, proposals = work(network(nodes, (13, 16, 27, 32)), "all")
            print(f"{nodes} nodes: {seconds:.1f} s, {proposals} proposals", flush=True)
    else:
        for name, proto in (
            (f"a chain of {max(arguments.nodes)}", chain(max(arguments.nodes))),
            ("30 Ifs in each other", nested(30)),
        ):
            print(f"{name}: {through(proto)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
