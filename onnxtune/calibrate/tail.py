"""The end of a network on its own: what changes when only late layers do, with what reaches it on the samples.

Heads stand at the end, and fitting and judging them runs the network over all samples many times. The part
before the first layer that may change gives the same each time: it is run once, and the search goes on in
a model of the rest, whose inputs are the tensors at the cut. Names stay, so what is found fits the whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxtune.calibrate.any_batch import rows_are_images, set_free
from onnxtune.calibrate.capture import exposing
from onnxtune.calibrate.dataset import Dataset, Spec
from onnxtune.calibrate.level import Level
from onnxtune.costs import macs, total_macs
from onnxtune.facts import Facts
from onnxtune.model import Model, tensor_bytes
from onnxtune.runtime import Target, worker

MOST_BYTES = 2**29
"""What is kept of all samples together."""
MOST_SHARE = 0.7
"""Multiply-accumulates that the tail may have, as a share of the model's, for the cut to be worth while."""
BATCH_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class Tail:
    """`facts` of the model from the cut on, `data` with the tensors at the cut as samples; `whole`: the model, `macs`
    and `bytes` of what is before the cut."""

    facts: Facts
    data: Dataset
    whole: Model
    macs: int
    bytes: int


def tail_of(
    facts: Facts, levels: Sequence[Level], data: Dataset, target: Target, notify: Callable[[int, int], None]
) -> Tail | None:
    """The part of a model that any of these levels may change; None when a cut is not possible or not worth it."""
    changing = _changing(facts, levels)
    cut = _cut(facts, levels, changing)
    if not cut or any(_key(facts, o) not in changing for o in facts.outputs) or not facts.inputs.isdisjoint(cut):
        return None
    total, behind = total_macs(facts), sum(macs(facts, facts.by_key[k]) for k in changing)
    specs = [_spec(facts, name) for name in cut]
    known = [s for s in specs if s is not None]
    row = sum(math.prod(d for d in s.shape if isinstance(d, int)) * s.dtype.itemsize for s in known)
    if len(known) < len(specs) or behind > MOST_SHARE * total or row * data.count > MOST_BYTES:
        return None
    kept = _captured(facts.model, known, data, target, row, notify)
    if kept is None:
        return None
    model = _from(facts, known)
    if any(s.batch is not None for s in known):
        set_free(model, {s.batch for s in known})
        if rows_are_images(model, kept, target):
            known = [replace(s, batch=None) for s in known]
        else:
            model = _from(facts, known)
    name = hashlib.sha256("|".join([facts.model.graph_sha256(), *cut, data.digest()]).encode()).hexdigest()

    def sample(index: int) -> dict[str, np.ndarray]:
        return {n: rows[index] for n, rows in kept.items()}

    rest = Dataset(
        data.source, data.count, tuple(known), sample, data.where, data.labels, lambda: name, data.names, data.classes
    )
    sizes = {s.name: size for s in known if (size := facts.size(s.name)) is not None}
    before = total - behind, tensor_bytes(facts.model) - tensor_bytes(model)
    return Tail(Facts(model, sizes), rest, facts.model, *before)


def _key(facts: Facts, tensor: str) -> str:
    maker = facts.producer(tensor)
    return "" if maker is None else maker.key


def _changing(facts: Facts, levels: Sequence[Level]) -> set[str]:
    """Keys of the nodes that levels remove, and of all that stand on them."""
    found = set().union(*(level.unfitted.removes for level in levels))
    for node in facts.nodes:  # in the graph's order, which is topological
        if any(_key(facts, i) in found for i in (*node.inputs, *node.captured) if i):
            found.add(node.key)
    return found


def _cut(facts: Facts, levels: Sequence[Level], changing: set[str]) -> list[str]:
    """Tensors that the changing nodes, or what comes in their place, read from before."""
    read = [i for n in facts.nodes if n.key in changing for i in (*n.inputs, *sorted(n.captured))]
    for level in levels:
        read += [*sorted(level.unfitted.reads), level.layer.x]
    live = (t for t in read if t and not facts.is_constant(t))
    return list(dict.fromkeys(t for t in live if _key(facts, t) not in changing and not _stored(facts, t)))


def _stored(facts: Facts, tensor: str) -> bool:
    return facts.producer(tensor) is None and tensor not in facts.inputs


def _spec(facts: Facts, tensor: str) -> Spec | None:
    """One row for each image, of declared size and of numbers."""
    shape, dtype = facts.shape(tensor), facts.dtype(tensor)
    if shape is None or dtype is None or dtype.kind != "f" or len(shape) < 2:
        return None
    if not all(isinstance(d, int) for d in shape[1:]):
        return None
    return Spec(tensor, dtype, shape[1:], shape[0] if isinstance(shape[0], int) else None)


def _captured(
    model: Model, specs: Sequence[Spec], data: Dataset, target: Target, row: int, notify: Callable[[int, int], None]
) -> dict[str, np.ndarray] | None:
    """The tensors on all samples; None when they are not one row for each."""
    names = [s.name for s in specs]
    session = worker(exposing(model, names), target)
    sizes = {s.name: tuple(d for d in s.shape if isinstance(d, int)) for s in specs}
    kept = {s.name: np.empty((data.count, *sizes[s.name]), s.dtype) for s in specs}
    done, size = 0, max(1, min(32, BATCH_BYTES // max(row, 1)))
    for chosen, feeds, count in data.batches(np.arange(data.count), size):
        given = len(next(iter(feeds.values())))
        for name, values in session.run(feeds, names).items():
            if values.shape != (given, *kept[name].shape[1:]):
                return None
            kept[name][chosen] = values[:count]
        done += len(chosen)
        notify(done, data.count)
    return kept


def _from(facts: Facts, specs: Sequence[Spec]) -> Model:
    """The model from the cut on, with its own outputs."""
    names = {s.name for s in specs}
    needed: set[str] = set()
    wave = [o for o in facts.outputs if o not in names]
    while wave:
        maker = facts.producer(wave.pop())
        if maker is not None and maker.key not in needed:
            needed.add(maker.key)
            wave += [i for i in (*maker.inputs, *maker.captured) if i not in names]
    source = facts.model.proto
    nodes = [n for n in facts.nodes if n.key in needed]
    read = {i for n in nodes for i in (*n.inputs, *n.captured)}
    proto = onnx.ModelProto(ir_version=max(source.ir_version, 4))
    proto.opset_import.extend(source.opset_import)
    proto.functions.extend(source.functions)
    graph = proto.graph
    graph.name = source.graph.name
    graph.node.extend(n.proto for n in nodes)
    for spec in specs:
        kind = onnx.helper.np_dtype_to_tensor_dtype(spec.dtype)
        shape = [spec.batch if spec.batch is not None else (facts.shape(spec.name) or ("N",))[0], *spec.shape]
        graph.input.append(onnx.helper.make_tensor_value_info(spec.name, kind, shape))
    graph.output.extend(source.graph.output)
    graph.initializer.extend(w for w in source.graph.initializer if w.name in read)
    return Model(proto, facts.model.name, store=facts.model.store)
