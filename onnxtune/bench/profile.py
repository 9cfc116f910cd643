"""Where the time of a model goes, node by node, and how far each is from what the device can do at most.

Times come from ONNX Runtime's own profiler, in a fresh process, over many runs (medians). They are mapped back to the
model's nodes (`attribution`), and held against the device's measured peaks (`roofline`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxtune import provenance
from onnxtune.bench.attribution import Part, attributed, by_name, named
from onnxtune.bench.process import ask
from onnxtune.bench.roofline import COPIES, PRODUCTS, Bound, Roofline, copies, gemm, roofline
from onnxtune.bench.tracing import Request, Subject
from onnxtune.costs import macs
from onnxtune.facts import Facts
from onnxtune.feeds import Feeds
from onnxtune.gpu import without_graph
from onnxtune.model import Model
from onnxtune.runtime import Target, as_file
from onnxtune.temporary import temporary

SECONDS = 2.0
"""How long the model runs under the profiler."""
HALVES = {int(TensorProto.FLOAT16): "float16", int(TensorProto.BFLOAT16): "bfloat16"}
TYPES = {"float": "float32", "double": "float64"}
"""numpy's names of types that ONNX Runtime calls otherwise."""
Size = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One node as ONNX Runtime runs it.

    `name`, `op_type`: of its graph; `nodes`: the model's nodes that it stands for, as `Conv 'name'`; empty: ONNX
    Runtime's own, which `serves` a node of the model. `rewrites`: rules of onnxtune that made one of them or its
    weights. `seconds` per run (median), `share` of the run. `flops` and `bytes` (inputs, outputs and weights of the
    model's nodes together; None where a size is unknown). `of_limit`: the time that the device needs at least for
    that, by its peaks, relative to `seconds`; above 1 where operands stay in caches or an algorithm multiplies less.
    """

    name: str
    op_type: str
    nodes: tuple[str, ...]
    serves: str
    rewrites: tuple[str, ...]
    seconds: float
    share: float
    flops: float
    bytes: int | None
    bound: Bound | None
    of_limit: float | None

    @property
    def gflops(self) -> float:
        """Attained, 1e9 floating-point operations per second."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float | None:
        """Attained, 1e9 bytes per second."""
        return None if self.bytes is None or not self.seconds else self.bytes / self.seconds / 1e9

    @property
    def own(self) -> bool:
        """Is it ONNX Runtime's own, of no node of the model?"""
        return not self.nodes


@dataclass(frozen=True)
class Profile:
    """Where the time goes.

    `layers` in running order; `total`: seconds of a run under the profiler (medians added up), of which `between`
    lies outside of all nodes; `runs`: how many were counted. `roofline`: what the device can do. `how`: how it was
    timed.
    """

    model: str
    layers: tuple[Layer, ...]
    total: float
    between: float
    runs: int
    roofline: Roofline
    how: str

    @property
    def of_limit(self) -> float | None:
        """The device's least time for all nodes of the model together, relative to the run."""
        known = [x.of_limit * x.seconds for x in self.layers if x.of_limit is not None]
        return sum(known) / self.total if known else None

    def as_json(self) -> dict[str, Any]:
        layers = [{**asdict(x), "gflops": x.gflops, "gbytes": x.gbytes} for x in self.layers]
        return {**asdict(self), "layers": layers, "of_limit": self.of_limit}


def profile(
    model: Model, feeds: Feeds, sizes: Mapping[str, tuple[int, ...]], target: Target, *, seconds: float = SECONDS
) -> Profile:
    """Profile the model on the feeds, of which `sizes` are the shapes. `seconds`: how long it runs.

    Raises ModelError when it cannot be loaded or run, ProviderError when the provider does not become active.
    """
    model = model.with_proto(named(model.proto))
    dtype = compute_type(Facts(model, sizes))
    product, product_feeds, operations = gemm(target.on_gpu, dtype)
    large, large_feeds, moved = copies(target.on_gpu)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary("profile"))
        paths = [str(stack.enter_context(as_file(m))) for m in (model, product, large)]
        optimized = folder / "optimized.onnx"
        subjects = [
            Subject(paths[0], feeds, optimized=str(optimized)),
            Subject(paths[1], product_feeds, repeats=PRODUCTS),
            Subject(paths[2], large_feeds, repeats=COPIES),
            Subject(paths[0], feeds, level="disable", repeats=0),
        ]
        answer = ask(
            "onnxtune.bench.tracing",
            Request(subjects, without_graph(target), seconds),
            model.name,
            environment={"CUDA_LAUNCH_BLOCKING": "1"} if target.on_gpu else None,
        )
        graph = onnx.load(optimized, load_external_data=False).graph.node if optimized.exists() else None
    facts = Observed(model, sizes, outputs_of(answer["runs"][3][0]))
    runs = answer["runs"][0]
    limits = roofline(
        [n[2] for run in answer["runs"][1] for n in run["nodes"] if n[0] == "gemm"],
        operations,
        moved,
        {name: [n[2] for run in answer["runs"][2] for n in run["nodes"] if n[0] == name] for name in moved},
        HALVES.get(dtype, "float32"),
    )
    times = medians(runs)
    parts = by_name(facts, [(n, op) for n, (op, _) in times.items()]) if graph is None else attributed(facts, graph)
    known = {p.name for p in parts}
    times = {n: value for n, value in times.items() if n in known}  # the rest is inside of an If or Loop that is timed
    between = float(np.median([max(r["total"] - sum(n[2] for n in r["nodes"] if n[0] in known), 0.0) for r in runs]))
    total = sum(seconds for _, seconds in times.values()) + between
    return Profile(
        model=model.name,
        layers=tuple(layers(facts, parts, times, total, limits, rules_of(model))),
        total=total,
        between=between,
        runs=len(runs),
        roofline=limits,
        how="every kernel waited for (CUDA_LAUNCH_BLOCKING)" if target.on_gpu else "ONNX Runtime's profiler",
    )


