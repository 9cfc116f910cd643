"""Channels that are positive multiples of each other, followed forward through the graph.

For each tensor two vectors over its channels: a label and a factor. Channels with one label are
multiples of one map, by their factors. A layer's rows are compared after columns that meet the same
label have been added up; what works on single channels keeps channels together whose parameters are
equal, or proportional where that is enough:

    f(a x) = a f(x) for a > 0    Relu, LeakyRelu, PRelu (equal slopes), pools, means, Resize... : factors stay
    other functions              only channels with equal factors stay together
    a x + t                      (a, t) is compared like a row of a layer

Comparing starts from a random projection of the normalised rows; neighbours there are compared in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis, Integers
from onnxtune.channels.contracting import sums
from onnxtune.channels.flow import Channels, same_channels
from onnxtune.channels.linear import LAYERS, Linear, Vector, linear
from onnxtune.channels.pointwise import aligned, operand
from onnxtune.channels.ranges import UNARY
from onnxtune.channels.rearranging import over_channels, parts
from onnxtune.facts import Facts, Node

ULPS = 4.0
"""How far proportional rows may be apart, in units of the rounding of their largest weight (of the bias itself)."""
CHUNK = 64
"""Rows that are turned into float64 at a time."""
CLOSE = 1e-5
"""How far their projections may be apart. (float32 weights are known to 1e-7 of themselves.)"""
HOMOGENEOUS = (
    "Relu", "LeakyRelu", "Abs", "Neg", "Resize", "Upsample", "Transpose", "MaxPool", "AveragePool", "GlobalMaxPool",
    "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "Flatten", "Reshape",
    "Squeeze", "Unsqueeze", "Expand",
)  # fmt: skip
"""f(a x) = a f(x) for a > 0."""


@dataclass(frozen=True, eq=False)
class Marks:
    """labels, factors: (channels,)."""

    labels: Integers
    factors: Vector

    def part(self, places: Integers) -> Marks:
        return Marks(self.labels[places], self.factors[places])


@dataclass(eq=False)
class Multiples:
    """What is known of the tensors so far."""

    channels: Channels
    marks: dict[str, Marks] = field(default_factory=dict)
    count: int = 0

    def fresh(self, size: int) -> Marks:
        self.count += size
        return Marks(np.arange(self.count - size, self.count), np.ones(size))

    def together(self, factors: Vector, *keys: NDArray[Any]) -> Marks:
        """New labels for the channels that agree in all keys (exactly): vectors or matrices over channels."""
        columns = [np.asarray(k, np.float64).reshape(len(factors), -1) for k in keys]
        _, labels = np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)
        start = self.fresh(len(factors)).labels[0] if len(factors) else 0
        return Marks(start + labels.ravel(), factors)

    def proportional(self, rows: NDArray[Any], shifts: Vector, keys: NDArray[Any], roundoff: float) -> Marks:
        """New labels for the channels that agree in `keys` and are positive multiples of each other.

        rows: (channels, weights); shifts: (channels,) what is added.
        """
        generator = np.random.default_rng(0)
        directions, last = generator.standard_normal(rows.shape[1]), generator.standard_normal()
        size, projection = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK].astype(np.float64)
            size[start : start + CHUNK] = np.sqrt((some * some).sum(axis=1) + shifts[start : start + CHUNK] ** 2)
            projection[start : start + CHUNK] = some @ directions + shifts[start : start + CHUNK] * last
        scale = np.where(size > 0, size, 1.0)
        projection /= scale
        labels, factors = self.fresh(len(rows)).labels.copy(), np.ones(len(rows))
        heads: list[int] = []
        for i in np.lexsort((projection, keys)).tolist():
            heads = [h for h in heads if keys[h] == keys[i] and projection[i] - projection[h] <= CLOSE]
            for head in heads:
                if _close(rows, shifts / scale, 1 / scale, head, i, ULPS * roundoff):
                    labels[i], factors[i] = labels[head], scale[i] / scale[head]
                    break
            else:
                heads.append(i)
        return Marks(labels, factors)


def _close(rows: NDArray[Any], shifts: Vector, factors: Vector, first: int, second: int, relative: float) -> bool:
    """Do two rows, times their factors, differ by rounding alone? The shifts are given multiplied."""
    a, b = (rows[i].astype(np.float64) * factors[i] for i in (first, second))
    if abs(shifts[first] - shifts[second]) > relative * abs(shifts[first]):
        return False
    return bool(np.abs(a - b).max(initial=0.0) <= relative * np.abs(a).max(initial=0.0))


def multiples(channels: Channels) -> dict[str, Marks]:
    """Labels and factors of the channels of all tensors with known channels."""
    found = Multiples(channels)
    for tensor, axis in channels.axes.items():
        if channels.facts.producer(tensor) is None:
            found.marks[tensor] = found.fresh(len(axis.ids))
    for node in channels.facts.nodes:
        outputs = [o for o in node.outputs if o in channels.axes]
        if not outputs:
            continue
        made = None if node.key in channels.barriers else _marks(found, node, outputs)
        for place, output in enumerate(outputs):
            size = len(channels.axes[output].ids)
            found.marks[output] = made[place] if made and len(made[place].labels) == size else found.fresh(size)
    return found.marks


def _marks(found: Multiples, node: Node, outputs: list[str]) -> list[Marks] | None:
    """Marks of a node's outputs; None: nothing is known."""
    facts, x = found.channels.facts, found.marks.get(node.input(0))
    if node.is_op(*LAYERS) and sums(node, facts, found.channels.axes.get(node.input(0))):
        return _layer(found, node)
    if node.is_op("Concat"):
        return _concat(found, node)
    if node.is_op("Add", "Sub", "Sum", "Max", "Min"):
        return _sum(found, node)
    if node.is_op("Mul"):
        return _product(found, node)
    if x is None:
        return None
    if node.is_op("Split", "Slice", "Gather"):
        axis = found.channels.axes[node.input(0)]
        if over_channels(facts, node, axis):
            pieces = parts(facts, node, Axis(np.arange(len(axis.ids)), axis.blocks, axis.dim))
            return [x.part(p.ids) for o, p in zip(node.outputs, pieces, strict=True) if o in outputs]
        return [found.together(x.factors, x.labels) for _ in outputs]
    if node.is_op("Identity", "Dropout"):
        return [x]
    if node.is_op("BatchNormalization"):
        return [_normalized(found, node, x)]
    if node.is_op("Conv", "ConvTranspose"):
        return [_depthwise(found, node, x)]
    if node.is_op("PRelu"):
        slope = _rows(facts, node, node.input(1), found.channels.axes[outputs[0]])
        return None if slope is None else [found.together(x.factors, x.labels, slope)]
    if not same_channels(found.channels, node):
        return None
    if node.is_op(*HOMOGENEOUS) or _pads_with_zeros(facts, node):
        return [found.together(x.factors, x.labels)]
    if node.is_op("Clip", "Pad", *UNARY):
        return [found.together(np.ones(len(x.labels)), x.labels, x.factors)]
    return None


