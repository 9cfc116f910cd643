"""Shapes that are computed at run time.

`x.view(x.size(0), -1)` exports as Shape, Gather, Unsqueeze, Concat, Reshape. Where the sizes are known
beforehand all of this is constant; computed at run time it costs little time, but rules and other tools cannot
see the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK607",
    name="shape-chains",
    summary="Shapes that are computed at run time",
    severity="info",
    remedy="optimize",
    action="what is constant is folded; x.flatten(1) instead of x.view(x.size(0), -1) exports as one node",
    fires="at least four nodes compute with shapes",
    quiet="single Shape nodes, graphs whose height and width are open and need them",
    items=("A12",),
    rules=("simplify",),
)
LEAST = 4
LEAST_OPEN = 12
"""Where height or width is open a few are needed."""


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    traced: set[str] = set()
    nodes: list[Node] = []
    for node in facts.nodes:
        if node.is_op("Shape", "Size"):
            chained = True
        else:
            varying = [i for i in node.inputs if i and not facts.is_constant(i)]
            chained = bool(varying) and all(i in traced for i in varying)
        if chained:
            nodes.append(node)
            traced.update(o for o in node.outputs if o)
    shapes = (facts.shape(v.name) or () for v in facts.model.inputs)
    is_open = any(not isinstance(d, int) for shape in shapes for d in shape[2:])
    if len(nodes) >= (LEAST_OPEN if is_open else LEAST):
        yield Found(
            f"{len(nodes)} nodes compute shapes at run time"
            + (", some of which an open height and width need" if is_open else " although height and width are known"),
            tuple(n for n in nodes if n.is_op("Shape", "Size")),
            {"nodes": len(nodes)},
        )
