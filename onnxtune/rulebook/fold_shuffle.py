"""A permutation of channels taken over by the weights of a layer.

    shuffled[j] = x[p[j]],    i = p^-1 (so that x[c] = shuffled[i[c]])

After it, a layer that sums over channels reads x itself with its columns in order:

    sum over j of W[:, j] shuffled[j] = sum over c of W[:, i[c]] x[c]

Before it, a layer makes the channels in the order wanted: row j is W[p[j]] with bias b[p[j]]. Operators in
between treat channels alike or have one parameter for each, which goes where its channel goes
(`onnxtune.reordering`); Flatten makes a block of columns of every channel. A grouped layer can do that
where the order stays within its groups; where it does not, the same numbers with zeros between the groups
are a dense layer, which can. No number changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.heads import Linear, gemm, linear
from onnxtune.permutations import Order, Shuffle, shuffle
from onnxtune.proposal import Decline, Proposal
from onnxtune.reordering import through, weights
from onnxtune.rule import No

RULE = "fold_shuffle"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        found = shuffle(facts, node)
        if isinstance(found, Shuffle):
            ways = [_after(facts, found, settings["growth"]), _before(facts, found, settings["growth"])]
            yield from (w for w in ways if isinstance(w, Proposal))
            if all(isinstance(w, No) for w in ways):
                yield Decline(RULE, node.key, f"after it: {ways[0]}; before it: {ways[1]}")
        elif isinstance(found, No):
            yield Decline(RULE, node.key, str(found))


def _after(facts: Facts, found: Shuffle, growth: int) -> Proposal | No:
    """Everything that reads the shuffled channels, on the channels as they were."""
    new = Builder(f"{found.y}/{RULE}", facts.names, facts.opset)
    moved: list[tuple[str, str, Order]] = [(found.y, found.x, np.argsort(found.order))]
    removes, outputs = {n.key for n in found.nodes}, dict[str, str]()
    for tensor, x, order in moved:  # it grows on the way
        if facts.is_output(tensor):
            return No(f"'{tensor}' is a graph output")
        for node in facts.consumers(tensor):
            made = _absorb(facts, new, node, tensor, x, order, growth)
            if isinstance(made, No):
                return made
            result, absorbed, order_after = made
            removes |= absorbed
            last = max((facts.by_key[k] for k in absorbed), key=lambda n: n.index).outputs[0]
            if order_after is None:
                outputs[last] = result
            else:
                moved.append((last, result, order_after))
    return _proposal(found, removes, new, outputs, "after") if outputs else No("nothing reads it")


Made = tuple[str, set[str], Order | None]
"""The new tensor, the nodes that it replaces, the order of its channels (None: as before)."""


def _absorb(facts: Facts, new: Builder, node: Node, tensor: str, x: str, order: Order, growth: int) -> Made | No:
    layer = linear(facts, node) if node.is_op("Gemm", "MatMul") else None
    if isinstance(layer, Linear) and layer.x == tensor and tensor not in node.inputs[1:]:
        y = gemm(new, x, layer.weight[:, order], layer.bias)
        return y, {n.key for n in layer.nodes}, None
    if node.is_op("Flatten") and node.attribute("axis", 1) == 1:
        spatial = (facts.shape(tensor) or (None,) * 3)[2:]
        if not all(isinstance(d, int) for d in spatial):
            return No("the size of the flattened map is not declared")
        size = int(np.prod([d for d in spatial if isinstance(d, int)], dtype=np.int64))
        columns = (order[:, None] * size + np.arange(size)).ravel()
        return new.copy(node.proto, [x])[0], {node.key}, columns
    if (ready := weights(facts, node, tensor, order, growth, rows=False)) is not None:
        if isinstance(ready, No):
            return ready
        return new.copy(node.proto, [x, ready[0], *node.inputs[2:]], group=ready[1])[0], {node.key}, None
    passed = through(facts, new, node, tensor, x, order)
    return passed if isinstance(passed, No) else (passed, {node.key}, order)


def _before(facts: Facts, found: Shuffle, growth: int) -> Proposal | No:
    """The layer that makes the channels, and what lies between, in the order wanted."""
    chain: list[Node] = []
    tensor, removes = found.x, {n.key for n in found.nodes}
    while True:
        node = facts.producer(tensor)
        if node is None:
            return No(f"'{tensor}' is a graph input")
        if reason := facts.why_not_private(tensor, removes):
            return No(reason)
        if facts.channels(tensor) != len(found.order) or node.is_op("Concat", "Split"):
            return No(f"'{tensor}' is made by {node.op_type} of other channels")
        removes.add(node.key)
        ready = weights(facts, node, node.input(0), found.order, growth, rows=True)
        if ready is not None:
            break
        chain.append(node)
        tensor = next((i for i in node.inputs if not facts.is_constant(i)), "")
    if isinstance(ready, No):
        return ready
    new = Builder(f"{found.y}/{RULE}", facts.names, facts.opset)
    bias = facts.constant(node.input(2)) if node.input(2) else None
    rest = [] if bias is None else [bias[found.order]]
    y: str | No = new.copy(node.proto, [node.input(0), ready[0], *rest], group=ready[1])[0]
    for link in reversed(chain):
        source = next(i for i in link.inputs if not facts.is_constant(i))
        y = through(facts, new, link, source, str(y), found.order)
        if isinstance(y, No):
            return y
    return _proposal(found, removes, new, {found.y: str(y)}, "before")


def _proposal(found: Shuffle, removes: set[str], new: Builder, outputs: Mapping[str, str], side: str) -> Proposal:
    title = f"{' + '.join(n.op_type for n in found.nodes)} -> in the weights of the layer {side}"
    return Proposal(RULE, title, frozenset(removes), new.finish(outputs), settings={"side": side})
