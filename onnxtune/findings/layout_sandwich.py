"""Maps that are transposed to another layout and back.

Exports from frameworks with channels last put a Transpose before and after the operators that ONNX defines with
channels first. Each copies the whole map with long jumps. Between two that undo each other, everything that
works on single values does so in either layout.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Facts, Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK605",
    name="layout-sandwich",
    summary="Maps that are transposed to another layout and back",
    severity="advice",
    remedy="export",
    action="export with channels first (tf2onnx: --inputs-as-nchw), or run `onnxtune optimize`, which cancels"
    " adjacent pairs",
    fires="a Transpose from channels last to channels first of a map that another Transpose has brought there",
    quiet="one Transpose at the input or before a head; those of attention and shuffles",
    items=("A12",),
    rules=("remove_noop", "simplify"),
)
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
FAR = 12
"""Nodes between the two, at most."""
BREAKS = ("MatMul", "Gemm", "Reshape", "Flatten", "Softmax", "Concat", "Conv")


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    nodes: dict[str, Node] = {}
    for node in facts.nodes:
        if node.is_op("Transpose") and list(node.attribute("perm", [])) == TO_FIRST:
            first = _opener(facts, node)
            if first is not None:
                nodes |= {first.key: first, node.key: node}
    if nodes:
        copied = sum(scene.tensor_bytes(n.outputs[0]) for n in nodes.values())
        share = copied / max(scene.written_bytes, 1)
        yield Found(
            f"{len(nodes)} Transposes bring maps to channels last and back: {share:.0%} of what is written",
            tuple(nodes.values()),
            {"copied_bytes": copied, "share_of_writes": share},
        )


def _opener(facts: Facts, node: Node) -> Node | None:
    """The Transpose to channels last that this one undoes, a few elementwise operators above."""
    tensor = node.input(0)
    for _ in range(FAR):
        maker = facts.producer(tensor)
        if maker is None or maker.is_op(*BREAKS):
            return None
        if maker.is_op("Transpose"):
            return maker if list(maker.attribute("perm", [])) == TO_LAST else None
        moving = [i for i in maker.inputs if i and not facts.is_constant(i)]
        if not moving:
            return None
        tensor = moving[0]
    return None
