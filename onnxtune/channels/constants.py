"""Channels that hold one value everywhere, whatever the input is, followed forward through the graph.

For each tensor a vector over its channels: the value, or NaN when it is not known. A channel starts to
be constant at a filter of zeros (its bias) or a normalization with scale 0 (its shift). What follows
works on it as on a number, except where zeros are put around the map: they make a constant other than 0
differ at the border (padded convolutions, average pools that count the padding, Pad). Channels whose least
and largest value are equal (bounds.py) are constant, too.
Values are taken to be finite: 0 times anything is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnxtune.channels.axis import Axis
from onnxtune.channels.bounds import Interval, bounds, fixed
from onnxtune.channels.contracting import sums
from onnxtune.channels.flow import Channels, analyse, same_channels
from onnxtune.channels.linear import LAYERS, Vector, is_padded, linear
from onnxtune.channels.pointwise import aligned, operand
from onnxtune.channels.ranges import UNARY
from onnxtune.channels.rearranging import over_channels, parts
from onnxtune.facts import Facts, Node

Of = Callable[[str], Vector]
"""Tensor -> what is known of its channels."""


def constants(channels: Channels) -> dict[str, Vector]:
    """For each tensor with known channels the constants among them, NaN for the others."""
    return _constants(channels, {})[0]


def known(facts: Facts) -> dict[str, Vector]:
    """The constants of a graph, those that follow from bounds among them, for `facts.once`."""
    return facts.once(_known)[0]


def bounded(facts: Facts) -> frozenset[str]:
    """Tensors of which a channel is constant because its bounds are equal, for `facts.once`."""
    return facts.once(_known)[1]


def _known(facts: Facts) -> tuple[dict[str, Vector], frozenset[str]]:
    return _constants(facts.once(analyse), facts.once(bounds))


def _constants(channels: Channels, limits: Mapping[str, Interval]) -> tuple[dict[str, Vector], frozenset[str]]:
    found = {t: np.full(len(axis.ids), np.nan) for t, axis in channels.axes.items()}
    by_bounds: set[str] = set()
    for node in channels.facts.nodes:
        if node.key in channels.barriers:
            continue
        for name, values in transfer(channels, node, lambda name: found.get(name, np.full(1, np.nan))).items():
            fix = fixed(limits[name], len(values)) if name in limits else values
            proved = np.isnan(values) & np.isfinite(fix)
            found[name] = np.where(proved, fix, values)
            if proved.any():
                by_bounds.add(name)
    return found, frozenset(by_bounds)


def transfer(channels: Channels, node: Node, of: Of) -> dict[str, Vector]:
    """The constants of a node's outputs, given those of its inputs. The node is no barrier."""
    outputs = [o for o in node.outputs if o in channels.axes]
    if not outputs:
        return {}
    with np.errstate(all="ignore"):
        made = _transfer(channels, node, of, outputs)
    sizes = {o: len(channels.axes[o].ids) for o in outputs}
    return {
        o: np.where(np.isfinite(v), v, np.nan) for o, v in zip(outputs, made, strict=False) if v.shape == (sizes[o],)
    }


def _transfer(channels: Channels, node: Node, of: Of, outputs: list[str]) -> list[Vector]:
    facts, first = channels.facts, of(node.input(0))
    if node.is_op(*LAYERS):
        if sums(node, facts, channels.axes.get(node.input(0))):
            return [_contracted(channels, node, of)]
        return [_depthwise(facts, node, first)] if node.is_op("Conv", "ConvTranspose") else []
    if node.is_op("BatchNormalization"):
        return [_normalized(facts, node, first)]
    if node.is_op("Concat"):
        parts = [of(i) for i in node.inputs]
        if over_channels(facts, node, channels.axes[node.input(0)]):
            return [np.concatenate(parts)]
        return [np.where(np.all([p == first for p in parts], axis=0), first, np.nan)]
    if node.is_op("Split", "Slice", "Gather"):
        return _cut(channels, node, first, outputs)
    if node.is_op(*_COMBINE):
        return [_combined(channels, node, of)]
    if node.is_op("Clip"):
        return [_clipped(facts, node, first)]
    if node.is_op(*UNARY):
        return [_unary(facts, node, first)]
    return [_map(facts, node, first)] if same_channels(channels, node) else []


def _contracted(channels: Channels, node: Node, of: Of) -> Vector:
    layer = linear(channels, node)
    if layer is None:
        return np.full(len(channels.axes[node.outputs[0]].ids), np.nan)
    x = of(node.input(0)) if node.input(0) in channels.axes else np.full(len(layer.starts), np.nan)
    known = (x == 0) | (np.isfinite(x) & layer.uniform)
    constant = ~(layer.uses & ~known).any(axis=1)
    return np.where(constant, layer.bias + layer.shares(np.where(known, x, 0.0)), np.nan)


def _depthwise(facts: Facts, node: Node, x: Vector) -> Vector:
    w, bias = facts.constant(node.input(1)), facts.constant(node.input(2)) if node.input(2) else np.zeros(len(x))
    if w is None or bias is None or len(w) != len(x):
        return np.full(len(x), np.nan)  # stored as integers, or several filters for each channel
    taps = w.reshape(len(x), -1).astype(np.float64)
    off = ~(taps != 0).any(axis=1) | (x == 0)
    if node.op_type == "Conv" and not is_padded(node):
        return np.where(off, 0.0, taps.sum(axis=1) * x) + bias
    return np.where(off, bias, np.nan)


