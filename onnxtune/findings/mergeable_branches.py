"""Parallel linear branches that are added up.

Convolution is linear in its kernel: conv(x, A) + conv(x, B) = conv(x, A + B), smaller kernels embedded in the
middle of the largest, an identity as a kernel with a one in its centre, batch normalization folded first.
Networks that are trained with several kernel sizes in parallel (ACNet, RepVGG, DBB) are meant to be merged
before they are deployed.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK206",
    name="mergeable-branches",
    summary="Parallel linear branches that are added up",
    severity="warning",
    remedy="optimize",
    action="the branches become one convolution, exactly",
    fires="an Add of branches of one tensor, each of at most one convolution and normalization, one of them a"
    " convolution",
    quiet="an activation or a second convolution in a branch, different strides, branches that are seen elsewhere",
    guidelines=(8, 11),
    items=("A2",),
    rules=("merge_parallel_convs",),
    references=("Ding et al.: RepVGG, 2021", "Ding et al.: ACNet, 2019"),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    inner = {n.key for n in facts.nodes if _sum(scene, n) and _feeds_sum(scene, n)}
    nodes, convolutions = [], []
    for node in facts.nodes:
        if not _sum(scene, node) or node.key in inner:
            continue
        branches = [_branch(scene, t) for t in _terms(scene, node)]
        known = [b for b in branches if b is not None]
        inside = [c for _, c in known if c is not None]
        same = len({source for source, _ in known}) == 1 and len(known) == len(branches)
        if same and inside and _alike(scene, inside, identity=len(inside) < len(known)):
            nodes.append(node)
            convolutions += inside
    if nodes:
        ends = f"{several(len(nodes), 'sum', 'sums')} of"
        yield Found(
            f"{ends} parallel branches ({len(convolutions)} convolutions) that one convolution each can replace",
            tuple(nodes),
            {"sums": len(nodes), "convolutions": len(convolutions), "share_of_macs": scene.share(convolutions)},
        )


def _sum(scene: Scene, node: Node) -> bool:
    constant = any(scene.facts.is_constant(i) for i in node.inputs)
    return node.is_op("Add", "Sum") and not constant


def _feeds_sum(scene: Scene, node: Node) -> bool:
    readers = scene.facts.consumers(node.outputs[0])
    return len(readers) == 1 and _sum(scene, readers[0]) and not scene.facts.is_output(node.outputs[0])


def _terms(scene: Scene, node: Node) -> Iterator[str]:
    """The operands of a tree of sums."""
    for tensor in node.inputs:
        maker = scene.facts.producer(tensor)
        if maker is not None and _sum(scene, maker) and _feeds_sum(scene, maker):
            yield from _terms(scene, maker)
        else:
            yield tensor


def _branch(scene: Scene, tensor: str) -> tuple[str, Node | None] | None:
    """(where the branch starts, its convolution or None); a branch without convolution starts behind its norm."""
    facts = scene.facts
    convolution = None
    while (node := facts.producer(tensor)) is not None:
        private = not facts.is_output(tensor) and len(facts.consumers(tensor)) == 1
        if node.is_op("BatchNormalization", "Identity", "Dropout") and private:
            tensor = node.input(0)
        elif node.is_op("Conv") and private and convolution is None and facts.is_constant(node.input(1)):
            convolution, tensor = node, node.input(0)
            break
        else:
            break
    return tensor, convolution


def _alike(scene: Scene, nodes: list[Node], *, identity: bool) -> bool:
    """Do the kernels fit into the largest one, at the same places?"""
    if any(len(scene.facts.size(n.input(1)) or ()) != 4 or scene.pads(n) is None for n in nodes):
        return False
    plain = [(1, 1, 0, 0, 1)] if identity else []
    places = []
    for node in nodes:
        (height, width), pads, strides = scene.kernel(node), scene.pads(node), scene.strides(node)
        assert pads is not None, "checked above"
        if max(node.attribute("dilations", [1])) > 1:
            return False
        places.append((*strides, (height - 1) - 2 * pads[0], (width - 1) - 2 * pads[1], 1))
    widths = {scene.widths(n)[:2] for n in nodes}
    return len({*places, *plain}) == 1 and len(widths) == 1 and (not identity or all(i == o for i, o in widths))
