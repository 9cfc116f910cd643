"""Nodes on channels in another order: parameters that go where their channels go, weights in the order of
their inputs or outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.permutations import Order
from onnxtune.rule import No

PLAIN = (
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Clip", "Dropout", "Identity"),
    *("Abs", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu"),
    *("Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"),
)
"""Operators that do the same to every channel."""
PER_CHANNEL = ("Add", "Sub", "Mul", "Div", "PRelu")


def through(facts: Facts, new: Builder, node: Node, before: str, x: str, order: Order) -> str | No:
    """The node on the reordered tensor `x` in the place of `before`: its own parameter for channel j becomes
    that of channel order[j]. Returns its output, or why it cannot be."""
    if len([o for o in node.outputs if o]) > 1:
        return No(f"{node.op_type} has several outputs")
    inputs: list[Any] = [x if i == before else i for i in node.inputs]
    if node.is_op(*PLAIN) and node.input(0) == before and inputs.count(x) == 1:
        return new.copy(node.proto, inputs)[0]
    if inputs.count(x) != 1 or not node.is_op(*PER_CHANNEL, "BatchNormalization", "Conv"):
        return No(f"'{before}' is read by {node.op_type}")
    if node.is_op("BatchNormalization", "Conv", "PRelu") and node.input(0) != before:
        return No(f"'{before}' is a parameter of {node.op_type}")
    if node.is_op("Conv") and not _depthwise(facts, node, len(order)):
        return No(f"'{before}' is read by a Conv that is not depthwise")
    rank = facts.rank(before)
    for i, name in enumerate(node.inputs):
        if name in ("", before):
            continue
        value = facts.constant(name)
        if value is None or rank is None:
            return No(f"'{name}' is not constant")
        axis = value.ndim - rank + 1 if node.is_op(*PER_CHANNEL) else 0
        if value.ndim > rank:
            return No(f"'{name}' has more axes than '{before}'")
        if axis >= 0 and value.shape[axis] != 1:
            if value.shape[axis] != len(order):
                return No(f"'{name}' has not one value for each channel")
            inputs[i] = value.take(order, axis)
    return new.copy(node.proto, inputs)[0]


def _depthwise(facts: Facts, node: Node, channels: int) -> bool:
    """Is it a Conv that filters each of these channels by itself?"""
    sides = (facts.channels(node.input(0)), facts.channels(node.outputs[0]))
    return node.is_op("Conv") and sides == (channels, channels) and node.attribute("group", 1) == channels > 1


def weights(
    facts: Facts, node: Node, tensor: str, order: Order, growth: int, *, rows: bool
) -> tuple[NDArray[Any], int] | No | None:
    """Weights and groups of a Conv or ConvTranspose whose outputs (`rows`) or inputs are taken in this order.

    None for other nodes and depthwise layers; a No where the order cannot be had for `growth` times the products.
    """
    groups = int(node.attribute("group", 1))
    if not node.is_op("Conv", "ConvTranspose") or _depthwise(facts, node, len(order)):
        return None
    weight = facts.constant(node.input(1))
    if weight is None or (rows and node.input(2) and facts.constant(node.input(2)) is None):
        return No(f"the weights of the {node.op_type} are not constant")
    if node.input(0) != tensor or tensor in node.inputs[1:]:
        return No(f"'{tensor}' is a weight of {node.op_type}")
    if node.op_type == "ConvTranspose" and groups > 1:
        return No("a grouped ConvTranspose")
    sorted_ = dense(weight, groups).take(order, int(rows == (node.op_type == "ConvTranspose")))
    if groups > 1 and (within := grouped(sorted_, groups)) is not None:
        return within, groups
    return (sorted_, 1) if groups <= growth else No(f"{groups} groups would become a dense layer")


def dense(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """The weights (O, I / groups, taps) of a grouped Conv as those of a dense one, with zeros between the groups."""
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    full = np.zeros((weight.shape[0], groups * columns, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        full[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = weight[g * rows : (g + 1) * rows]
    return full


def grouped(weight: NDArray[Any], groups: int) -> NDArray[Any] | None:
    """The reverse of `dense`, None when there is something between the groups."""
    rows, columns = weight.shape[0] // groups, weight.shape[1] // groups
    blocks = [weight[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
    kept = np.concatenate(blocks)
    return kept if np.array_equal(dense(kept, groups), weight) else None
