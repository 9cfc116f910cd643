"""Operators that sum over channels: they read any layout and their output channels are free.

    Conv, ConvTranspose (group 1), Gemm, MatMul with constant weights:
    W' = scatter(scatter(W, input layout, 0), output layout, 0),   b' = scatter(b, output layout, 0)

Pad channels of the output are 0 and pad channels of the input meet zero columns.

A convolution in groups does this for each group, so the groups stay equally large: the channels at one
place of every group change together, on both sides (`Trace.tie`). With one input channel per group
(depthwise) groups come and go instead: the filters of a channel follow it, zero filters for pads.

MatMul sums over the last axis; channels along another one are carried along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis, Integers
from onnxtune.channels.operators import ELSEWHERE, Edit, Pads, Trace, rank
from onnxtune.channels.quantized import is_weight, stored, weight
from onnxtune.channels.ranges import ANY, ZERO, Range
from onnxtune.facts import Facts, Node

WEIGHTS = "its weights are not constant"


class Convolution:
    """Conv: w (C_out, C_in / group, *kernel). ConvTranspose: w (C_in, C_out / group, *kernel)."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, x, y = trace.facts, node.input(0), node.outputs[0]
        shape = facts.shape(node.input(1))
        if not all(is_weight(facts, i) for i in node.inputs[1:] if i) or shape is None or len(shape) < 3:
            return WEIGHTS
        group = node.attribute("group", 1)
        first, second = int(shape[0] or 0), int(shape[1] or 0) * group
        into, out = (first, second) if node.op_type == "ConvTranspose" else (second, first)
        axis = trace.along(x, 1)
        if axis is None and trace.axis(x) is not None:
            return ELSEWHERE
        if axis is not None and not (axis.plain and axis.size == into):
            return "its input is not one map per channel"
        if group == 1:
            trace.axes[y] = trace.fresh(out)
            return None
        if axis is None:
            return f"a grouped convolution (group {group}, {into} -> {out} channels) of unknown channels"
        if into == out == group:
            trace.axes[y] = axis
            return None
        trace.axes[y] = trace.fresh(out)
        if into == group:
            trace.tie(trace.axes[y], axis, 1, out // group)
        else:
            for side in (axis, trace.axes[y]):
                trace.tie(side, trace.fresh(side.size // group), group, 1)
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        into, out = edit.source(node.input(0)), edit.source(node.outputs[0])
        transposed, group = node.op_type == "ConvTranspose", node.attribute("group", 1)
        rows, columns = (into, out) if transposed else (out, into)
        attributes: dict[str, Any] = {}
        if is_depthwise(node, edit.facts):
            columns = None
            attributes["group"] = edit.width(node.input(0))
        elif group > 1:
            columns = _of_one_group(columns, group)
        inputs: dict[int, str | NDArray[Any]] = {1: weight(edit, node.input(1), (0, rows), (1, columns))}
        if node.input(2):
            inputs[2] = weight(edit, node.input(2), (0, out))
        return edit.copy(node, inputs, attributes)


def _of_one_group(source: Integers | None, group: int) -> Integers | None:
    """All groups are rearranged in one way."""
    return None if source is None else source[: len(source) // group]


def is_depthwise(node: Node, facts: Facts) -> bool:
    """Has every input channel a group and filters of its own?"""
    shape, group = facts.shape(node.input(1)) or (), node.attribute("group", 1)
    if group == 1 or len(shape) < 3:
        return False
    return shape[0] == group if node.op_type == "ConvTranspose" else shape[1] == 1


def sums(node: Node, facts: Facts, axis: Axis | None) -> bool:
    """Does a node (Conv, ConvTranspose, Gemm or MatMul) sum over the channels of its input? `axis`: of that."""
    if node.is_op("MatMul"):
        return axis is None or axis.dim == (rank(facts, node.input(0)) or 0) - 1
    return node.is_op("Gemm") or not is_depthwise(node, facts)


class Gemm:
    """y (N, M) = alpha x (N, K) B + beta C, B (K, M) or with transB (M, K), C constant or absent."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        problem = _problem(node, trace.facts)
        if problem:
            return problem
        if node.attribute("transA", 0):
            return "its input is transposed"
        if node.input(2) and not is_weight(trace.facts, node.input(2)):
            return WEIGHTS
        if node.input(2) and stored(trace.facts, node.input(2)) and not _one_each(node, trace.facts):
            return "its quantised bias is not one value per column"
        return _product(node, trace, transposed=bool(node.attribute("transB", 0)))

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        into, out = edit.source(node.input(0)), edit.source(node.outputs[0])
        k, m = (1, 0) if node.attribute("transB", 0) else (0, 1)
        inputs: dict[int, str | NDArray[Any]] = {1: weight(edit, node.input(1), (k, into), (m, out))}
        if node.input(2) and stored(edit.facts, node.input(2)) is not None:
            inputs[2] = weight(edit, node.input(2), (0, out))
        elif node.input(2) and out is not None:
            bias = edit.constant(node.input(2))
            full = np.broadcast_to(bias, (*bias.shape[:-1], edit.axis(node.outputs[0]).size))
            inputs[2] = np.where(out < 0, np.zeros((), bias.dtype), full[..., np.maximum(out, 0)])
        return edit.copy(node, inputs)


class MatMul:
    """y (..., M) = x (..., K) B (K, M), B constant."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        x, of = node.input(0), rank(trace.facts, node.input(0))
        axis = trace.axis(x)
        if axis is None or axis.dim == (of or 0) - 1 or trace.is_unknown(x) or _problem(node, trace.facts):
            return _problem(node, trace.facts) or _product(node, trace, transposed=False)
        trace.axes[node.outputs[0]] = axis
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        axis = pads.axes.get(node.input(0))
        if sums(node, pads.facts, axis) or pads.of(node.input(0)) == ZERO:
            return ZERO
        return ANY

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        into, out = edit.source(node.input(0)), edit.source(node.outputs[0])
        if into is not None and not sums(node, edit.facts, edit.axis(node.input(0))):
            return edit.copy(node)
        return edit.copy(node, {1: weight(edit, node.input(1), (0, into), (1, out))})


def _one_each(node: Node, facts: Facts) -> bool:
    return facts.shape(node.input(2)) == (facts.shape(node.outputs[0]) or ())[1:]


def _problem(node: Node, facts: Facts) -> str | None:
    if not is_weight(facts, node.input(1)):
        return WEIGHTS
    of = rank(facts, node.input(0))
    if of is None or of < 2 or (of > 2 and node.op_type == "Gemm") or rank(facts, node.input(1)) != 2:
        return "it is not a product of two matrices"
    return None


def _product(node: Node, trace: Trace, *, transposed: bool) -> str | None:
    k, m = (trace.facts.shape(node.input(1)) or (0, 0))[:: -1 if transposed else 1]
    last = (rank(trace.facts, node.input(0)) or 0) - 1
    axis = trace.along(node.input(0), last)
    if axis is None and trace.axis(node.input(0)) is not None:
        return ELSEWHERE
    if axis is not None and axis.size != k:
        return "its input has another number of columns"
    trace.axes[node.outputs[0]] = trace.fresh(int(m or 0), last)
    return None
