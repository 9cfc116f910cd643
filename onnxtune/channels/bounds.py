"""Between which values each channel lies, followed forward through the graph (interval arithmetic).

For each tensor the least and the largest value of every channel over all inputs, -inf and inf where nothing is
known. Bounds start at activations (Relu, Clip, Sigmoid...) and at inputs whose range the user declares. A layer
with weights W = W+ + W- (positive and negative parts) and inputs in [l, h]:

    b + sum(W+ l + W- h)  <=  y  <=  b + sum(W+ h + W- l)

Where zeros may stand around the map, l and h are extended to hold 0: at the border some taps meet zeros, and
each tap meets a value of its own. A channel with upper bound <= 0 is the constant 0 after Relu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis
from onnxtune.channels.contracting import sums
from onnxtune.channels.flow import Channels, analyse, same_channels
from onnxtune.channels.linear import LAYERS, Linear, is_padded, linear
from onnxtune.channels.pointwise import aligned, operand
from onnxtune.channels.rearranging import over_channels, parts
from onnxtune.facts import Facts, Node

Vector = NDArray[np.float64]
Interval = tuple[Vector, Vector]
"""(channels,) lowest and (channels,) highest values; of one element where all channels have the same."""
ANY: Interval = (np.array([-np.inf]), np.array([np.inf]))
Of = Callable[[str], Interval]


def bounds(facts: Facts) -> dict[str, Interval]:
    """The bounds of every tensor of which something is known, for `facts.once`."""
    channels = facts.once(analyse)
    found: dict[str, Interval] = {
        name: (np.array([low]), np.array([high])) for name, (low, high) in facts.ranges.items()
    }
    for node in facts.nodes:
        for output, made in transfer(channels, node, lambda name: found.get(name, ANY)).items():
            if known(made):
                found[output] = made
    return found


def known(interval: Interval) -> bool:
    return any(bool(np.isfinite(end).any()) for end in interval)


def origin(facts: Facts, tensor: str) -> set[str]:
    """Keys of the nodes from which the bounds of a tensor follow, whatever comes into them from elsewhere."""
    channels, found = facts.once(analyse), facts.once(bounds)
    keys: set[str] = set()
    wanted = [tensor]
    while wanted:
        name = wanted.pop()
        node = facts.producer(name)
        if node is None or name not in found or node.key in keys:
            continue
        keys.add(node.key)
        alone = transfer(channels, node, lambda _: ANY).get(name, ANY)
        if not all(np.all(a == b) for a, b in zip(alone, found[name], strict=True)):
            wanted.extend(node.inputs)
    return keys


def transfer(channels: Channels, node: Node, of: Of) -> dict[str, Interval]:
    """The bounds of a node's outputs, given those of its inputs."""
    if node.domain or node.captured:
        return {}
    with np.errstate(all="ignore"):
        made = _transfer(channels, node, of)
    outputs = [o for o in node.outputs if o]
    found = {}
    for output, (low, high) in zip(outputs, made, strict=False):
        axis = channels.axes.get(output)
        if len({1, len(low), len(high)}) > (1 if axis is None else 2):
            low, high = np.array([low.min()]), np.array([high.max()])
        low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
        if axis is None or {len(low), len(high)} <= {1, len(axis.ids)}:
            found[output] = (low, high)
    return found


def _transfer(channels: Channels, node: Node, of: Of) -> list[Interval]:
    facts, x = channels.facts, of(node.input(0))
    if node.is_op(*_MONOTONE):
        return [_monotone(facts, node, x)]
    if node.key in channels.barriers:
        return [_all(x) for _ in node.outputs] if node.is_op(*_MOVES) else []
    if node.is_op(*LAYERS):
        if sums(node, facts, channels.axes.get(node.input(0))):
            return [_contracted(channels, node, x)]
        return [_depthwise(facts, node, x)] if node.is_op("Conv", "ConvTranspose") else []
    if node.is_op("BatchNormalization"):
        scale, shift, mean, variance = (np.asarray(facts.constant(i), np.float64) for i in node.inputs[1:5])
        factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
        return [_shifted(_scaled(x, factor), shift - mean * factor)]
    if node.is_op("Concat"):
        return [_joined(channels, node, [of(i) for i in node.inputs])]
    if node.is_op("Split", "Slice"):
        return _cut(channels, node, x)
    if node.is_op(*_COMBINE) and node.outputs[0] in channels.axes:
        read = [_operand(facts, node, name, of, channels.axes[node.outputs[0]]) for name in node.inputs]
        result = read[0]
        for other in read[1:]:
            result = _COMBINE[node.op_type](result, other)
        return [result]
    return [_map(facts, node, x if same_channels(channels, node) else _all(x))]


