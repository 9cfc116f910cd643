"""Models with more weights than one protobuf message holds: through `onnxtune optimize` in bounded memory.

    python tests/robustness/weights.py [--megabytes 3000] [--no-measure] [--embedded]

A wide convolutional net is written, weights streamed into a file beside it (`--embedded`: inside of it, below 2 GiB
then), with something to do for exact rules: a Conv with BatchNorm of values per channel in every block, which is
forced so that all weights are written anew, and two convolutions in a row without anything between them. The command
runs as a child; the resident memory of its whole process tree is looked at every 20 ms, shared pages counted in each
process. It must stay below twice the weights plus 1 GB. The result must name its own data file by a relative path,
survive being moved, and compute the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import tally
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 1024
SIZE = 6
"""Height and width of the input."""
RULE = "fold_batchnorm"
ROOM = 10**9
"""Bytes beside twice the weights: libraries, activations."""
SETUP = """
import sys
import onnxtune.model, onnxtune.runtime
onnxtune.model.MAPPED_ABOVE = onnxtune.runtime.IN_MEMORY = {limit}
from onnxtune.cli import main
sys.exit(main())
"""
"""The command with its thresholds lowered: small models take the path of large ones. (In one process.)"""


def write_wide(path: Path, megabytes: int, width: int = WIDTH) -> int:
    """Blocks of Conv, BatchNorm, Relu until the weights have that size, the first Conv followed by one of 1x1; returns
    their bytes."""
    each = width * width * 9 * 4
    blocks = max(1, round(megabytes * 1e6 / each))
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def small(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    data = path.with_name(path.name + ".weights")
    with data.open("wb") as stream:
        stem = small("stem", rng.standard_normal((width, 3, 3, 3)) / 5)
        point = small("point", rng.standard_normal((64, width, 1, 1)) / width**0.5)
        wide = small("wide", rng.standard_normal((width, 64, 1, 1)) / 8)
        nodes += [
            helper.make_node("Conv", ["x", stem], ["a"], pads=[1] * 4, strides=[2, 2]),
            helper.make_node("Conv", ["a", point], ["b"]),
            helper.make_node("Conv", ["b", wide], ["r"]),
        ]
        last = "r"
        for i in range(blocks):
            weights.append(_streamed(stream, data.name, f"w{i}", width, rng))
            gamma, beta, mean = (
                small(f"{n}{i}", rng.uniform(low, low + 1, width)) for n, low in (("g", 0.5), ("b", -0.5), ("m", -0.5))
            )
            variance = small(f"v{i}", rng.uniform(0.5, 2, width))
            nodes += [
                helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1] * 4),
                helper.make_node("BatchNormalization", [f"c{i}", gamma, beta, mean, variance], [f"n{i}"]),
                helper.make_node("Relu", [f"n{i}"], [f"r{i}"]),
            ]
            last = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    x = helper.make_tensor_value_info("x", 1, [1, 3, SIZE, SIZE])
    y = helper.make_tensor_value_info("y", 1, [1, width, 1, 1])
    graph = helper.make_graph(nodes, "wide", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return blocks * each + sum(len(w.raw_data) for w in weights)


def _streamed(stream: BinaryIO, location: str, name: str, width: int, rng: np.random.Generator) -> TensorProto:
    """A (width, width, 3, 3) weight, written in parts."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[width, width, 3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", stream.tell()), ("length", width * width * 36)):
        tensor.external_data.add(key=key, value=str(value))
    part = rng.standard_normal((width // 16, width, 3, 3), np.float32) * np.float32((2 / (9 * width)) ** 0.5)
    for shift in range(16):
        stream.write(np.roll(part, shift, 1).tobytes())
    return tensor


@dataclass(frozen=True)
class Outcome:
    """`stored`: bytes of weights; `peak`: of the resident memory of all processes together; `lost`: what is wrong."""

    stored: int
    peak: int
    seconds: float
    lost: list[str]
    said: str

    @property
    def limit(self) -> int:
        return 2 * self.stored + ROOM


def trial(
    folder: Path, megabytes: int, *, width: int = WIDTH, limit: int = 0, measure: bool = True, embedded: bool = False
) -> Outcome:
    """One model through the command. `limit`: bytes above which weights stay in files, 0 as it is."""
    path, out = folder / "wide.onnx", folder / "out" / "result.onnx"
    out.parent.mkdir()
    stored = write_wide(path, megabytes, width)
    if embedded:
        onnx.save(onnx.load(path), path)
    start = ["-c", SETUP.format(limit=limit)] if limit else ["-m", "onnxtune"]
    words = ["optimize", str(path), "-o", str(out), "--exact-only", "--providers", "cpu", "--threads", "1"]
    words += ["--no-plugins", "--no-cache", "--force-rules", RULE, *([] if measure else ["--no-measure"])]
    (folder / "scratch").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "scratch")}
    if limit:
        environment["ONNXTUNE_CRASH_NOTES"] = str(folder / "scratch")  # no further child: it would not have the limit
    began = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *start, *words], env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as child:
        most, said = _watched(child)
    lost = [] if child.returncode == 0 else [f"exit code {child.returncode}"]
    seconds = time.monotonic() - began
    if not lost:
        left = [p.name for p in (folder / "scratch").iterdir() if p.is_dir()]
        lost += [f"left behind: {left}"] if left else []
        lost += _wrong(path, out, embedded)
    return Outcome(stored, most, seconds, lost, said)


