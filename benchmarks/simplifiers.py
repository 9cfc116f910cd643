"""Compare simplifier libraries: what they change, whether outputs stay equal, what it costs, what it gains.

    python -m benchmarks.simplifiers --models DIR... --output FILE.json

Every simplification runs in its own forked process, so that a crash, printed text, changed environment
variables and peak memory belong to one library and one model. Times are seconds, memory is MiB, latencies
are milliseconds on one CPU thread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import logging
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
from numpy.typing import NDArray
from onnxsim.onnxsim_cpp2py_export import _list_optimizers

from benchmarks.simplifier_probes import Probe, make_probes

Array = NDArray[Any]
Feeds = dict[str, Array]
T_co = TypeVar("T_co", covariant=True)

NUMPY_OF_ORT = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
SPATIAL_SIZE = 64  # for a dynamic height or width
TIMED = ("slim_guarded", "slim_default", "sim_fold", "sim_default")

# The passes of onnx-optimizer that remove what does nothing. Not here, although they start with
# "eliminate": common_subexpression, duplicate_initializer (both merge), nop_monotone_argmax,
# consecutive_idempotent_ops (both rewrite).
REMOVALS = (
    "extract_constant_to_initializer",
    "eliminate_deadend",
    "eliminate_identity",
    "eliminate_if_with_const_cond",
    "eliminate_nop_cast",
    "eliminate_nop_concat",
    "eliminate_nop_dropout",
    "eliminate_nop_expand",
    "eliminate_nop_flatten",
    "eliminate_nop_pad",
    "eliminate_nop_reshape",
    "eliminate_nop_split",
    "eliminate_nop_transpose",
    "eliminate_shape_gather",
    "eliminate_shape_op",
    "eliminate_slice_after_shape",
    "eliminate_unused_initializer",
)


def run_slim(*skip: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
        result: onnx.ModelProto = onnxslim.slim(model, skip_optimizations=list(skip))
        return result

    return simplify


def run_slim_guarded(model: onnx.ModelProto) -> onnx.ModelProto:
    """OnnxSlim behind the guards that the probes below showed to be needed."""
    work = onnx.ModelProto.FromString(model.SerializeToString())
    opset = next((entry.version for entry in work.opset_import if entry.domain in ("", "ai.onnx")), 0)
    ops = {node.op_type for node in walk_nodes(work.graph)}
    if opset < 7 or any(op.startswith("Random") for op in ops) or ops & {"Bernoulli", "Multinomial"}:
        return work
    for graph in walk_graphs(work.graph):
        lower_constants(graph.node)
    for function in work.functions:
        lower_constants(function.node)
    if work.ir_version < 4:
        work.ir_version = 4  # from here on initializers need not be inputs
    weights = {tensor.name for tensor in work.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    skip = ["graph_fusion", "subexpression_elimination", "weight_tying"]
    outputs = {value.name for value in work.graph.output}
    used = outputs.union(*(node.input for node in walk_nodes(work.graph)))
    if any(
        node.op_type == "Dropout" and (len(node.input) > 2 or used & set(node.output[1:]))
        for node in walk_nodes(work.graph)
    ):
        skip.append("dead_node_elimination")  # it drops Dropout in training mode and with a used mask
    log = logging.getLogger("onnxslim")
    handlers, level = list(log.handlers), log.level
    try:
        result: onnx.ModelProto = onnxslim.slim(work, skip_optimizations=skip, size_threshold=1 << 23)
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)
    for kept, original in ((result.graph.input, inputs), (result.graph.output, model.graph.output)):
        del kept[:]
        kept.extend(original)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    for name in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        setattr(result, name, getattr(model, name))
    result.graph.doc_string = model.graph.doc_string
    docs = {node.name: node.doc_string for node in model.graph.node if node.name}
    for node in result.graph.node:
        node.doc_string = docs.get(node.name, "")
    return result


def lower_constants(nodes: Iterable[onnx.NodeProto]) -> None:
    """Constant attributes value_float, value_ints... as tensors: OnnxSlim reads the others as float64."""
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name in types:
            name = node.attribute[0].name
            value = np.asarray(onnx.helper.get_attribute_value(node.attribute[0]), dtype=types[name])
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(value)))


def run_sim(**options: Any) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
        result: onnx.ModelProto = onnxsim.simplify(model, certify=False, **copy.deepcopy(options))[0]
        return result

    return simplify


@functools.cache
def sim_passes() -> frozenset[str]:
    """onnxsim's default passes. Its first call registers 25 more (fuse_consecutive_reshapes, fuse_gelu...),
    so a list read before that call would let them run.
    """
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    tiny = onnx.parser.parse_model(header + "g (float[N] x) => (float[N] y) { y = Relu(x) }")
    onnxsim.simplify(tiny, certify=False)
    return frozenset(_list_optimizers())


def run_sim_fold(model: onnx.ModelProto) -> onnx.ModelProto:
    return run_sim(skipped_optimizers=sorted(sim_passes() - set(REMOVALS)))(model)


def run_optimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    result: onnx.ModelProto = onnxoptimizer.optimize(model, list(REMOVALS), fixed_point=True)
    return result


def run_graphsurgeon(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = onnx_graphsurgeon.import_onnx(onnx.shape_inference.infer_shapes(model))
    graph.fold_constants().cleanup(remove_unused_graph_inputs=False).toposort()
    result: onnx.ModelProto = onnx_graphsurgeon.export_onnx(graph)
    return result


SIMPLIFIERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "slim_guarded": run_slim_guarded,
    "slim_fold": run_slim("graph_fusion", "subexpression_elimination", "weight_tying"),
    "slim_fold_only": run_slim("graph_fusion", "subexpression_elimination", "weight_tying", "dead_node_elimination"),
    "slim_default": run_slim(),
    "sim_fold": run_sim_fold,
    "sim_fold_only": run_sim(perform_optimization=False),
    "sim_default": run_sim(),
    "optimizer": run_optimizer,
    "graphsurgeon": run_graphsurgeon,
}


@dataclass
class Outcome:
    """What one simplifier did to one model."""

    seconds: float = 0.0
    peak_mib: float = 0.0
    nodes_before: int = 0
    nodes_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    op_changes: dict[str, int] = field(default_factory=dict)
    error: str = ""
    stdout: str = ""
    stderr: str = ""
    changed: dict[str, str] = field(default_factory=dict)
    process_state: list[str] = field(default_factory=list)
    mutates_caller: bool = False
    deterministic: bool = True
    idempotent: bool = True
    checker: str = ""


@dataclass
class Equality:
    """Largest difference of an output, absolute and relative to the largest reference value."""

    batch: int
    level: str
    absolute: float
    relative: float
    error: str = ""


@dataclass
class Latency:
    """Medians over interleaved rounds; `ratio` is before / after, above 1 is faster."""

    before_ms: float
    after_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass
class ModelResult:
    model: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    equality: dict[str, list[Equality]] = field(default_factory=dict)
    latency: dict[str, Latency] = field(default_factory=dict)


@dataclass
class ProbeResult:
    question: str
    verdicts: dict[str, str] = field(default_factory=dict)


class Task(Protocol[T_co]):
    def __call__(self) -> T_co: ...


def call_in_fork(task: Task[T_co]) -> T_co | str:
    """Run the task in a forked child; a string is the reason why there is no result."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child(channel: Connection) -> None:
        try:
            channel.send(task())
        except BaseException as error:
            channel.send(f"{type(error).__name__}: {error}"[:300])

    process = context.Process(target=child, args=(sender,))
    process.start()
    sender.close()
    try:
        result: T_co | str = receiver.recv()
    except EOFError:
        result = "crashed"
    process.join()
    return result if result != "crashed" else f"crashed with exit code {process.exitcode}"


