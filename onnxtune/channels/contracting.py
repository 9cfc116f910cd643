"""Operators that sum over channels: they read any layout and their output channels are free.

    Conv, ConvTranspose (group 1), Gemm, MatMul with constant weights:
    W' = scatter(scatter(W, input layout, 0), output layout, 0),   b' = scatter(b, output layout, 0)

Pad channels of the output are 0 and pad channels of the input meet zero columns. A depthwise
convolution (group = C_in = C_out) keeps channels apart: same layout, zero filters for pads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.operators import Edit, Pads, Trace, rank
from onnxtune.channels.ranges import ZERO, Range
from onnxtune.facts import Facts, Node

WEIGHTS = "its weights are not constant"


class Convolution:
    """Conv: w (C_out, C_in / group, *kernel). ConvTranspose: w (C_in, C_out / group, *kernel)."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts = trace.facts
        weight = facts.shape(node.input(1))
        if not all(facts.is_constant(i) for i in node.inputs[1:] if i) or weight is None or len(weight) < 3:
            return WEIGHTS
        group = node.attribute("group", 1)
        first, second = int(weight[0] or 0), int(weight[1] or 0) * group
        into, out = (first, second) if node.op_type == "ConvTranspose" else (second, first)
        axis = trace.axis(node.input(0))
        if axis is not None and not (axis.plain and axis.size == into):
            return "its input is not one map per channel"
        if group == 1:
            trace.axes[node.outputs[0]] = trace.fresh(out)
            return None
        if not into == out == group or axis is None:
            return f"a grouped convolution (group {group}, {into} -> {out} channels)"
        trace.axes[node.outputs[0]] = axis
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        into, out = edit.source(node.input(0)), edit.source(node.outputs[0])
        inputs: dict[int, str | NDArray[Any]] = {}
        attributes: dict[str, Any] = {}
        if is_depthwise(node):
            inputs[1] = edit.taken(node.input(1), (0, out))
            attributes["group"] = edit.width(node.outputs[0])
        else:
            axes = (0, 1) if node.op_type == "ConvTranspose" else (1, 0)
            inputs[1] = edit.taken(node.input(1), (axes[0], into), (axes[1], out))
        if node.input(2):
            inputs[2] = edit.taken(node.input(2), (0, out))
        return edit.copy(node, inputs, attributes)


def is_depthwise(node: Node) -> bool:
    """For convolutions that `Convolution.trace` has let through."""
    return bool(node.attribute("group", 1) != 1)


class Gemm:
    """y (N, M) = alpha x (N, K) B + beta C, B (K, M) or with transB (M, K), C constant or absent."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        problem = _problem(node, trace.facts)
        if problem:
            return problem
        if node.attribute("transA", 0):
            return "its input is transposed"
        if node.input(2) and not trace.facts.is_constant(node.input(2)):
            return WEIGHTS
        return _product(node, trace, transposed=bool(node.attribute("transB", 0)))

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        into, out = edit.source(node.input(0)), edit.source(node.outputs[0])
        k, m = (1, 0) if node.attribute("transB", 0) else (0, 1)
        inputs: dict[int, str | NDArray[Any]] = {1: edit.taken(node.input(1), (k, into), (m, out))}
        if node.input(2) and out is not None:
            bias = edit.constant(node.input(2))
            full = np.broadcast_to(bias, (*bias.shape[:-1], edit.axis(node.outputs[0]).size))
            inputs[2] = np.where(out < 0, np.zeros((), bias.dtype), full[..., np.maximum(out, 0)])
        return edit.copy(node, inputs)


class MatMul:
    """y (N, M) = x (N, K) B (K, M), B constant."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        return _problem(node, trace.facts) or _product(node, trace, transposed=False)

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ZERO

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        into, out = edit.source(node.input(0)), edit.source(node.outputs[0])
        return edit.copy(node, {1: edit.taken(node.input(1), (0, into), (1, out))})


def _problem(node: Node, facts: Facts) -> str | None:
    if not facts.is_constant(node.input(1)):
        return WEIGHTS
    if rank(facts, node.input(0)) != 2 or rank(facts, node.input(1)) != 2:
        return "it is not a product of two matrices"
    return None


def _product(node: Node, trace: Trace, *, transposed: bool) -> str | None:
    k, m = (trace.facts.shape(node.input(1)) or (0, 0))[:: -1 if transposed else 1]
    axis = trace.axis(node.input(0))
    if axis is not None and axis.size != k:
        return "its input has another number of columns"
    trace.axes[node.outputs[0]] = trace.fresh(int(m or 0))
    return None