def _layer(found: Multiples, node: Node) -> list[Marks] | None:
    layer, x = linear(found.channels, node), found.marks.get(node.input(0))
    if layer is None or layer.group > 1:
        return None
    w = layer.stored if x is None else _summed(layer, x)
    shifts = layer.bias / (layer.alpha or 1.0)
    return [found.proportional(w, shifts, np.zeros(len(w)), _roundoff(layer.dtype))]


def _summed(layer: Linear, x: Marks) -> NDArray[Any]:
    """The layer's weights with columns that meet multiples of one channel added up."""
    _, head, group = np.unique(x.labels, return_index=True, return_inverse=True)
    stored = layer.stored
    if len(head) == len(x.labels) and (x.factors == 1).all():
        return stored
    w = np.zeros(stored.shape)
    for c, g in enumerate(group.ravel().tolist()):
        into, of = layer.columns(int(head[g])), layer.columns(c)
        if len(into) != len(of):
            return stored
        w[:, into] += x.factors[c] * stored[:, of]
    return w


def _normalized(found: Multiples, node: Node, x: Marks) -> Marks:
    values = [found.channels.facts.constant(i) for i in node.inputs[1:5]]
    scale, shift, mean, variance = (np.asarray(v, np.float64) for v in values)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
        shifts = shift - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(shifts).all()):
        return found.fresh(len(factor))
    return found.proportional(
        (factor * x.factors)[:, None], shifts, x.labels, _roundoff(values[0].dtype) if values[0] is not None else 0.0
    )


