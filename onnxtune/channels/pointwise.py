"""Operators that work on each element, or on each channel with parameters of its own.

Parameters with one value per channel are scattered; what stands at the pads keeps them finite:
BatchNormalization scale 0, B 0, mean 0, variance 1 (the result is 0 whatever comes in); PRelu slope 0;
constants of Add, Sub, Mul, Max, Min 0; constant divisors, bases and exponents 1. A constant or computed
operand that is the same for all channels ([N, 1, H, W], scalars) is left alone; computed operands with all
channels (residual sums, squeeze-and-excitation gates [N, C, 1, 1]) have the same channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.operators import ELSEWHERE, UNKNOWN, Edit, Pads, SameLayout, Trace, length, rank
from onnxtune.channels.ranges import ANY, UNARY, ZERO, Range, add, bounded, hull, negative, power, product, reciprocal
from onnxtune.facts import Facts, Node

FLOATS = (1, 10, 11, 16)
"""onnx.TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16."""
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


class Unary(SameLayout):
    def refuses(self, node: Node, trace: Trace) -> str | None:
        if node.op_type == "Cast" and node.attribute("to") not in FLOATS:
            return "Cast to a type that is not floating-point"
        if node.op_type == "Dropout" and node.input(2):
            training = trace.facts.constant(node.input(2))
            return None if training is not None and not training.any() else "Dropout in training mode"
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        result = UNARY[node.op_type](node, pads.of(node.input(0)))
        return f"{node.op_type} of a pad channel may not be finite" if result is None else result


class Clip(SameLayout):
    """Limits are attributes up to opset 10, then scalar inputs."""

    def pads(self, node: Node, pads: Pads) -> Range | str:
        limits = [pads.facts.constant(node.input(i)) if node.input(i) else None for i in (1, 2)]
        if any(node.input(i) and limit is None for i, limit in zip((1, 2), limits, strict=True)):
            return ANY
        low, high = UNARY["Clip"](node, pads.of(node.input(0))) or ANY
        if limits[0] is not None:
            low, high = (max(v, float(limits[0])) for v in (low, high))
        if limits[1] is not None:
            low, high = (min(v, float(limits[1])) for v in (low, high))
        return low, high


class BatchNormalization(SameLayout):
    """Inference form; x, scale (C,), B (C,), mean (C,), variance (C,)."""

    FILLS: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)
    anywhere = False

    def refuses(self, node: Node, trace: Trace) -> str | None:
        if not all(trace.facts.is_constant(i) for i in node.inputs[1:]):
            return "its parameters are not constant"
        if node.attribute("training_mode", 0) or node.attribute("spatial", 1) == 0:
            return f"{node.op_type} in training mode or not per channel"
        axis = trace.axis(node.input(0))
        return None if axis is not None and axis.plain else "its input is not one map per channel"

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        source = edit.source(node.input(0))
        parameters = zip(node.inputs[1:], self.FILLS, strict=False)
        return edit.copy(node, {i: edit.taken(p, (0, source), fill=f) for i, (p, f) in enumerate(parameters, 1)})


class InstanceNormalization(BatchNormalization):
    """x, scale (C,), B (C,). The statistics of a pad channel are finite, epsilon keeps the root above 0."""

    FILLS = (0.0, 0.0)

    def refuses(self, node: Node, trace: Trace) -> str | None:
        if node.attribute("epsilon", 1e-5) < 1e-7 or trace.facts.dtype(node.input(0)) != np.float32:
            return "epsilon is too small or the type is not float32"
        return super().refuses(node, trace)

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO if bounded(pads.of(node.input(0))) else "InstanceNormalization of pad channels without bounds"


class LRN(SameLayout):
    """Each channel is divided by a root of 1 + the squares of its neighbours: zeros at the end change nothing."""

    anywhere = False

    def refuses(self, node: Node, trace: Trace) -> str | None:
        axis = trace.axis(node.input(0))
        return None if axis is not None and axis.plain else "its input is not one map per channel"

    def trace(self, node: Node, trace: Trace) -> str | None:
        problem = super().trace(node, trace)
        if problem is None:
            axis = trace.axes[node.input(0)]
            trace.pin(axis.chosen(slice(-1)), "LRN looks at neighbours: only zeros at its end are harmless")
            trace.hold(axis, "LRN looks at neighbours")
        return problem

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO if pads.of(node.input(0)) == ZERO else "LRN of pad channels that are not 0"


class Elementwise:
    """Add, Sub, Mul, Div, Max, Min, Sum, Pow, PRelu, Where and comparisons with ONNX's broadcasting
    (aligned at the last axis)."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, output = trace.facts, node.outputs[0]
        dim = self._dim(node, trace)
        size = None if dim is None else length(facts, output, dim)
        if dim is None or size is None:
            return UNKNOWN
        if node.op_type == "PRelu" and not facts.is_constant(node.input(1)):
            return "its slope is not constant"
        roles = [operand(facts, node, name, dim) for name in node.inputs]
        if "unknown" in roles:
            return "it is not clear how its operands are broadcast"
        axes = [
            trace.along(name, aligned(facts, output, name, dim))
            for name, role in zip(node.inputs, roles, strict=True)
            if role == "channels"
        ]
        found = [a for a in axes if a is not None]
        if not found or len(found) < len(axes) or found[0].size != size:
            return ELSEWHERE if found else UNKNOWN
        if any(not np.array_equal(a.blocks, found[0].blocks) for a in found):
            return "its operands are flattened in different ways"
        if not found[0].plain and "per channel" in roles:
            return "a constant operand of flattened maps"
        for other in found[1:]:
            trace.unite(found[0], other)
        for name, role in zip(node.inputs, roles, strict=True):
            shared = trace.axis(name)
            if role == "shared" and shared is not None:
                trace.pin(shared, f"an operand of {node.op_type} that is broadcast over channels")
        trace.axes[output] = found[0].at(dim)
        return None

    @staticmethod
    def _dim(node: Node, trace: Trace) -> int | None:
        """Where the output has its channels: as the operands have whose channels are known best."""
        of = rank(trace.facts, node.outputs[0])
        known = [(trace.is_unknown(n), a, n) for n in node.inputs if (a := trace.axis(n)) is not None]
        known = [k for k in known if k[1].size > 1] or known
        if of is None or not known:
            return None
        _, axis, name = min(known, key=lambda k: k[0])
        return axis.dim + of - (rank(trace.facts, name) or 0)

    def pads(self, node: Node, pads: Pads) -> Range | str:
        ranges = []
        dim = pads.axes[node.outputs[0]].dim
        for name in node.inputs:
            role = operand(pads.facts, node, name, dim)
            constant = pads.facts.constant(name)
            if role == "per channel":
                value = _fill(node, name)
                ranges.append((value, value))
            elif constant is not None:
                if not np.isfinite(constant).all():
                    return f"{node.op_type} with a constant that is not finite"
                ranges.append((float(constant.min()), float(constant.max())) if constant.size else ZERO)
            else:
                ranges.append(pads.of(name) if role == "channels" else ANY)
        result = _combine(node.op_type, ranges)
        return f"{node.op_type} of a pad channel may not be finite" if result is None else result

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        facts, output = edit.facts, node.outputs[0]
        dim = edit.axis(output).dim
        inputs: dict[int, str | NDArray[Any]] = {}
        for i, name in enumerate(node.inputs):
            if operand(facts, node, name, dim) == "per channel":
                axis = aligned(facts, output, name, dim)
                inputs[i] = edit.taken(name, (axis, edit.source(output)), fill=_fill(node, name))
        return edit.copy(node, inputs)


