"""Nodes of a graph read as stencils: which operators are affine maps of one tensor, and with which numbers.

Conv, AveragePool                     windows
BatchNormalization (inference)        scale and shift per channel
Mul, Div, Add, Sub with a constant    the same, where the constant is a scalar or one number per channel
Identity, Dropout (inference)         nothing
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import convolution
from onnxtune.facts import Facts, Node
from onnxtune.stencil import Stencil, Vector, box, identity, of
from onnxtune.windows import window

POINTWISE = ("Mul", "Div", "Add", "Sub")
NOTHING = ("Identity", "Dropout")


def value(facts: Facts, tensor: str) -> NDArray[Any] | None:
    """The constant, also where it comes through an Identity or Unsqueeze for one reader (see `makers`)."""
    node = _passes(facts, tensor)
    if node is None:
        return facts.constant(tensor) if tensor else None
    stored = value(facts, node.input(0))
    if stored is None or node.is_op("Identity"):
        return stored
    axes = facts.constant(node.input(1)) if node.input(1) else np.array(node.attribute("axes", []))
    return None if axes is None else np.expand_dims(stored, tuple(axes.ravel().tolist()))


def makers(facts: Facts, node: Node) -> list[Node]:
    """The Identity and Unsqueeze nodes that make the node's constants (exporters share equal weights that way).

    They belong to the region: what a rewrite computes from their result must not come from outside.
    """
    result = []
    for tensor in node.inputs:
        while value(facts, tensor) is not None and (found := _passes(facts, tensor)) is not None:
            result.append(found)
            tensor = found.input(0)
    return result


def _passes(facts: Facts, tensor: str) -> Node | None:
    """The Identity or Unsqueeze that makes the tensor, when one node alone reads it."""
    node = facts.producer(tensor)
    if node is None or not node.is_op("Identity", "Unsqueeze") or facts.is_output(tensor):
        return None
    return node if len(facts.consumers(tensor)) == 1 else None


def argument(facts: Facts, node: Node) -> str | None:
    """The tensor of which the node is an affine map by the look of it (`step` has the last word)."""
    if node.is_op("Conv", "AveragePool", "BatchNormalization", *NOTHING):
        return node.input(0)
    if not node.is_op(*POINTWISE) or len(node.inputs) != 2:
        return None
    variable = [i for i in node.inputs if value(facts, i) is None]
    if len(variable) != 1 or (node.is_op("Div") and variable[0] != node.input(0)):
        return None
    return variable[0]


def step(facts: Facts, node: Node, channels: int, rank: int) -> Stencil | str:
    """The node as a map of its argument, which has `channels` and `rank`; or in words why it is none."""
    if node.is_op("Conv"):
        conv = convolution(facts, node)
        found = conv if isinstance(conv, str) else of(conv)
        return found if isinstance(found, str) or found.finite else f"the weights of '{node.key}' are not finite"
    if node.is_op("AveragePool"):
        return _average(facts, node, channels)
    if node.is_op(*NOTHING):
        return _nothing(facts, node, channels, rank)
    numbers = _normalization(facts, node) if node.is_op("BatchNormalization") else _pointwise(facts, node, rank)
    if isinstance(numbers, str):
        return numbers
    if any(v.size not in (1, channels) for v in numbers):
        return f"'{node.key}' has other numbers of channels"
    if not all(np.isfinite(v).all() for v in numbers):
        return f"the numbers of '{node.key}' are not finite"
    return identity(channels, rank - 2).scaled(*numbers)


def _nothing(facts: Facts, node: Node, channels: int, rank: int) -> Stencil | str:
    training = node.input(2) and value(facts, node.input(2)) is None
    if training or (node.input(2) and bool(np.any(value(facts, node.input(2))))):
        return "a Dropout in training mode"
    if any(o and (facts.consumers(o) or facts.is_output(o)) for o in node.outputs[1:]):
        return "the Dropout's mask is used"
    return identity(channels, rank - 2)


def _average(facts: Facts, node: Node, channels: int) -> Stencil | str:
    found = window(facts, node)
    if isinstance(found, str):
        return found
    if node.attribute("ceil_mode", 0):
        return "an AveragePool with ceil_mode = 1"
    if any(found.pads) and not node.attribute("count_include_pad", 0):
        return "an AveragePool whose padding does not count divides by less at the border"
    return box(channels, found)


def _normalization(facts: Facts, node: Node) -> tuple[Vector, Vector] | str:
    if node.attribute("training_mode", 0) or node.attribute("spatial", 1) == 0:
        return "a BatchNormalization in training mode or with spatial = 0"
    used = [o for o in node.outputs[1:] if o and (facts.consumers(o) or facts.is_output(o))]
    if used:
        return f"the statistics output '{used[0]}' is used"
    stored = [value(facts, i) for i in node.inputs[1:5]]
    if any(v is None or v.dtype.kind != "f" for v in stored):
        return f"the statistics of '{node.key}' are not constant"
    gamma, beta, mean, variance = (v.astype(np.float64) for v in stored if v is not None)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    return scale, beta - mean * scale


def _pointwise(facts: Facts, node: Node, rank: int) -> tuple[Vector, Vector] | str:
    first = value(facts, node.inputs[1]) is not None
    stored = value(facts, node.inputs[1 if first else 0])
    vector = None if stored is None else per_channel(stored, rank)
    if vector is None:
        return f"the constant of '{node.key}' is not one number per channel"
    one, none = np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        return {
            "Mul": (vector, none),
            "Div": (1 / vector, none),
            "Add": (one, vector),
            "Sub": (one, -vector) if first else (-one, vector),
        }[node.op_type]


def per_channel(constant: NDArray[Any], rank: int) -> Vector | None:
    """A constant operand of a tensor with channels on axis 1 as (C,) or (1,); None where it is more than that."""
    if constant.dtype.kind != "f" or constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    return constant.astype(np.float64).ravel() if math.prod(shape) == shape[1] else None


def channels_of(facts: Facts, tensor: str) -> int | None:
    """Channels of a tensor, from its shape or from a Conv that reads it."""
    known = facts.channels(tensor)
    for node in facts.consumers(tensor):
        weight = facts.shape(node.input(1)) if node.is_op("Conv") and node.input(0) == tensor else None
        if known is None and weight and isinstance(weight[1], int):
            known = weight[1] * int(node.attribute("group", 1))
    return known


def map_size(facts: Facts, tensor: str) -> tuple[int, ...] | None:
    """Height, width... of a tensor as declared; None when one of them may vary."""
    dims = tuple(facts.shape(tensor) or ())[2:]
    known = tuple(d for d in dims if isinstance(d, int))
    return known if dims and len(known) == len(dims) else None


def fits(dtype: np.dtype[Any], *arrays: NDArray[np.float64] | None) -> bool:
    """Do the numbers stay finite in the model's type?"""
    with np.errstate(over="ignore"):
        return all(bool(np.isfinite(a.astype(dtype)).all()) for a in arrays if a is not None)
