"""A model cut to what computes some of its tensors, with these as its outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxtune.facts import Facts
from onnxtune.model import Model


def exposing(model: Model, tensors: Sequence[str]) -> Model:
    """The same inputs, these tensors as outputs, and only the nodes and weights that they need."""
    facts, graph = Facts(model), model.proto.graph
    needed: set[str] = set()
    wave = list(tensors)
    while wave:
        node = facts.producer(wave.pop())
        if node is not None and node.key not in needed:
            needed.add(node.key)
            wave += [*node.inputs, *node.captured]
    nodes = [n for n in facts.nodes if n.key in needed]
    read = {i for n in nodes for i in (*n.inputs, *n.captured)} | set(tensors)
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.functions.extend(model.proto.functions)
    proto.graph.name = graph.name
    proto.graph.node.extend(n.proto for n in nodes)
    proto.graph.input.extend(graph.input)
    proto.graph.initializer.extend(w for w in graph.initializer if w.name in read or w.name in facts.inputs)
    proto.graph.sparse_initializer.extend(w for w in graph.sparse_initializer if w.values.name in read)
    for name in dict.fromkeys(tensors):
        info = facts.declared.get(name)
        elem = info.elem_type if info else onnx.TensorProto.FLOAT
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, elem, None))
    return Model(proto, model.name, store=model.store)
