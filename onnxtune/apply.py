"""The only place that builds a changed graph: a new Model from a Model and an ordered set of Proposals."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto

from onnxtune.facts import Node, free_names
from onnxtune.model import Model
from onnxtune.proposal import Proposal


class ApplyError(Exception):
    """A proposal does not fit the model it is applied to (a node it removes is not there)."""


def apply(model: Model, proposals: Sequence[Proposal]) -> Model:
    """Apply the proposals in order and return the new model; `model` is not changed.

    Nodes and weights that only the removed nodes used go too; everything else keeps its names,
    order and metadata. Raises ApplyError when a node to remove does not exist.
    """
    source = model.proto.graph
    nodes = {Node(n, i).key: n for i, n in enumerate(source.node)}
    weights = {i.name: i for i in source.initializer}
    outputs = [o.name for o in source.output]
    replaced: dict[str, str] = {}
    for proposal in proposals:
        missing = proposal.removes - nodes.keys()
        if missing:
            raise ApplyError(f"{proposal.rule}: no node makes '{min(missing)}'")
        _splice(nodes, proposal, outputs, replaced)
        weights.update((w.name, w) for w in proposal.fragment.initializers)
    original = {Node(n, i).key: n for i, n in enumerate(source.node)}
    kept = _live(nodes, outputs) | (original.keys() - _live(original, outputs))
    ordered = _sorted([n for key, n in nodes.items() if key in kept])
    return model.with_proto(_assemble(model.proto, ordered, weights))


def _splice(nodes: dict[str, NodeProto], proposal: Proposal, outputs: Sequence[str], replaced: dict[str, str]) -> None:
    """Put the fragment in the place of the nodes it removes.

    `replaced` holds the aliases so far: a proposal made on the same graph as an earlier one may still
    read a tensor whose node the earlier one has removed. It is extended in place.
    """
    fragment = proposal.fragment
    place = list(nodes).index(next(k for k in nodes if k in proposal.removes))
    kept = [(k, n) for k, n in nodes.items() if k not in proposal.removes]
    added = [(n.output[0], _renamed(n, replaced)) for n in fragment.nodes]
    aliases = {old: replaced.get(new, new) for old, new in fragment.aliases.items()}
    items = kept[:place] + added + kept[place:]
    captured = {name for _, node in items for name in Node(node, 0).captured}
    for old in [a for a in aliases if a in outputs or a in captured]:  # these names need a real node
        items.append((old, onnx.helper.make_node("Identity", [aliases.pop(old)], [old], name=old + "/identity")))
    replaced.update({old: aliases.get(new, new) for old, new in replaced.items()})
    replaced.update(aliases)
    nodes.clear()
    nodes.update((key, _renamed(node, aliases)) for key, node in items)


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """The node with its inputs renamed, itself where nothing changes."""
    if not any(i in names for i in node.input):
        return node
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.ClearField("input")
    changed.input.extend(names.get(i, i) for i in node.input)
    return changed


def _reads(node: NodeProto) -> set[str]:
    names = {i for i in node.input if i}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= free_names(attribute.g)
    return names


def _live(nodes: Mapping[str, NodeProto], outputs: Sequence[str]) -> set[str]:
    """Keys of the nodes that some graph output depends on."""
    maker = {o: key for key, n in nodes.items() for o in n.output if o}
    found: set[str] = set()
    wanted = list(outputs)
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


def _assemble(before: onnx.ModelProto, nodes: list[NodeProto], weights: dict[str, onnx.TensorProto]) -> onnx.ModelProto:
    """The model's shell (metadata, functions, interface) around new nodes and weights."""
    shell = onnx.ModelProto()
    for field, value in before.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(shell, field.name).extend(value)
        elif field.message_type is not None:
            getattr(shell, field.name).CopyFrom(value)
        else:
            setattr(shell, field.name, value)
    source, graph = before.graph, shell.graph
    for field, value in source.ListFields():
        if field.name in ("node", "initializer", "value_info", "quantization_annotation"):
            continue
        if field.is_repeated:
            getattr(graph, field.name).extend(value)
        else:
            setattr(graph, field.name, value)
    if shell.ir_version < 4 and any(n not in {i.name for i in source.input} for n in weights):
        shell.ir_version = 4  # up to version 3 every weight had to be listed as an input
    used_before = {name for n in source.node for name in _reads(n)}
    used = {name for n in nodes for name in _reads(n)} | {o.name for o in source.output}
    graph.node.extend(nodes)
    graph.initializer.extend(w for w in weights.values() if w.name in used or w.name not in used_before)
    made = {o for n in nodes for o in n.output} | used
    graph.value_info.extend(v for v in source.value_info if v.name in made)
    graph.quantization_annotation.extend(q for q in source.quantization_annotation if q.tensor_name in made)
    return shell