def _watched(child: subprocess.Popen[str]) -> tuple[int, str]:
    """(the most memory that the process and its children had together, what they said). It ends before this returns."""
    done = threading.Event()
    peaks = [0]

    def watch() -> None:
        while not done.wait(0.02):
            peaks.append(max(peaks.pop(), sum(_resident(p) for p in _tree(child.pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    assert child.stdout is not None
    try:
        said = child.stdout.read()
        child.wait()  # its standard input is open as long: it ends when nobody holds that
    finally:
        done.set()
        thread.join()
    return peaks[0], said


def _tree(process: int) -> list[int]:
    found, i = [process], 0
    while i < len(found):
        for task in Path(f"/proc/{found[i]}/task").glob("*/children"):
            try:
                found += [int(c) for c in task.read_text().split()]
            except OSError:  # it has just ended
                continue
        i += 1
    return found


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it has just ended
        return 0


def _wrong(path: Path, out: Path, embedded: bool) -> list[str]:
    wrong = []
    bare = onnx.load(out, load_external_data=False)
    places = {e.value for t in bare.graph.initializer for e in t.external_data if e.key == "location"}
    files = {p.name for p in out.parent.iterdir()}
    expected = set() if embedded else {"result.onnx.data"}
    if places != expected or files != {"result.onnx", *expected}:
        wrong.append(f"its data is said to lie at {places}; there are {files}")
    if Counter(n.op_type for n in bare.graph.node)["BatchNormalization"]:
        wrong.append(f"{RULE} has not been applied everywhere")
    moved = path.with_name("moved")
    out.parent.rename(moved)  # a relative name survives that
    values = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    want, have = (_run(p, values) for p in (path, moved / out.name))
    difference = float(np.max(np.abs(want - have)) / np.max(np.abs(want)))
    if not difference < 1e-4:
        wrong.append(f"it differs by {difference:.2g}")
    return wrong


def _run(path: Path, values: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": values})[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=3000)
    parser.add_argument("--no-measure", action="store_true")
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the files go; needs about five times the weights")
    tally.option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        done = trial(Path(folder), arguments.megabytes, measure=not arguments.no_measure, embedded=arguments.embedded)
    print(done.said)
    over = done.peak > done.limit
    lost = [*done.lost, *(["the peak is above the limit"] if over else [])]
    print("\n".join(f"LOST {w}" for w in lost))
    remark = (
        f"{done.stored / 1e9:.2f} GB: peak {done.peak / 1e9:.2f} GB of {done.limit / 1e9:.2f} GB, {done.seconds:.0f} s"
    )
    row = tally.Row("a model above 2 GiB" if done.stored > 2**31 else "a model", 1, int(bool(lost)), remark)
    print(row)
    if arguments.record:
        tally.record([row])
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