class Observed(Facts):
    """Facts whose tensors have the sizes and types that they had in a run, also where these cannot be inferred."""

    def __init__(
        self, model: Model, sizes: Mapping[str, tuple[int, ...]], outputs: Mapping[str, Sequence[tuple[str, Size]]]
    ) -> None:
        super().__init__(model, sizes)
        self._seen: dict[str, tuple[str, Size]] = {}
        for node in self.nodes:
            made = [o for o in node.outputs if o]
            seen = outputs.get(node.proto.name, ())
            self._seen.update(zip(made, seen, strict=False) if len(seen) == len(made) else ())

    def size(self, tensor: str) -> Size | None:
        return self._seen[tensor][1] if tensor in self._seen else super().size(tensor)

    def dtype(self, tensor: str) -> np.dtype[Any] | None:
        known = super().dtype(tensor)
        if known is None and tensor in self._seen:
            name = TYPES.get(self._seen[tensor][0], self._seen[tensor][0])
            return np.dtype(name) if name in np.sctypeDict else None
        return known


def outputs_of(run: Mapping[str, Any]) -> dict[str, list[tuple[str, Size]]]:
    """Node -> (ONNX Runtime's name of the type, size) of each output in this run."""
    return {name: [(kind, tuple(shape)) for kind, shape in outputs] for name, _, _, outputs in run["nodes"]}


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """Node -> (operator, median of its seconds in a run); a node that runs several times in one counts together."""
    taken: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for run in runs:
        once: Counter[str] = Counter()
        for name, op_type, seconds, _ in run["nodes"]:
            once[name] += seconds
            operators[name] = op_type
        for name, value in once.items():
            taken.setdefault(name, []).append(value)
    return {name: (operators[name], float(np.median(values))) for name, values in taken.items()}


def layers(
    facts: Facts,
    parts: Sequence[Part],
    times: Mapping[str, tuple[str, float]],
    total: float,
    limits: Roofline,
    rules: Sequence[str],
) -> list[Layer]:
    """A Layer for every node that was timed, in the order of the optimised graph."""
    found = []
    for part in parts:
        if part.name not in times:
            continue
        op_type, seconds = times[part.name]
        nodes = [facts.by_key[k] for k in part.nodes]
        flops = 2.0 * sum(macs(facts, n) for n in nodes)
        moved = region_bytes(facts, part.nodes) if nodes else None
        least = None if moved is None or not seconds else limits.seconds(flops, moved)
        found.append(
            Layer(
                name=part.name,
                op_type=op_type,
                nodes=tuple(f"{n.op_type} '{n.proto.name}'" for n in nodes),
                serves=facts.by_key[part.serves].proto.name if part.serves else "",
                rewrites=rewrites(facts, part.nodes, rules),
                seconds=seconds,
                share=seconds / total if total else 0.0,
                flops=flops,
                bytes=moved,
                bound=None if moved is None else limits.bound(flops, moved),
                of_limit=None if least is None else least / seconds,
            )
        )
    return found


def region_bytes(facts: Facts, keys: Sequence[str]) -> int | None:
    """Bytes that these nodes read from outside (weights too) and leave for others; None where a size is unknown."""
    nodes = [facts.by_key[k] for k in keys]
    inside = {o for n in nodes for o in n.outputs}
    reads = dict.fromkeys(i for n in nodes for i in n.inputs if i and i not in inside)
    chosen = frozenset(keys)
    writes = [o for n in nodes for o in n.outputs if o and facts.why_not_private(o, chosen) is not None]
    total = 0
    for name in (*reads, *writes):
        size, dtype = facts.size(name), facts.dtype(name)
        if size is None or dtype is None:
            return None
        total += math.prod(size) * dtype.itemsize
    return total


def rules_of(model: Model) -> tuple[str, ...]:
    """Rules whose rewrites are in the model, as its metadata says."""
    rules = provenance.read(model).get("rules")
    return tuple(rules) if isinstance(rules, Mapping) else ()


def rewrites(facts: Facts, keys: Sequence[str], rules: Sequence[str]) -> tuple[str, ...]:
    """Rules that made one of these nodes or its tensors: a rule's name is part of all names that it gives."""
    names = [name for k in keys for n in (facts.by_key[k],) for name in (n.proto.name, *n.inputs, *n.outputs)]
    parts = {word for name in names for word in name.split("/")}
    return tuple(r for r in rules if r in parts)


def compute_type(facts: Facts) -> int:
    """The element type in which most multiplications are done: half precision, else float32."""
    counts: Counter[int] = Counter()
    for node in facts.nodes:
        info = facts.declared.get(node.outputs[0]) if node.outputs else None
        if info is not None:
            counts[info.elem_type] += macs(facts, node)
    kind = max(counts, key=lambda t: counts[t], default=int(TensorProto.FLOAT))
    return kind if kind in HALVES else int(TensorProto.FLOAT)
