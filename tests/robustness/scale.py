"""Models of thousands of nodes. (Those with gigabytes of weights: weights.py.)

    python tests/robustness/scale.py nodes [--nodes 1000 3000 10000]
    python tests/robustness/scale.py deep [--nodes 10000]

nodes: seconds of the processor for Facts, all proposals and one rewrite of each rule (`benchmarks.growth`).
deep: a chain of so many nodes, and bodies of If in each other, through the whole of `optimize` without measuring.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import onnx
import tally
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]


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
    parser.add_argument("what", choices=("nodes", "deep"))
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 3000, 10000])
    tally.option(parser)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    rows = []
    if arguments.what == "nodes":
        from benchmarks.growth import network, work

        for nodes in arguments.nodes:
            seconds, proposals = work(network(nodes, (13, 16, 27, 32)), "all")
            rows.append(
                tally.Row(f"analysis and all rules, {nodes} nodes", 1, 0, f"{seconds:.1f} s, {proposals} proposals")
            )
            print(rows[-1], flush=True)
    else:
        for name, proto in (
            (f"a chain of {max(arguments.nodes)}", chain(max(arguments.nodes))),
            ("30 Ifs in each other", nested(30)),
        ):
            seconds, status = through(proto)
            rows.append(tally.Row(name, 1, int(status != "nothing to gain"), f"{seconds:.1f} s"))
            print(rows[-1], flush=True)
    if arguments.record:
        tally.record(rows)
    return int(any(r.lost for r in rows))


if __name__ == "__main__":
    sys.exit(main())
