"""The only place that builds a changed graph: a new Model from a Model and an ordered set of Proposals."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto

from onnxtune.errors import one_line
from onnxtune.facts import Node, free_names
from onnxtune.later import Later
from onnxtune.model import Model
from onnxtune.proposal import Proposal

Weight = onnx.TensorProto | Later


class ApplyError(Exception):
    """A proposal does not fit the model it is applied to: it removes, reads or makes what it must not."""


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
    nodes = {Node(n, i).key: n for i, n in enumerate(source.node)}
    weights: dict[str, Weight] = {i.name: i for i in source.initializer}
    outputs = [o.name for o in source.output]
    gone: dict[str, str] = {}
    for proposal in proposals:
        missing = proposal.removes - nodes.keys()
        if missing:
            raise ApplyError(f"{proposal.rule}: no node makes '{min(missing)}'")
        try:
            _splice(nodes, proposal, outputs, weights, gone)
        except ApplyError:
            raise
        except Exception as error:  # a rule may be anybody's code, and what it gave anything
            raise ApplyError(f"{proposal.rule}: {type(error).__name__}: {one_line(error)}") from None
        weights.update((w.name, w) for w in proposal.fragment.stored)
    original = {Node(n, i).key: n for i, n in enumerate(source.node)}
    idle = original.keys() - _live(original, outputs, ())  # led nowhere before: not ours to tidy up
    kept = _live(nodes, outputs, [key for key in idle if key in nodes])
    ordered = _sorted([n for key, n in nodes.items() if key in kept])
    result = _assemble(model.proto, ordered, weights, described)
    _check(result.graph)
    return model.with_proto(result)


def _splice(
    nodes: dict[str, NodeProto],
    proposal: Proposal,
    outputs: Sequence[str],
    weights: Mapping[str, Weight],
    gone: dict[str, str],
) -> None:
    """Put the fragment where the first removed node stood.

    `gone` maps tensors that aliases of earlier proposals removed to those in their place: this
    proposal may have been made when they were still there.
    """
    fragment = proposal.fragment
    place = list(nodes).index(next(k for k in nodes if k in proposal.removes))
    kept = [(k, n) for k, n in nodes.items() if k not in proposal.removes]
    for name in fragment.tensors:
        gone.pop(name, None)
    taken = {o for _, n in kept for o in n.output} | {i for _, n in kept for i in n.input if i in weights}
    twice = taken & fragment.tensors - {""}
    if twice:
        raise ApplyError(f"{proposal.rule}: '{min(twice)}' exists already")
    added = [(Node(n, 0).key, n) for n in _renamed(fragment.nodes, gone)]
    items = kept[:place] + added + kept[place:]
    aliases = {old: gone.get(new, new) for old, new in fragment.aliases.items()}
    if aliases:
        items = _rewired(items, aliases, outputs)
        for old, new in gone.items():
            gone[old] = aliases.get(new, new)
        gone.update(aliases)
    nodes.clear()
    nodes.update(items)


def _rewired(
    items: list[tuple[str, NodeProto]], aliases: dict[str, str], outputs: Sequence[str]
) -> list[tuple[str, NodeProto]]:
    """Readers of an alias read its source; graph outputs and captured names need a real node.

    What got a real node is taken out of `aliases`.
    """
    captured = {name for _, node in items for name in Node(node, 0).captured}
    for old in [a for a in aliases if a in outputs or a in captured]:
        items.append((old, onnx.helper.make_node("Identity", [aliases.pop(old)], [old], name=old + "/identity")))
    return list(zip((key for key, _ in items), _renamed([n for _, n in items], aliases), strict=True))


def _renamed(nodes: Sequence[NodeProto], names: Mapping[str, str]) -> list[NodeProto]:
    """The nodes with inputs renamed; those that do not read any of the names are the same objects."""
    result = []
    for node in nodes:
        if any(i in names for i in node.input):
            changed = NodeProto()
            changed.CopyFrom(node)
            changed.ClearField("input")
            changed.input.extend(names.get(i, i) for i in node.input)
            node = changed
        result.append(node)
    return result


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