@contextlib.contextmanager
def captured_streams() -> Iterator[dict[str, str]]:
    """Capture what is written to file descriptors 1 and 2, from Python and from C++."""
    texts: dict[str, str] = {}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        saved = os.dup(1), os.dup(2)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            yield texts
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in enumerate(saved, start=1):
                os.dup2(original, descriptor)
                os.close(original)
            for name, stream in (("stdout", out), ("stderr", err)):
                stream.seek(0)
                texts[name] = stream.read().decode(errors="replace")[:2000]


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the bodies of its If/Loop/Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from walk_graphs(attribute.g)
            for subgraph in attribute.graphs:
                yield from walk_graphs(subgraph)


def walk_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for inner in walk_graphs(graph):
        yield from inner.node


def count_ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in walk_nodes(model.graph))


def describe_values(values: Sequence[onnx.ValueInfoProto], skip: frozenset[str] = frozenset()) -> list[str]:
    described = []
    for value in values:
        if value.name in skip:
            continue
        tensor = value.type.tensor_type
        dims = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
        described.append(f"{value.name}:{tensor.elem_type}{dims}{value.doc_string}")
    return described


def quantization_constants(model: onnx.ModelProto) -> list[str]:
    """The scales and zero points of all Q/DQ nodes, by value, in a canonical order."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    found = []
    for node in walk_nodes(model.graph):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found.append(node.op_type + "".join(repr(constants.get(name)) for name in node.input[1:]))
    return sorted(found)


def interface(model: onnx.ModelProto) -> dict[str, str]:
    """Everything about a model, apart from its nodes and weights, that a simplifier should leave alone."""
    weights = frozenset(tensor.name for tensor in model.graph.initializer)
    named = {node.name for node in model.graph.node if node.name and node.op_type != "Constant"}
    return {
        "opset": str(sorted((entry.domain, entry.version) for entry in model.opset_import)),
        "ir_version": str(model.ir_version),
        "inputs": str(describe_values(model.graph.input, weights)),
        "weights_as_inputs": str(sum(value.name in weights for value in model.graph.input)),
        "outputs": str(describe_values(model.graph.output)),
        "metadata": str(sorted((entry.key, entry.value) for entry in model.metadata_props)),
        "doc_strings": f"{model.doc_string!r} {model.graph.doc_string!r}",
        "producer": f"{model.producer_name} {model.producer_version} {model.domain} {model.model_version}",
        "graph_name": model.graph.name,
        "functions": str(sorted(function.name for function in model.functions)),
        "quantization": str(quantization_constants(model)),
        "named_nodes": str(len(named)),
        "node_doc_strings": str(sum(bool(node.doc_string) for node in model.graph.node)),
    }


def compare_interfaces(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, str]:
    old, new = interface(before), interface(after)
    changed = {key: f"{old[key]} -> {new[key]}"[:400] for key in old if old[key] != new[key]}
    names_before = {node.name for node in before.graph.node if node.name}
    invented = [node.name for node in after.graph.node if node.name and node.name not in names_before]
    changed.pop("named_nodes", None)
    if "metadata" in changed:
        keys = [{entry.key for entry in model.metadata_props} for model in (before, after)]
        changed["metadata"] = f"removed {sorted(keys[0] - keys[1])}, added {sorted(keys[1] - keys[0])}"
    if invented:
        changed["new_node_names"] = str(invented[:4])
    return changed


def process_state() -> dict[str, str]:
    """The global state that a library should not change behind its caller's back."""
    state = {f"environment {key}": value for key, value in os.environ.items()}
    for name, logger in [("root", logging.root), *logging.Logger.manager.loggerDict.items()]:
        if isinstance(logger, logging.Logger):
            state[f"logger {name}"] = f"level {logger.level}, {len(logger.handlers)} handlers"
    state["working directory"] = str(Path.cwd()) + str(sorted(path.name for path in Path.cwd().iterdir()))
    state["random state"] = f"{hash(random.getstate())} {hash(str(np.random.get_state()))}"
    return state


