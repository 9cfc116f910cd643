"""Operators that change each number of a map on its own: they commute with whatever only moves numbers."""

from __future__ import annotations

from collections.abc import Sequence

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder

# fmt: off
UNARY = frozenset({
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Softplus", "Softsign", "Tanh", "Sigmoid",
    "HardSigmoid", "HardSwish", "Mish", "Gelu", "Swish", "Erf", "Abs", "Neg", "Exp", "Sqrt", "Clip",
})
# fmt: on
FUSED = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip"})
"""Activations that ONNX Runtime computes inside of a Conv."""


def is_pointwise(facts: Facts, node: Node, *, channelwise: bool = True) -> bool:
    """Does the node change each number of its first input on its own?

    Its other inputs are constants without a map: limits of a Clip, and slopes per channel (`channelwise`).
    """
    if node.is_op(*UNARY):
        return all(_single(facts, i) for i in node.inputs[1:] if i)
    if not node.is_op("PRelu"):
        return False
    slope = facts.constant(node.input(1))
    if slope is None or slope.ndim > 4 or (not channelwise and slope.size != 1):
        return False
    rank = facts.rank(node.input(0))
    return slope.size == 1 or (rank is not None and slope.size == max(slope.shape[-(rank - 1) : 2 - rank], default=1))


def _single(facts: Facts, tensor: str) -> bool:
    stored = facts.constant(tensor)
    return stored is not None and stored.size == 1


def before(facts: Facts, tensor: str) -> tuple[list[Node], str]:
    """The pointwise nodes that end in this tensor, first one first, and what the first of them reads."""
    found: list[Node] = []
    node = facts.producer(tensor)
    while node is not None and is_pointwise(facts, node):
        found.insert(0, node)
        tensor = node.inputs[0]
        node = facts.producer(tensor)
    return found, tensor


def fused_after(facts: Facts, tensor: str) -> Node | None:
    """The activation that alone reads this tensor and that ONNX Runtime computes inside of a Conv before it."""
    readers = facts.consumers(tensor)
    if len(readers) != 1 or facts.is_output(tensor) or not readers[0].is_op(*FUSED):
        return None
    return readers[0] if is_pointwise(facts, readers[0]) and readers[0].inputs[0] == tensor else None


def replay(new: Builder, x: str, nodes: Sequence[Node]) -> str:
    """The same operators, one after the other, on x."""
    for node in nodes:
        x = new.copy(node.proto, [x, *node.inputs[1:]])[0]
    return x
