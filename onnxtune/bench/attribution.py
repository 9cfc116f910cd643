"""Which of the model's own nodes a node of ONNX Runtime's optimised graph stands for. Pure computing on graphs.

ONNX Runtime fuses, renames, folds and inserts. A node of its graph is anchored in the model by the tensors that it
makes, where they have kept their names, else by its own name without what ONNX Runtime hangs on (`_nchwc`, `_token_7`,
`/duplicated`). From there it takes in the model's nodes upwards that nobody else has; for a convolution up to the
convolution. What is left over then (an activation whose tensor has lost its name) belongs to whoever made its input.
Nodes that only change the layout or copy between devices are ONNX Runtime's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxtune.facts import Facts, Node

OWN = frozenset({"ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"})
LAYOUT = frozenset({"Transpose", "Cast"})
"""Its own where they are not in the model under this name."""
SUFFIXES = re.compile(r"(_nchwc|_nhwc|_token_\d+|/duplicated|_fused)$")
NOBODY = -1
ENTERING = frozenset({"Pad", "DequantizeLinear", "QuantizeLinear", "Cast", "Identity"})
"""What ONNX Runtime takes into a following convolution."""


@dataclass(frozen=True)
class Part:
    """A node of the optimised graph and the model's nodes (keys, in the graph's order) that it stands for.

    `serves`: of a node of ONNX Runtime's own, the model's node whose output it brings into another form ("" unknown).
    """

    name: str
    op_type: str
    nodes: tuple[str, ...]
    serves: str = ""


def named(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name for every node that is no other's, so that times can be told apart."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    taken = {n.name for n in result.graph.node}
    seen: set[str] = set()
    for i, node in enumerate(result.graph.node):
        if not node.name or node.name in seen:
            count = i
            while f"{node.op_type}_{count}" in taken:
                count += len(result.graph.node)
            node.name = f"{node.op_type}_{count}"
            taken.add(node.name)
        seen.add(node.name)
    return result


def attributed(facts: Facts, optimized: Sequence[onnx.NodeProto]) -> list[Part]:
    """One Part for each node of the optimised graph; `facts` are of the model under the same names."""
    names = {n.proto.name: n for n in facts.nodes}
    claimed: dict[str, int] = dict.fromkeys(settled(facts), NOBODY)
    regions: list[list[str]] = [[] for _ in optimized]
    own = [n.op_type in OWN or (n.op_type in LAYOUT and n.name not in names) for n in optimized]
    made = {o for n in optimized for o in n.output}
    for place, node in enumerate(optimized):
        if not own[place]:
            _claim(facts, place, _anchors(facts, node, names), made, claimed, regions[place])
    _adopt(facts, claimed, regions)
    order = {n.key: n.index for n in facts.nodes}
    return [
        Part(
            node.name,
            node.op_type,
            tuple(sorted(regions[place], key=order.__getitem__)),
            _served(facts, node) if own[place] or not regions[place] else "",
        )
        for place, node in enumerate(optimized)
    ]


def by_name(facts: Facts, runtime: Iterable[tuple[str, str]]) -> list[Part]:
    """The same from (name, operator) alone, where ONNX Runtime does not give its graph away."""
    names = {n.proto.name: n for n in facts.nodes}
    parts = []
    for name, op_type in runtime:
        node = onnx.NodeProto(name=name, op_type=op_type)
        found = () if op_type in OWN else tuple(n.key for n in _anchors(facts, node, names))
        parts.append(Part(name, op_type, found))
    return parts


def _anchors(facts: Facts, node: onnx.NodeProto, names: Mapping[str, Node]) -> list[Node]:
    """The model's nodes that a node surely stands for: makers of its outputs, or those of its name."""
    found = [p for o in node.output if o and (p := facts.producer(o)) is not None]
    if found:
        return found
    name = node.name
    while True:
        if name in names:
            return [names[name]]
        if (maker := facts.producer(name)) is not None:
            return [maker]
        shorter = SUFFIXES.sub("", name)
        if shorter == name:
            return []
        name = shorter


def _claim(
    facts: Facts, place: int, anchors: Iterable[Node], made: set[str], claimed: dict[str, int], region: list[str]
) -> None:
    """`past`: are we above the convolution already?"""
    wave = [(n, False) for n in anchors]
    direct = {n.key for n, _ in wave}
    while wave:
        node, past = wave.pop()
        owner = claimed.get(node.key)
        taken = owner is not None and not (owner == NOBODY and node.key in direct)
        if taken or (past and node.op_type not in ENTERING):
            continue
        claimed[node.key] = place
        region.append(node.key)
        heavy = past or node.is_op("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "QLinearConv")
        for name in node.inputs:
            if name not in made and (maker := facts.producer(name)) is not None:
                wave.append((maker, heavy))


def _adopt(facts: Facts, claimed: dict[str, int], regions: list[list[str]]) -> None:
    """Nodes that nobody has go to whoever made their last input, in the graph's order."""
    for node in facts.nodes:
        if node.key in claimed:
            continue
        makers = [claimed[p.key] for i in node.inputs if (p := facts.producer(i)) is not None and p.key in claimed]
        if (last := max(makers, default=NOBODY)) != NOBODY:
            claimed[node.key] = last
            regions[last].append(node.key)


def settled(facts: Facts) -> list[str]:
    """Nodes that depend on no input of the model: ONNX Runtime computes them when it loads it."""
    varying = {v.name for v in facts.model.inputs}
    found = []
    for node in facts.nodes:
        if varying.isdisjoint((*node.inputs, *node.captured)) and not node.op_type.startswith("Random"):
            found.append(node.key)
        else:
            varying.update(node.outputs)
    return found


def _served(facts: Facts, node: onnx.NodeProto) -> str:
    for name in (*node.output, *node.input):
        if (maker := facts.producer(name)) is not None:
            return maker.key
    return ""