def simplify(name: str, model: onnx.ModelProto, target: Path) -> Outcome:
    """Run one simplifier (twice, for determinism, and once on its own output); write the result."""
    before = model.SerializeToString(deterministic=True)
    original = onnx.ModelProto.FromString(before)
    outcome = Outcome(nodes_before=len(list(walk_nodes(model.graph))), bytes_before=len(before))
    state = process_state()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: onnx.ModelProto | None = None
    with captured_streams() as texts:
        start = time.perf_counter()
        try:
            result = SIMPLIFIERS[name](model)
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"[:400]
        outcome.seconds = time.perf_counter() - start
    outcome.peak_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    outcome.stdout, outcome.stderr = texts["stdout"], texts["stderr"]
    now = process_state()
    outcome.process_state = [f"{k}: {state.get(k)} -> {v}" for k, v in now.items() if state.get(k) != v]
    outcome.mutates_caller = model.SerializeToString(deterministic=True) != before
    if result is None:
        return outcome
    data = result.SerializeToString(deterministic=True)
    outcome.bytes_after, outcome.nodes_after = len(data), len(list(walk_nodes(result.graph)))
    changes = count_ops(result)
    changes.subtract(count_ops(original))
    outcome.op_changes = {op: count for op, count in sorted(changes.items()) if count}
    outcome.changed = compare_interfaces(original, result)
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        outcome.checker = f"{type(error).__name__}: {error}"[:300]
    target.write_bytes(data)
    with captured_streams():
        again = SIMPLIFIERS[name](onnx.ModelProto.FromString(before))
        outcome.deterministic = again.SerializeToString(deterministic=True) == data
        try:
            twice = SIMPLIFIERS[name](onnx.ModelProto.FromString(data))
            outcome.idempotent = count_ops(twice) == count_ops(result)
        except Exception:
            outcome.idempotent = False
    return outcome