def _depthwise(found: Multiples, node: Node, x: Marks) -> Marks:
    facts, size = found.channels.facts, len(x.labels)
    w, bias = (facts.constant(i) if i else None for i in (node.input(1), node.input(2)))
    if w is None or len(w) != size or (bias is None and node.input(2)):
        return found.fresh(size)  # stored as integers, or several filters for each channel
    shift = np.zeros(size) if bias is None else bias.astype(np.float64)
    taps = w.reshape(size, -1).astype(np.float64) * x.factors[:, None]
    return found.proportional(taps, shift, x.labels, _roundoff(w.dtype))


def _concat(found: Multiples, node: Node) -> list[Marks] | None:
    read = [found.marks[i] for i in node.inputs if i in found.marks]
    if len(read) < len(node.inputs):
        return None
    if over_channels(found.channels.facts, node, found.channels.axes[node.input(0)]):
        return [Marks(np.concatenate([m.labels for m in read]), np.concatenate([m.factors for m in read]))]
    return [_jointly(found, read, [])]


def _jointly(found: Multiples, read: Sequence[Marks], keys: Sequence[NDArray[Any]]) -> Marks:
    """f(a x, a y) = a f(x, y): multiples of one factor in all operands."""
    factors = read[0].factors
    keys = [*keys, *(m.labels for m in read), *(m.factors / factors for m in read[1:])]
    return found.together(factors, *keys)


def _sum(found: Multiples, node: Node) -> list[Marks] | None:
    """Add, Sub, Sum, Max, Min: constants and what all channels share scale with nothing."""
    facts, axis = found.channels.facts, found.channels.axes[node.outputs[0]]
    read: list[Marks] = []
    keys: list[NDArray[Any]] = []
    scales = True
    for name in node.inputs:
        role, constant = operand(facts, node, name, axis.dim), facts.constant(name)
        if role == "channels" and name in found.marks:
            read.append(found.marks[name])
        elif role == "per channel" and (rows := _rows(facts, node, name, axis)) is not None:
            keys.append(rows)
            scales = scales and not rows.any()
        elif role == "shared":
            scales = scales and constant is not None and not constant.any()
        else:
            return None
    if not read:
        return None
    return [_jointly(found, read, keys if scales else [*keys, read[0].factors])]


def _product(found: Multiples, node: Node) -> list[Marks] | None:
    facts, axis = found.channels.facts, found.channels.axes[node.outputs[0]]
    size, roles = len(axis.ids), [operand(facts, node, n, axis.dim) for n in node.inputs]
    by_role = list(zip(node.inputs, roles, strict=True))
    read = [found.marks[n] for n, role in by_role if role == "channels" and n in found.marks]
    fixed = [_rows(facts, node, n, axis) for n, role in by_role if role == "per channel"]
    shared = roles.count("shared")
    if not read or len(read) + len(fixed) + shared < len(node.inputs) or len(fixed) > 1:
        return None
    factors = np.prod([m.factors for m in read], axis=0)
    joint = found.together(factors, *(m.labels for m in read))
    if not fixed:
        return [joint]
    if fixed[0] is None:
        return None
    roundoff = _roundoff(facts.dtype(node.outputs[0]))
    return [found.proportional(fixed[0] * factors[:, None], np.zeros(size), joint.labels, roundoff)]


def _rows(facts: Facts, node: Node, name: str, axis: Axis) -> Vector | None:
    """(channels, values per channel) of a constant operand; (channels, 1) when it is the same for all.
    `axis`: of the output."""
    constant = facts.constant(name)
    if constant is None:
        return None
    values, size, role = constant.astype(np.float64), len(axis.ids), operand(facts, node, name, axis.dim)
    if role == "per channel":
        return np.moveaxis(values, aligned(facts, node.outputs[0], name, axis.dim), 0).reshape(size, -1)
    return np.zeros((size, 1)) if role == "shared" else None


def _pads_with_zeros(facts: Facts, node: Node) -> bool:
    if not node.is_op("Pad") or node.attribute("mode", "constant") != "constant":
        return node.is_op("Pad")
    stored = facts.constant(node.input(2)) if node.input(2) else None
    return not (node.attribute("value", 0.0) if stored is None else stored.any())


def _roundoff(dtype: np.dtype[Any] | None) -> float:
    return float(np.finfo(dtype).eps) / 2 if dtype is not None and dtype.kind == "f" else 0.0
