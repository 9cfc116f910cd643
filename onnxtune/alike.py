"""Places that are alike: the same operators, shapes and types go, and the same come. What one of them costs, all do."""

from __future__ import annotations

import onnx

from onnxtune.cache import structure
from onnxtune.facts import Facts
from onnxtune.later import Later
from onnxtune.proposal import Proposal


def signature(facts: Facts, proposal: Proposal) -> str:
    """Equal for proposals on one graph that change equal nodes in an equal way, whatever names and larger weights are.

    Also for what cannot be cut out of the model, so that it need not be tried on the whole model place by place.
    """
    removed = sorted((facts.by_key[key] for key in proposal.removes), key=lambda n: n.index)
    read = dict.fromkeys(i for n in removed for i in (*n.inputs, *sorted(n.captured)) if i)
    read |= dict.fromkeys(i for n in proposal.fragment.nodes for i in n.input if i)
    read |= dict.fromkeys(proposal.fragment.aliases.values())
    made = {o for n in removed for o in n.outputs if o} | proposal.fragment.tensors
    outside = [name for name in read if name not in made]
    makers = (facts.producer(name) for name in outside)
    constants = {p.key: p for p in makers if p is not None and p.is_op("Constant")}
    stored = facts.stored(name for name in outside if facts.is_constant(name))
    proto = onnx.ModelProto()
    proto.opset_import.extend(facts.model.proto.opset_import)
    graph = proto.graph
    graph.node.extend(n.proto for n in (*constants.values(), *removed))
    graph.node.extend(proposal.fragment.nodes)
    for old, new in proposal.fragment.aliases.items():
        graph.node.add(op_type="is now", input=[new], output=[old])
    graph.initializer.extend(stored.values())
    computed = [w.described() for w in proposal.fragment.stored if isinstance(w, Later)]
    graph.initializer.extend(w for w in proposal.fragment.stored if not isinstance(w, Later))
    graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in computed)
    graph.input.extend(_told(facts, name) for name in outside if name not in stored)
    seen = (o for n in removed for o in n.outputs if o)
    visible = (o for o in seen if facts.why_not_private(o, proposal.removes) is not None)
    graph.output.extend(_told(facts, name) for name in visible)
    return structure(proto)


def _told(facts: Facts, name: str) -> onnx.ValueInfoProto:
    """What is known of a tensor at the measured sizes."""
    info = facts.concrete.get(name)
    if info is None:
        return onnx.ValueInfoProto(name=name)
    return onnx.helper.make_tensor_value_info(name, info.elem_type, info.shape)
