"""The only place that builds a changed graph: a new Model from a Model and an ordered set of Proposals."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto

from onnxtune.draft import ApplyError, Draft, Weight
from onnxtune.errors import one_line
from onnxtune.facts import Node, free_names
from onnxtune.later import Later
from onnxtune.mapped import copy_fields
from onnxtune.model import Model
from onnxtune.proposal import Proposal

__all__ = ["ApplyError", "apply"]


def apply(model: Model, proposals: Sequence[Proposal], *, described: bool = False) -> Model:
    """Apply the proposals in order and return the new model; `model` is not changed.

    `described`: weights that are still to be computed are only described in it (shape and type).

    Nodes and weights that only the removed nodes used go too; everything else keeps its names,
    order and metadata. Raises ApplyError when the result would not be a whole graph: a node to
    remove does not exist, a tensor is read that nothing makes, a name is made twice, a cycle.
    """
    if not proposals:
        return model  # not a copy of all its weights
    source = model.proto.graph
    weights: dict[str, Weight] = {i.name: i for i in source.initializer}
    original = {Node(n, i).key: n for i, n in enumerate(source.node)}
    outputs = [o.name for o in source.output]
    draft = Draft(original, outputs, weights)
    for proposal in proposals:
        missing = [key for key in proposal.removes if key not in draft]
        if missing:
            raise ApplyError(f"{proposal.rule}: no node makes '{min(missing)}'")
        try:
            draft.splice(proposal)
        except ApplyError:
            raise
        except Exception as error:  # a rule may be anybody's code, and what it gave anything
            raise ApplyError(f"{proposal.rule}: {type(error).__name__}: {one_line(error)}") from None
    nodes = draft.nodes()
    idle = original.keys() - _live(original, outputs, ())  # led nowhere before: not ours to tidy up
    kept = _live(nodes, outputs, [key for key in idle if key in nodes])
    ordered = _sorted([n for key, n in nodes.items() if key in kept])
    result = _assemble(model.proto, ordered, weights, described)
    _check(result.graph)
    return model.with_proto(result)


def _reads(node: NodeProto) -> set[str]:
    names = {i for i in node.input if i}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= free_names(attribute.g)
    return names


def _live(nodes: Mapping[str, NodeProto], outputs: Sequence[str], always: Sequence[str]) -> set[str]:
    """Keys of the nodes that some graph output, or some node of `always`, depends on."""
    maker = {o: key for key, n in nodes.items() for o in n.output if o}
    found = set(always)
    wanted = [*outputs, *(name for key in always for name in _reads(nodes[key]))]
    while wanted:
        key = maker.get(wanted.pop())
        if key is not None and key not in found:
            found.add(key)
            wanted.extend(_reads(nodes[key]))
    return found


def _sorted(nodes: list[NodeProto]) -> list[NodeProto]:
    """Topological order that keeps the given order wherever it can (Kahn's algorithm)."""
    maker = {o: i for i, n in enumerate(nodes) for o in n.output if o}
    waits = [{maker[name] for name in _reads(n) if name in maker} for n in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, sources in enumerate(waits):
        for s in sources:
            readers[s].append(i)
    open_count = [len(s) for s in waits]
    ready = [i for i, count in enumerate(open_count) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for r in readers[i]:
            open_count[r] -= 1
            if open_count[r] == 0:
                heapq.heappush(ready, r)
    if len(order) != len(nodes):
        raise ApplyError("the rewritten graph has a cycle")
    return order


def _assemble(
    before: onnx.ModelProto, nodes: list[NodeProto], weights: Mapping[str, Weight], described: bool
) -> onnx.ModelProto:
    """The model's shell (metadata, functions, interface) around new nodes and weights."""
    shell = onnx.ModelProto()
    copy_fields(before, shell, leave={"graph"})
    source, graph = before.graph, shell.graph
    copy_fields(source, graph, leave={"node", "initializer", "value_info", "quantization_annotation"})
    if shell.ir_version < 4 and weights.keys() - {i.name for i in source.input}:
        shell.ir_version = 4  # up to version 3 every weight had to be listed as an input
    used_before = {name for n in source.node for name in _reads(n)}
    used = {name for n in nodes for name in _reads(n)} | {o.name for o in source.output}
    graph.node.extend(nodes)
    stored = {i.name for i in source.initializer}
    stays = {i.name for i in source.input} | (stored - used_before)  # a default goes with its input, not alone
    for weight in weights.values():
        if weight.name in used or weight.name in stays:
            if isinstance(weight, Later):
                weight = weight.described() if described else _computed(weight)
            graph.initializer.append(weight)
    made = {o for n in nodes for o in n.output} | used
    graph.value_info.extend(v for v in source.value_info if v.name in made)
    graph.quantization_annotation.extend(q for q in source.quantization_annotation if q.tensor_name in made)
    return shell


def _computed(weight: Later) -> onnx.TensorProto:
    try:
        return weight.proto()
    except MemoryError:
        raise
    except Exception as error:  # computed by a rule's own code
        raise ApplyError(f"weight '{weight.name}' cannot be computed ({one_line(error)})") from None


def _check(graph: onnx.GraphProto) -> None:
    """Everything that is read is made, once."""
    made = [o for n in graph.node for o in n.output if o]
    known = {v.name for part in (graph.input, graph.initializer) for v in part}
    known.update(i.values.name for i in graph.sparse_initializer)
    twice = {name for name, count in Counter(made).items() if count > 1} | (known & set(made))
    if twice:
        raise ApplyError(f"'{min(twice)}' would be made twice")
    known.update(made)
    wanted = {name for n in graph.node for name in _reads(n)} | {o.name for o in graph.output}
    if wanted - known:
        raise ApplyError(f"'{min(wanted - known)}' would be read, but nothing makes it any more")
