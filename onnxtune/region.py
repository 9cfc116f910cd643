"""Cutting a region out of a model as a small model of its own, with a little of what surrounds it."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.shapes import describe


def neighbourhood(facts: Facts, keys: Collection[str], hops: int = 1) -> frozenset[str]:
    """The region plus the nodes within `hops` of it.

    ONNX Runtime fuses activations into convolutions and keeps blocked layouts between neighbours:
    a region timed without its surroundings would pay for conversions that the model does not have.
    """
    found = set(keys)
    for _ in range(hops):
        for key in list(found):
            node = facts.by_key[key]
            near = [p for i in node.inputs if (p := facts.producer(i)) is not None]
            near += [c for o in node.outputs for c in facts.consumers(o)]
            found.update(n.key for n in near if not n.captured and not n.is_op("Constant"))
    return frozenset(found)


def input_sizes(region: Model) -> dict[str, tuple[int, ...]]:
    """The sizes of a region's inputs, which it declares."""
    found = {}
    for value in region.inputs:
        info = describe(value)
        assert info is not None, "regions have tensor inputs only"
        assert info.static is not None, "regions have static sizes"
        found[value.name] = info.static
    return found


def extract(facts: Facts, keys: Collection[str], reads: Collection[str] = ()) -> Model | None:
    """The nodes with these keys as a model; its inputs have the concrete sizes of the Facts.

    `reads`: tensors that a replacement takes, perhaps beyond those that the nodes read. None when a
    boundary tensor's type or size is unknown, or a node has a subgraph.
    """
    nodes = sorted((facts.by_key[k] for k in keys), key=lambda n: n.index)
    if any(n.captured for n in nodes):
        return None
    wanted = [*(i for n in nodes for i in n.inputs), *sorted(reads)]
    sources = (facts.producer(i) for i in wanted)
    constants = {p.key: p for p in sources if p is not None and p.is_op("Constant") and p.key not in keys}
    inside = [*constants.values(), *nodes]
    made = {o for n in inside for o in n.outputs if o}
    members = {n.key for n in inside}
    read = dict.fromkeys(i for i in wanted if i)
    constant = facts.stored(name for name in read if name not in facts.inputs)
    inputs = [name for name in read if name not in made and name not in constant]
    visible = [
        o
        for n in nodes
        for o in n.outputs
        if o and (facts.is_output(o) or any(c.key not in members for c in facts.consumers(o)))
    ]
    boundary_in = [_declare(facts, name) for name in inputs]
    boundary_out = [_declare(facts, name) for name in visible]
    if not visible or not all(boundary_in) or not all(boundary_out):
        return None
    proto = onnx.ModelProto(ir_version=max(facts.model.proto.ir_version, 4))
    proto.opset_import.extend(facts.model.proto.opset_import)
    proto.functions.extend(facts.model.proto.functions)
    graph = proto.graph
    graph.name = "region"
    graph.node.extend(n.proto for n in inside)
    graph.initializer.extend(constant.values())
    graph.input.extend(v for v in boundary_in if v is not None)
    graph.output.extend(v for v in boundary_out if v is not None)
    return Model(proto, f"{facts.model.name} (region)", store=facts.model.store)


def _declare(facts: Facts, name: str) -> onnx.ValueInfoProto | None:
    info = facts.concrete.get(name)
    if info is None or not info.elem_type or info.static is None:
        return None
    return onnx.helper.make_tensor_value_info(name, info.elem_type, list(info.static))