def operand(facts: Facts, node: Node, name: str, dim: int) -> str:
    """How an operand meets the channels of the output, which lie along `dim`.

    "channels": computed, one map per channel; "per channel": constant, one value or map per channel;
    "shared": the same for all channels; "unknown".
    """
    size, shape = length(facts, node.outputs[0], dim), facts.shape(name)
    if shape is None:
        return "unknown"
    axis = aligned(facts, node.outputs[0], name, dim)
    if axis < 0 or (shape[axis] == 1 and size != 1):
        return "shared"
    if shape[axis] != size:
        return "unknown"
    return "per channel" if facts.is_constant(name) else "channels"


def aligned(facts: Facts, output: str, name: str, dim: int) -> int:
    """Which axis of the operand is the output's axis `dim`; negative: none."""
    return dim - ((rank(facts, output) or 0) - (rank(facts, name) or 0))


def _fill(node: Node, name: str) -> float:
    return 1.0 if node.op_type == "Pow" or (node.op_type == "Div" and name == node.input(1)) else 0.0


def _combine(op_type: str, ranges: list[Range]) -> Range | None:
    first, *rest = ranges
    if op_type == "PRelu":
        if first[0] >= 0:
            return first
        most = max(abs(v) for v in first) * max(1.0, *(abs(v) for v in rest[0]))
        return -most, most
    if op_type in ("Max", "Min"):
        pick = max if op_type == "Max" else min
        return pick(r[0] for r in ranges), pick(r[1] for r in ranges)
    if op_type == "Where":
        return hull(rest)
    if op_type in COMPARISONS:
        return 0.0, 1.0
    if op_type == "Pow":
        return power(first, rest[0])
    if op_type == "Div":
        inverse = reciprocal(rest[0])
        return None if inverse is None else product(first, inverse)
    result: Range | None = first
    for other in rest:
        if op_type == "Mul":
            result = None if result is None else product(result, other)
        elif result is not None:
            result = add(result, negative(other) if op_type == "Sub" else other)
    if result is not None and op_type != "Mul" and all(bounded(r) for r in ranges) and not bounded(result):
        return None
    return result
