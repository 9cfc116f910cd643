"""Maps that are the same at every pixel of every sample, whatever the input: one number per channel.

They come from layers that were never trained (a convolution of zeros leaves its bias) and from exporters that
spell out tensors of zeros or ones. Inputs are taken to be finite, so that 0 x = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.facts import Facts, Node

Floats = NDArray[np.float64]

EACH: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "Identity": lambda x: x,
}
"""Operators that take numbers one by one."""


@dataclass(frozen=True, eq=False)
class Uniform:
    """values: (C,), or one for all channels. `nodes`: all nodes that the proof rests on."""

    values: Floats
    nodes: tuple[Node, ...] = ()


def uniform(facts: Facts, tensor: str) -> Uniform | None:
    """The tensor's value per channel, None when it is not known to be the same everywhere."""
    stored = facts.constant(tensor)
    if stored is not None:
        return _stored(stored)
    node = facts.producer(tensor)
    if node is None or node.domain:
        return None
    read: Sequence[str] = ()
    if node.op_type in EACH or node.op_type == "Concat":
        read = node.inputs
    elif node.op_type in ("Split", "Slice"):
        read = node.inputs[:1]
    inputs = [u for i in read if (u := uniform(facts, i)) is not None]
    if len(inputs) < len(read):
        return None
    values = _values(facts, node, tensor, [u.values for u in inputs])
    before = dict.fromkeys(n for u in inputs for n in u.nodes)
    return None if values is None else Uniform(values, (*before, node))


def _stored(stored: NDArray[Any]) -> Uniform | None:
    """A constant with the same numbers at every place; of lower rank only a single number is."""
    wide = stored.astype(np.float64)
    if wide.size == 1:
        return Uniform(wide.reshape(1))
    if wide.ndim != 4 or not wide.size:
        return None
    values = wide[0, :, 0, 0]
    return Uniform(values) if (wide == values.reshape(1, -1, 1, 1)).all() else None


def _values(facts: Facts, node: Node, tensor: str, inputs: list[Floats]) -> Floats | None:
    match node.op_type:
        case "Conv":
            return _convolution(facts, node)
        case "ConstantOfShape":
            return _filled(facts, node)
        case "Concat":
            return _joined(facts, node, inputs)
        case "Split":
            return _part(facts, node, tensor, inputs[0])
        case "Slice":
            return _slice(facts, node, inputs[0])
        case name if name in EACH:
            agree = len({len(v) for v in inputs} - {1}) <= 1
            return np.asarray(EACH[name](*inputs), np.float64) if agree else None
    return None


def _convolution(facts: Facts, node: Node) -> Floats | None:
    weight, bias = facts.constant(node.input(1)), facts.constant(node.input(2))
    if weight is None or weight.any() or (node.input(2) and bias is None):
        return None
    return np.zeros(len(weight)) if bias is None else bias.astype(np.float64)


def _filled(facts: Facts, node: Node) -> Floats | None:
    channels, value = facts.channels(node.outputs[0]), node.attribute("value")
    if channels is None or facts.rank(node.outputs[0]) != 4:
        return None
    return np.full(channels, 0.0 if value is None else numpy_helper.to_array(value).item())


def _joined(facts: Facts, node: Node, inputs: list[Floats]) -> Floats | None:
    sizes = [facts.channels(i) or 0 for i in node.inputs]
    if node.attribute("axis") != 1 or not all(sizes):
        return None
    return np.concatenate([np.broadcast_to(v, (n,)) for v, n in zip(inputs, sizes, strict=True)])


def _part(facts: Facts, node: Node, tensor: str, values: Floats) -> Floats | None:
    sizes = [facts.channels(o) or 0 for o in node.outputs]
    if node.attribute("axis", 0) != 1 or not all(sizes) or sum(sizes) != len(values):
        return None
    at = node.outputs.index(tensor)
    return values[sum(sizes[:at]) : sum(sizes[: at + 1])]


def _slice(facts: Facts, node: Node, values: Floats) -> Floats | None:
    """A range of channels, without steps."""
    bounds = [facts.constant(i) for i in node.inputs[1:] if i]
    numbers = [b.item() for b in bounds if b is not None and b.size == 1]
    start, end, axis, *step = numbers if len(numbers) == len(node.inputs) - 1 >= 3 else (0, 0, 0)
    if axis != 1 or step not in ([], [1]) or len(values) != facts.channels(node.inputs[0]):
        return None
    return values[int(start) : int(end)]
