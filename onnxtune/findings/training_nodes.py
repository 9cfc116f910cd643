"""Nodes that only training needs.

At inference, Dropout and Identity hand on what they get. ONNX Runtime takes most of them out; other runtimes,
quantizers and pattern matchers stumble over them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK602",
    name="training-nodes",
    summary="Dropout and Identity nodes left in the graph",
    severity="info",
    remedy="optimize",
    action="they are taken out, exactly; or export in evaluation mode",
    fires="Dropout that is switched off, and Identity of a tensor",
    quiet="Identity that names a graph output or copies a weight",
    guidelines=(13,),
    items=("A2",),
    rules=("remove_noop",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    nodes = []
    for node in facts.nodes:
        inner = not any(facts.is_output(o) for o in node.outputs) and not facts.is_constant(node.input(0))
        if (node.is_op("Dropout") and not trains(facts, node)) or (node.is_op("Identity") and inner):
            nodes.append(node)
    if nodes:
        kinds = {op: sum(n.op_type == op for n in nodes) for op in ("Dropout", "Identity")}
        said = " and ".join(f"{count} {op}" for op, count in kinds.items() if count)
        yield Found(f"{said}: nothing to do at inference", tuple(nodes), kinds)


def trains(facts: Facts, node: Node) -> bool:
    """Is a Dropout or BatchNormalization in training mode?"""
    if node.is_op("Dropout") and facts.opset >= 12:
        name = node.input(2)
        stored = facts.constant(name) if name else None
        return bool(name) and (stored is None or bool(np.any(stored)))
    if node.is_op("BatchNormalization"):
        if facts.opset >= 14:
            return bool(node.attribute("training_mode", 0))
        return any(node.outputs[1:])
    return False