def _normalized(facts: Facts, node: Node, x: Vector) -> Vector:
    scale, shift, mean, variance = (np.asarray(facts.constant(i), np.float64) for i in node.inputs[1:5])
    deviation = np.sqrt(variance + node.attribute("epsilon", 1e-5))
    factor = scale / deviation
    return np.where(factor == 0, shift, (x - mean) * factor + shift)


def _cut(channels: Channels, node: Node, x: Vector, outputs: list[str]) -> list[Vector]:
    facts, axis = channels.facts, channels.axes[node.input(0)]
    if not over_channels(facts, node, axis):
        return [x for _ in outputs]
    pieces = parts(facts, node, Axis(np.arange(len(axis.ids)), axis.blocks, axis.dim))
    return [x[p.ids] for o, p in zip(node.outputs, pieces, strict=True) if o in outputs]


_COMBINE: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sum": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
}


def _combined(channels: Channels, node: Node, of: Of) -> Vector:
    axis = channels.axes[node.outputs[0]]
    operands = [_operand(channels.facts, node, name, of, axis) for name in node.inputs]
    result = operands[0]
    for other in operands[1:]:
        unknown = np.isnan(result) | np.isnan(other)
        if node.op_type == "Mul":
            unknown &= (result != 0) & (other != 0)
            result, other = np.nan_to_num(result), np.nan_to_num(other)
        result = np.where(unknown, np.nan, _COMBINE[node.op_type](result, other))
    return result


def _operand(facts: Facts, node: Node, name: str, of: Of, axis: Axis) -> Vector:
    """(channels,) values of an operand per channel of the output, whose axis is given."""
    role, constant, size = operand(facts, node, name, axis.dim), facts.constant(name), len(axis.ids)
    if constant is None:
        known = of(name) if role == "channels" else np.empty(0)
        return known if len(known) == size else np.full(size, np.nan)  # else its axis is cut into other channels
    values = constant.astype(np.float64)
    if role == "per channel":
        own = aligned(facts, node.outputs[0], name, axis.dim)
        rows = np.moveaxis(values, own, 0).reshape(size, -1)
    else:
        rows = np.broadcast_to(values.reshape(1, -1), (size, values.size))
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)


def _clipped(facts: Facts, node: Node, x: Vector) -> Vector:
    """Limits are attributes up to opset 10, then inputs."""
    for name, position, pick in (("min", 1, np.maximum), ("max", 2, np.minimum)):
        limit = node.attribute(name)
        if node.input(position):
            stored = facts.constant(node.input(position))
            limit = np.nan if stored is None else float(stored.reshape(-1)[0])
        x = x if limit is None else pick(x, limit)
    return x


def _unary(facts: Facts, node: Node, x: Vector) -> Vector:
    if node.is_op("Identity", "Dropout", "Cast"):
        return x
    known = np.isfinite(x)
    if not known.any():
        return x
    try:
        opsets = [onnx.helper.make_opsetid("", facts.opset)]
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [None])
        alone = onnx.helper.make_node(node.op_type, ["x"], ["y"])
        alone.attribute.extend(node.proto.attribute)
        out = onnx.ValueInfoProto(name="y")
        model = onnx.helper.make_model(onnx.helper.make_graph([alone], "g", [value], [out]), opset_imports=opsets)
        (result,) = ReferenceEvaluator(model).run(None, {"x": x[known]})
    except Exception:  # the reference raises whatever its numpy code raises: then nothing is known
        return np.full(len(x), np.nan)
    made = np.full(len(x), np.nan)
    made[known] = result
    return made


_MAPS = (
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin",
    "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand",
)  # fmt: skip
"""They keep any constant map."""


def _map(facts: Facts, node: Node, x: Vector) -> Vector:
    """What an operator over maps makes of constant ones."""
    if node.is_op(*_MAPS):
        return x
    zero = np.where(x == 0, x, np.nan)
    padded, ceil = is_padded(node), bool(node.attribute("ceil_mode", 0))
    spread = any(d != 1 for d in node.attribute("dilations", []))
    if node.is_op("MaxPool", "AveragePool"):
        if padded and (ceil or spread):
            return np.full(len(x), np.nan)  # a window may lie outside of the map altogether
        counts = node.is_op("AveragePool") and (ceil or (padded and node.attribute("count_include_pad", 0)))
        return zero if counts else x
    if node.is_op("Pad") and node.attribute("mode", "constant") == "constant":
        stored = facts.constant(node.input(2)) if node.input(2) else None
        value = node.attribute("value", 0.0) if stored is None else float(stored.reshape(-1)[0])
        return np.where(x == value, x, np.nan)
    if node.is_op("Pad"):
        return x
    if node.is_op("Resize", "Upsample") and node.attribute("mode", "nearest") in ("nearest", "linear"):
        return x
    return zero if node.is_op("Resize", "Upsample", "LpPool", "GlobalLpPool", "ReduceSum") else np.full(len(x), np.nan)
