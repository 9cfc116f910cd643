"""Constant padding moved from a Pad node into the convolution or pool that follows.

    Conv          its own pads are zeros, so zeros of a Pad add to them: pads' = pads + padded.
    AveragePool   the same where padding counts in the divisor (count_include_pad = 1). Without pads of
                  its own every window is full of Pad's output, which is counting too.
    MaxPool       its own pads never win. A Pad's value never wins against a real element either if it is
                  not above the least value that the input can take: anything for -infinity; 0 after
                  Relu, Sigmoid, HardSigmoid; min after Clip. Both agree if every window holds a real
                  element: no dilations, ceil_mode 0, and all pads smaller than the kernel.

ceil_mode = 1 is refused for averages as well: which elements its last window counts differs between
versions of the operator. The node that bounds a MaxPool's input becomes part of the region.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.windows import Padding, Window, padding, window

RULE = "fold_pad"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for pad in facts.nodes:
        if not pad.is_op("Pad"):
            continue
        readers = [n for n in facts.consumers(pad.outputs[0]) if n.is_op("Conv", "AveragePool", "MaxPool")]
        if not readers:
            continue
        result = _fold(facts, pad, readers[0])
        yield Decline(RULE, pad.key, str(result)) if isinstance(result, No) else result


def _fold(facts: Facts, pad: Node, node: Node) -> Proposal | No:
    found, own = padding(facts, pad), window(facts, node)
    seen = facts.why_not_private(pad.outputs[0], {node.key})
    if seen or pad.outputs[0] in node.inputs[1:]:
        return No(seen or "the padded tensor is a weight")
    if isinstance(found, str):
        return No(found)
    if isinstance(own, str):
        return No(own)
    if found.mode != "constant":
        return No(f"mode '{found.mode}'")
    begin, end = found.at(len(own.kernel) + 2)
    if any(begin[:2]) or any(end[:2]):
        return No("it pads the batch or the channels")
    if min(begin + end) < 0:
        return No("negative pads crop")
    wider = own.padded(begin[2:], end[2:])
    bound, problem = None, ""
    if node.op_type == "MaxPool":
        bound, problem = _max_pool(facts, pad, node, found, wider)
    elif found.value != 0:
        problem = f"the pad value is {found.value:g}, not 0"
    elif node.op_type == "AveragePool":
        problem = _average_pool(node, own, wider)
    return No(problem) if problem else _proposal(facts, pad, node, bound, wider)


def _average_pool(node: Node, own: Window, wider: Window) -> str:
    if node.attribute("ceil_mode", 0):
        return "ceil_mode = 1"
    if any(own.pads) and not node.attribute("count_include_pad", 0):
        return "the pool has pads that it does not count"
    return "" if wider.always_meets_input else "dilations, or pads that reach the kernel"


def _max_pool(facts: Facts, pad: Node, node: Node, found: Padding, wider: Window) -> tuple[Node | None, str]:
    """The node that bounds the input from below, when one is needed; and what is wrong."""
    if len(node.outputs) > 1 and node.outputs[1]:
        return None, "the pool's Indices output counts the padding"
    if node.attribute("ceil_mode", 0):
        return None, "ceil_mode = 1"
    if not wider.always_meets_input:
        return None, "a window could hold nothing but padding"
    if found.value == -math.inf:
        return None, ""
    source = facts.producer(pad.inputs[0])
    least = _least(facts, source) if source else -math.inf
    return source, "" if found.value <= least else f"the input is not proven to be at least {found.value:g}"


def _least(facts: Facts, node: Node) -> float:
    """A lower bound of the node's output."""
    if node.is_op("Relu", "Sigmoid", "HardSigmoid"):
        return 0.0
    if not node.is_op("Clip"):
        return -math.inf
    low, high = (_limit(facts, node, name, i) for i, name in ((1, "min"), (2, "max")))
    if node.input(2) and high is None:
        return -math.inf
    return -math.inf if low is None else min(low, math.inf if high is None else high)  # min > max gives max


def _limit(facts: Facts, node: Node, name: str, position: int) -> float | None:
    """A limit of a Clip, from its attribute or constant input."""
    stored = facts.constant(node.input(position)) if node.input(position) else None
    value = node.attribute(name) if stored is None else stored.ravel()[0]
    return None if value is None else float(value)


def _proposal(facts: Facts, pad: Node, node: Node, bound: Node | None, wider: Window) -> Proposal:
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    x, region, outputs = pad.inputs[0], [pad, node], dict[str, str]()
    if bound is not None:  # it stays, inside the region, because the proof needs it
        x = new.copy(bound.proto, bound.inputs)[0]
        region.insert(0, bound)
        if facts.why_not_private(pad.inputs[0], {pad.key}):
            outputs[pad.inputs[0]] = x
    count = 1 if node.op_type == "AveragePool" else None
    changed = {"pads": wider.pads, "auto_pad": None} | ({"count_include_pad": count} if count else {})
    outputs[node.outputs[0]] = new.copy(node.proto, [x, *node.inputs[1:]], **changed)[0]
    title = f"Pad + {node.op_type} -> {node.op_type}"
    return Proposal(RULE, title, frozenset(n.key for n in region), new.finish(outputs))