def make_session(path: Path, optimize: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def has_dynamic_batch(session: onnxruntime.InferenceSession) -> bool:
    return any(value.shape and not isinstance(value.shape[0], int) for value in session.get_inputs())


def make_feeds(session: onnxruntime.InferenceSession, batch: int) -> Feeds:
    rng = np.random.default_rng(batch)
    feeds: Feeds = {}
    for value in session.get_inputs():
        shape = [
            size if isinstance(size, int) else batch if axis == 0 else SPATIAL_SIZE
            for axis, size in enumerate(value.shape)
        ]
        feeds[value.name] = rng.standard_normal(shape).astype(NUMPY_OF_ORT[value.type])
    return feeds


def compare_outputs(before: Path, after: Path) -> list[Equality]:
    """Both models on the same inputs: without and with ORT's own optimisation, batch 1 and, if free, 3."""
    found = []
    for level in ("disable_all", "enable_all"):
        reference = make_session(before, level == "enable_all")
        try:
            candidate = make_session(after, level == "enable_all")
        except Exception as error:
            found.append(Equality(0, level, float("nan"), float("nan"), f"load: {error}"[:300]))
            continue
        for batch in (1, 3) if has_dynamic_batch(reference) else (1,):
            feeds = make_feeds(reference, batch)
            expected = reference.run(None, feeds)
            try:
                names = {value.name for value in candidate.get_inputs()}
                actual = candidate.run(None, {key: value for key, value in feeds.items() if key in names})
                pairs = list(zip(expected, actual, strict=True))
                absolute = max((largest_difference(old, new) for old, new in pairs), default=0.0)
                scale = max((largest_value(old) for old, _ in pairs), default=0.0)
                found.append(Equality(batch, level, absolute, absolute / scale if scale else absolute))
            except Exception as error:
                found.append(Equality(batch, level, float("nan"), float("nan"), f"run: {error}"[:300]))
    return found


def largest_difference(old: Any, new: Any) -> float:
    if isinstance(old, list):
        return max(largest_difference(a, b) for a, b in zip(old, new, strict=True))
    if old.shape != new.shape or old.dtype != new.dtype:
        raise ValueError(f"output {old.dtype}{old.shape} became {new.dtype}{new.shape}")
    return float(np.max(np.abs(old.astype(np.float64) - new.astype(np.float64)), initial=0.0))


def largest_value(old: Any) -> float:
    if isinstance(old, list):
        return max(largest_value(item) for item in old)
    return float(np.max(np.abs(old.astype(np.float64)), initial=0.0))


def measure_latency(before: Path, candidates: dict[str, Path], rounds: int) -> dict[str, Latency]:
    """Interleaved rounds in random order at ORT_ENABLE_ALL, batch 1; "same" is the original once more."""
    sessions = {"before": make_session(before, True), "same": make_session(before, True)}
    sessions |= {name: make_session(path, True) for name, path in candidates.items()}
    feeds = make_feeds(sessions["before"], 1)
    for session in sessions.values():
        session.run(None, feeds)
    start = time.perf_counter()
    sessions["before"].run(None, feeds)
    repeats = max(1, round(0.002 / (time.perf_counter() - start)))
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    order = list(sessions)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            run = sessions[name].run
            start = time.perf_counter()
            for _ in range(repeats):
                run(None, feeds)
            samples[name].append((time.perf_counter() - start) / repeats * 1e3)
    return {name: summarise(samples["before"], times) for name, times in samples.items() if name != "before"}


def summarise(before: Sequence[float], after: Sequence[float]) -> Latency:
    """Ratio of medians with a paired bootstrap interval (95 %)."""
    old, new = np.asarray(before), np.asarray(after)
    picks = np.random.default_rng(0).integers(0, len(old), (1000, len(old)))
    ratios = np.median(old[picks], axis=1) / np.median(new[picks], axis=1)
    low, high = (float(value) for value in np.quantile(ratios, [0.025, 0.975]))
    medians = statistics.median(before), statistics.median(after)
    return Latency(*medians, medians[0] / medians[1], low, high)


def study_model(path: Path, folder: Path, rounds: int, chosen: Sequence[str]) -> ModelResult:
    result = ModelResult(path.stem)
    original = folder / "original.onnx"
    original.write_bytes(path.read_bytes())
    for name in chosen:
        target = folder / f"{name}.onnx"
        target.unlink(missing_ok=True)
        outcome = call_in_fork(lambda name=name, target=target: simplify(name, onnx.load(original), target))
        result.outcomes[name] = Outcome(error=outcome) if isinstance(outcome, str) else outcome
        if target.exists():
            equality = call_in_fork(lambda target=target: compare_outputs(original, target))
            result.equality[name] = (
                [Equality(0, "", float("nan"), float("nan"), equality)] if isinstance(equality, str) else equality
            )
    if rounds:
        made = {
            name: folder / f"{name}.onnx" for name in TIMED if name in chosen and (folder / f"{name}.onnx").exists()
        }
        latency = call_in_fork(lambda: measure_latency(original, made, rounds))
        if isinstance(latency, str):
            print(f"{path.name}: no latency: {latency}", file=sys.stderr)
        else:
            result.latency = latency
    return result


def judge_probe(probe: Probe, outcome: Outcome, equality: Sequence[Equality]) -> str:
    """One line: what is wrong, or "ok"."""
    if outcome.error:
        return f"raises {outcome.error[:160]}"
    problems = []
    lost = {op: change for op, change in outcome.op_changes.items() if op in probe.keep}
    if lost:
        problems.append(f"changed {lost}")
    problems += [f"{key}: {value[:160]}" for key, value in outcome.changed.items()]
    problems += [f"batch {item.batch} {item.level}: {item.error[:160]}" for item in equality if item.error]
    problems += [
        f"batch {item.batch} {item.level}: differs by {item.relative:.1e}"
        for item in equality
        if not item.error and item.relative > 1e-6
    ]
    if outcome.checker:
        problems.append(f"checker: {outcome.checker[:120]}")
    if outcome.bytes_after > outcome.bytes_before + 1_000_000:
        problems.append(f"grows to {outcome.bytes_after / 2**20:.0f} MiB")
    if not outcome.deterministic:
        problems.append("not deterministic")
    summary = f"{outcome.nodes_before} -> {outcome.nodes_after} nodes"
    return f"{summary}; " + "; ".join(problems) if problems else f"{summary}; ok"


def study_probe(probe: Probe, folder: Path, chosen: Sequence[str]) -> ProbeResult:
    result = ProbeResult(probe.question)
    original = folder / "original.onnx"
    onnx.save(probe.model, original)
    for name in chosen:
        target = folder / f"{name}.onnx"
        target.unlink(missing_ok=True)
        outcome = call_in_fork(lambda name=name, target=target: simplify(name, onnx.load(original), target))
        if isinstance(outcome, str):
            result.verdicts[name] = outcome
            continue
        equality: list[Equality] | str = []
        if target.exists():
            equality = call_in_fork(lambda target=target: compare_outputs(original, target))
        if isinstance(equality, str):
            equality = []  # ONNX Runtime cannot run the original either
        result.verdicts[name] = judge_probe(probe, outcome, equality)
    return result


def measure_imports(repeats: int = 5) -> dict[str, float]:
    """Median seconds to import each library in a fresh interpreter, onnx's own import included."""
    import subprocess

    names = ("onnx", "onnxruntime", "onnx_graphsurgeon", "onnxoptimizer", "onnxslim", "onnxsim")
    code = "import time; s = time.perf_counter(); import {}; print(time.perf_counter() - s)"
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            done = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True)
            times[name].append(float(done.stdout))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def format_table(results: Sequence[ModelResult]) -> str:
    """One row per model and simplifier, for the terminal and for Markdown."""
    rows = [
        "| model | simplifier | nodes | seconds | MiB | max rel. error | latency ratio (95 %) | remarks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, outcome in result.outcomes.items():
            equality = result.equality.get(name, [])
            worst = max((item.relative for item in equality if not item.error), default=float("nan"))
            latency = result.latency.get(name)
            ratio = f"{latency.ratio:.3f} ({latency.ratio_low:.3f}..{latency.ratio_high:.3f})" if latency else ""
            rows.append(
                f"| {result.model} | {name} | {outcome.nodes_before} -> {outcome.nodes_after} "
                f"| {outcome.seconds:.2f} | {outcome.peak_mib:.0f} | {worst:.1e} | {ratio} "
                f"| {'; '.join(remarks(outcome, equality))} |"
            )
        if "same" in result.latency:
            same = result.latency["same"]
            interval = f"{same.ratio:.3f} ({same.ratio_low:.3f}..{same.ratio_high:.3f})"
            rows.append(f"| {result.model} | A/A | | | | | {interval} | {same.before_ms:.3f} ms |")
    return "\n".join(rows)


def remarks(outcome: Outcome, equality: Sequence[Equality]) -> list[str]:
    found = [f"error {outcome.error[:80]}"] if outcome.error else []
    found += [f"changes {key}" for key in outcome.changed]
    found += [f"batch {item.batch} {item.level} {item.error[:60]}" for item in equality if item.error]
    flags = {
        "prints": bool(outcome.stdout or outcome.stderr),
        "edits the caller's model": outcome.mutates_caller,
        "not deterministic": not outcome.deterministic,
        "not idempotent": not outcome.idempotent,
        "checker": bool(outcome.checker),
    }
    grown = outcome.bytes_after - outcome.bytes_before
    if grown > 1_000_000:
        found.append(f"grows by {grown / 2**20:.0f} MiB")
    return found + [name for name, present in flags.items() if present]


def update_report(old: dict[str, Any], new: dict[str, Any], session: str) -> dict[str, Any]:
    """The old report with the new results in it; the new session's A/A control is kept under its own name."""
    for result in new["models"]:
        target = next(item for item in old["models"] if item["model"] == result["model"])
        if "same" in result["latency"]:
            result["latency"][f"same ({session})"] = result["latency"].pop("same")
        for key in ("outcomes", "equality", "latency"):
            target[key].update(result[key])
    for name, probe in new["probes"].items():
        old["probes"][name]["verdicts"].update(probe["verdicts"])
    return old


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare ONNX simplifiers.")
    parser.add_argument("--models", nargs="*", type=Path, default=[], help="folders of .onnx files, or files")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=40, help="latency rounds per model; 0: no latencies")
    parser.add_argument("--no-probes", action="store_true", help="skip the hand-made models")
    parser.add_argument(
        "--simplifiers", nargs="+", choices=list(SIMPLIFIERS), default=list(SIMPLIFIERS), help="only these"
    )
    parser.add_argument(
        "--update", action="store_true", help="replace these simplifiers' results in an existing output"
    )
    options = parser.parse_args(arguments)
    chosen: list[str] = options.simplifiers
    paths = [path for item in options.models for path in (sorted(item.glob("*.onnx")) if item.is_dir() else [item])]
    results: list[ModelResult] = []
    probes: dict[str, ProbeResult] = {}
    imports = measure_imports()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in paths:
            results.append(study_model(path, folder, options.rounds, chosen))
            print(path.stem, file=sys.stderr, flush=True)
        for probe in [] if options.no_probes else make_probes():
            probes[probe.name] = study_probe(probe, folder, chosen)
    libraries = (
        "onnx",
        "onnxruntime-gpu",
        "onnxslim",
        "onnxsim",
        "onnxoptimizer",
        "onnx-graphsurgeon",
        "numpy",
    )
    report = {
        "versions": {library: version(library) for library in libraries},
        "import_seconds": imports,
        "rounds": options.rounds,
        "models": [asdict(result) for result in results],
        "probes": {name: asdict(result) for name, result in probes.items()},
    }
    if options.update:
        report = update_report(json.loads(options.output.read_text(encoding="utf-8")), report, "+".join(chosen))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1).replace(f"{temporary}/", "")
    options.output.write_text(text + "\n", encoding="utf-8")
    print(format_table(results))
    for name, probe_result in probes.items():
        print(f"\n{name}: {probe_result.question}")
        for simplifier, verdict in probe_result.verdicts.items():
            print(f"  {simplifier:15} {verdict}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
