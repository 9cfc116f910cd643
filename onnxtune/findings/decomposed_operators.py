"""Normalizations and activations spelled out in elementary operators.

LayerNormalization as ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div; SiLU, HardSwish, GELU or PReLU as three
to eight nodes: each node writes the whole map and reads it again. Newer opsets have the operators, and runtimes
one kernel for them.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Facts, Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK604",
    name="decomposed-operators",
    summary="Normalizations and activations spelled out in elementary operators",
    severity="advice",
    remedy="optimize",
    action="activations are rewritten in the form that is fastest here; for normalizations export again at"
    " opset 17 or later",
    fires="activations that the rules can rewrite; layer normalization as ReduceMean, Sub, ..., Sqrt, Div;"
    " group normalization as InstanceNormalization between Reshapes",
    quiet="operators of their own, single elementary operators",
    items=("A12",),
    rules=("replace_decomposed_activation", "fuse_prelu"),
    references=("ONNX operators LayerNormalization, GroupNormalization, HardSwish, PRelu",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    places = [p for rule in CHECK.rules for p in scene.proposals(rule)]
    regions = {p.removes for p in places if len(p.removes) > 1}
    regions = {r for r in regions if not any(r < other for other in regions)}
    if regions:
        nodes = tuple(n for n in facts.nodes if any(n.key in r for r in regions))
        written = sum(scene.tensor_bytes(o) for n in nodes for o in n.outputs) / max(scene.written_bytes, 1)
        yield Found(
            f"{several(len(regions), 'activation', 'activations')} spelled out in {len(nodes)} nodes, which write"
            f" {written:.0%} of what is written",
            nodes,
            {"activations": len(regions), "nodes": len(nodes), "share_of_writes": written},
            action="they are rewritten in the form that is fastest here",
        )
    norms = tuple(n for n in facts.nodes if _layer_norm(facts, n) or _group_norm(facts, n))
    if norms:
        yield Found(
            f"{several(len(norms), 'normalization', 'normalizations')} spelled out in other operators",
            norms,
            {"normalizations": len(norms)},
            severity="info",
            remedy="export",
            action="export again at opset 17 or later, which has LayerNormalization (ONNX Runtime fuses most of"
            " these itself)",
            rules=(),
        )


def _group_norm(facts: Facts, node: Node) -> bool:
    """InstanceNormalization of groups: between two Reshapes."""
    above = facts.producer(node.input(0))
    readers = facts.consumers(node.outputs[0])
    around = above is not None and above.is_op("Reshape") and any(n.is_op("Reshape") for n in readers)
    return node.is_op("InstanceNormalization") and around


def _layer_norm(facts: Facts, node: Node) -> bool:
    """(x - mean) / sqrt(mean of squares + e)?"""
    if not node.is_op("Div"):
        return False
    above, root = facts.producer(node.input(0)), facts.producer(node.input(1))
    if above is None or not above.is_op("Sub") or root is None or not root.is_op("Sqrt"):
        return False
    mean, shifted = facts.producer(above.input(1)), facts.producer(root.input(0))
    if mean is None or not mean.is_op("ReduceMean") or shifted is None or not shifted.is_op("Add"):
        return False
    return any((p := facts.producer(i)) is not None and p.is_op("ReduceMean") for i in shifted.inputs)