def _all(x: Interval) -> Interval:
    """One interval for all channels."""
    return np.array([x[0].min()]), np.array([x[1].max()])


def _with_zero(x: Interval) -> Interval:
    return np.minimum(x[0], 0.0), np.maximum(x[1], 0.0)


def _scaled(x: Interval, factor: Vector) -> Interval:
    low, high = (np.where(factor == 0, 0.0, end * factor) for end in x)
    return np.minimum(low, high), np.maximum(low, high)


def _shifted(x: Interval, shift: Vector) -> Interval:
    return x[0] + shift, x[1] + shift


def _contracted(channels: Channels, node: Node, x: Interval) -> Interval:
    layer = linear(channels, node)
    if layer is None or layer.group > 1:
        return ANY
    low, high = (np.broadcast_to(end, (len(layer.starts),)) for end in (x if layer.uniform else _with_zero(x)))
    positive, negative = _halves(layer)
    return (
        layer.bias + _sum(positive, low, -np.inf) + _sum(negative, high, -np.inf),
        layer.bias + _sum(positive, high, np.inf) + _sum(negative, low, np.inf),
    )


def _halves(layer: Linear) -> tuple[Vector, Vector]:
    """(rows, channels) sums of the positive weights and of the negative ones."""
    stored = layer.stored
    halves = [
        layer.alpha * np.add.reduceat(part(stored, 0), layer.starts, axis=1, dtype=np.float64)
        for part in (np.maximum, np.minimum)
    ]
    return (halves[0], halves[1]) if layer.alpha >= 0 else (halves[1], halves[0])


def _sum(w: Vector, ends: Vector, unknown: float) -> Vector:
    """(rows,): w @ ends; `unknown` where a weight meets an end that is not finite."""
    finite = np.isfinite(ends)
    return np.where((w[:, ~finite] != 0).any(axis=1), unknown, w[:, finite] @ ends[finite])


def _depthwise(facts: Facts, node: Node, x: Interval) -> Interval:
    w, bias = facts.constant(node.input(1)), facts.constant(node.input(2)) if node.input(2) else np.zeros(1)
    if w is None or bias is None:
        return ANY  # stored as integers
    taps = w.reshape(len(w), -1).astype(np.float64)
    if len(taps) != node.attribute("group", 1):
        return ANY
    inside = x if node.op_type == "Conv" and not is_padded(node) else _with_zero(x)
    up, down = (_scaled(inside, part(taps, 0.0).sum(axis=1)) for part in (np.maximum, np.minimum))
    return up[0] + down[0] + bias, up[1] + down[1] + bias


def _joined(channels: Channels, node: Node, read: list[Interval]) -> Interval:
    known = [channels.axes[i] for i in node.inputs if i in channels.axes]
    if len(known) < len(node.inputs) or not over_channels(channels.facts, node, known[0]):
        return np.min([x[0].min() for x in read], keepdims=True), np.max([x[1].max() for x in read], keepdims=True)
    sizes = [len(channels.axes[i].ids) for i in node.inputs]
    low, high = (
        np.concatenate([np.broadcast_to(x[end], (n,)) for x, n in zip(read, sizes, strict=True)]) for end in (0, 1)
    )
    return low, high


def _cut(channels: Channels, node: Node, x: Interval) -> list[Interval]:
    axis = channels.axes.get(node.input(0))
    if axis is None or not over_channels(channels.facts, node, axis) or len(x[0]) == len(x[1]) == 1:
        return [x for o in node.outputs if o]
    pieces = parts(channels.facts, node, Axis(np.arange(len(axis.ids)), axis.blocks, axis.dim))
    low, high = (np.broadcast_to(end, (len(axis.ids),)) for end in x)
    return [(low[p.ids], high[p.ids]) for o, p in zip(node.outputs, pieces, strict=True) if o]


def _operand(facts: Facts, node: Node, name: str, of: Of, axis: Axis) -> Interval:
    """`axis`: of the output."""
    constant, role = facts.constant(name), operand(facts, node, name, axis.dim)
    if constant is None:
        return of(name) if role == "channels" else _all(of(name))
    values = constant.astype(np.float64)
    if role == "per channel":
        values = np.moveaxis(values, aligned(facts, node.outputs[0], name, axis.dim), 0).reshape(len(axis.ids), -1)
    else:
        values = values.reshape(1, -1)
    return values.min(axis=1), values.max(axis=1)


def _product(x: Interval, y: Interval) -> Interval:
    ends = np.broadcast_arrays(*(np.where((a == 0) | (b == 0), 0.0, a * b) for a in x for b in y))
    return np.min(ends, axis=0), np.max(ends, axis=0)


_COMBINE: dict[str, Callable[[Interval, Interval], Interval]] = {
    "Add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "Sum": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "Sub": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "Mul": _product,
    "Max": lambda x, y: (np.maximum(x[0], y[0]), np.maximum(x[1], y[1])),
    "Min": lambda x, y: (np.minimum(x[0], y[0]), np.minimum(x[1], y[1])),
    "Div": lambda x, y: _product(x, (1 / y[1], 1 / y[0])) if (y[0] > 0).all() or (y[1] < 0).all() else ANY,
}


_MONOTONE: dict[str, Callable[[Node, Vector], Vector]] = {
    "Relu": lambda node, x: np.maximum(x, 0.0),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)),
    "HardSigmoid": lambda node, x: np.clip(node.attribute("alpha", 0.2) * x + node.attribute("beta", 0.5), 0, 1),
    "Tanh": lambda node, x: np.tanh(x),
    "Softplus": lambda node, x: np.logaddexp(x, 0.0),
    "LeakyRelu": lambda node, x: np.where(x < 0, node.attribute("alpha", 0.01) * x, x),
    "Elu": lambda node, x: np.where(x < 0, node.attribute("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    **dict.fromkeys(("Identity", "Dropout"), lambda node, x: x),
    "Clip": lambda node, x: x,  # and its limits, see _monotone
}
"""Functions of single values that do not fall (the slope or alpha of the user's may be negative: see _monotone)."""


def _monotone(facts: Facts, node: Node, x: Interval) -> Interval:
    if node.is_op("LeakyRelu", "Elu", "HardSigmoid") and node.attribute("alpha", 1.0) < 0:
        return ANY
    if node.is_op("Dropout") and node.input(2):
        return ANY
    low, high = (_MONOTONE[node.op_type](node, end) for end in x)
    for name, position, pick in (("min", 1, np.maximum), ("max", 2, np.minimum)):
        limit = node.attribute(name) if node.is_op("Clip") else None
        if node.is_op("Clip") and node.input(position):
            stored = facts.constant(node.input(position))
            if stored is None:
                return ANY
            limit = float(stored.reshape(-1)[0])
        if limit is not None:
            low, high = pick(low, limit), pick(high, limit)
    return low, high


_MOVES = (
    "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "DepthToSpace",
    "SpaceToDepth", "Expand", "Tile",
)  # fmt: skip
"""Their outputs hold values of the input, in other places."""
_KEEP = (
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin",
    "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze",
)  # fmt: skip
"""Means and extremes of a map lie between its values."""


def _map(facts: Facts, node: Node, x: Interval) -> Interval:
    if node.is_op(*_KEEP):
        return x
    padded, ceil = is_padded(node), bool(node.attribute("ceil_mode", 0))
    if node.is_op("MaxPool", "AveragePool"):
        if padded and (ceil or any(d != 1 for d in node.attribute("dilations", []))):
            return ANY  # a window may lie outside of the map altogether
        return _with_zero(x) if node.is_op("AveragePool") and (padded or ceil) else x
    if node.is_op("Pad") and node.attribute("mode", "constant") == "constant":
        stored: Any = facts.constant(node.input(2)) if node.input(2) else None
        value = node.attribute("value", 0.0) if stored is None else float(stored.reshape(-1)[0])
        return np.minimum(x[0], value), np.maximum(x[1], value)
    if node.is_op("Pad"):
        return x
    if node.is_op("Resize", "Upsample") and node.attribute("mode", "nearest") in ("nearest", "linear"):
        return x
    return ANY


def fixed(interval: Interval, size: int) -> Vector:
    """(size,): the value of a channel whose bounds are equal, NaN for the others."""
    low, high = (np.broadcast_to(end, (size,)) for end in interval)
    return np.where((low == high) & np.isfinite(low), low, np.nan)
