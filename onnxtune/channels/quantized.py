"""QuantizeLinear and DequantizeLinear between layers, and weights that are stored as integers before one.

Per tensor they work on each element; with one scale per channel the scales of pads are 1 and their zero
points 0. A weight W = (Q - zero point) * scale is rearranged as integers: pads hold the zero point, so that they are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import take
from onnxtune.channels.operators import Change, Edit, Pads, SameLayout, Trace, normalised, rank
from onnxtune.channels.ranges import ANY, Range, hull
from onnxtune.facts import Facts, Node


class Quantization(SameLayout):
    """QuantizeLinear and DequantizeLinear: x, scale, zero point (scalars or one per channel)."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        """A stored weight has no channel axis of its own: its layers rearrange it."""
        return None if stored(trace.facts, node.outputs[0]) is not None else super().trace(node, trace)

    def refuses(self, node: Node, trace: Trace) -> str | None:
        if not all(trace.facts.is_constant(i) for i in node.inputs[1:] if i):
            return "its scales are not constant"
        if node.attribute("block_size", 0):
            return "it has a scale per block"
        axis = trace.axis(node.input(0))
        if axis is not None and not axis.plain and _axis(trace.facts, node) == axis.dim:
            return "a scale per column of flattened maps"
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        low, high = pads.of(node.input(0))
        scale, zero = (pads.facts.constant(i) if i else np.zeros(1) for i in (node.input(1), node.input(2)))
        axis = pads.axes.get(node.outputs[0])
        if scale is None or zero is None or axis is None or not np.isfinite(scale).all():
            return "its scales are not constant"
        s, z = (np.asarray(v, np.float64).ravel() for v in (scale, zero))
        if _axis(pads.facts, node) == axis.dim:
            s, z = np.ones(1), np.zeros(1)
        if node.op_type == "DequantizeLinear":
            if not np.isfinite((low, high)).all():
                return ANY
            return hull([(v, v) for end in (low, high) for v in ((end - z) * s).tolist()])
        dtype = pads.facts.dtype(node.outputs[0])
        if dtype is None or dtype.kind not in "iu":
            return "it makes another type than integers"
        limits = np.iinfo(dtype)
        with np.errstate(all="ignore"):
            made = [np.clip(np.round(end / s) + z, limits.min, limits.max) for end in (low, high)]
        if not np.isfinite(made).all():
            return "a scale is 0"
        return hull([(v, v) for m in made for v in m.tolist()])

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        axis = edit.axis(node.outputs[0])
        if _axis(edit.facts, node) != axis.dim:
            return edit.copy(node)
        source = edit.source(node.outputs[0])
        fills = {1: 1.0, 2: 0.0}
        changed = {i: edit.taken(node.input(i), (0, source), fill=f) for i, f in fills.items() if node.input(i)}
        return edit.copy(node, changed)


def _axis(facts: Facts, node: Node) -> int | None:
    """The axis along which the scales differ; None: one scale for all."""
    scale, of = facts.constant(node.input(1)), rank(facts, node.input(0))
    if scale is None or scale.size == 1 or of is None:
        return None
    return normalised([node.attribute("axis", 1)], of)[0]


def stored(facts: Facts, tensor: str) -> Node | None:
    """The DequantizeLinear of constants that makes a tensor."""
    node = facts.producer(tensor)
    if node is None or not node.is_op("DequantizeLinear") or node.attribute("block_size", 0):
        return None
    return node if all(facts.is_constant(i) for i in node.inputs if i) else None


def is_weight(facts: Facts, tensor: str) -> bool:
    """Is it constant, as it is or as integers?"""
    return facts.is_constant(tensor) or stored(facts, tensor) is not None


def weight(edit: Edit, tensor: str, *changes: Change) -> Any:
    """A weight with some axes rearranged, pads 0: see Edit.taken. A DequantizeLinear is always written anew."""
    node = stored(edit.facts, tensor) if tensor else None
    if node is None:
        return edit.taken(tensor, *changes)
    values, scale = edit.constant(node.input(0)), edit.constant(node.input(1))
    zero = edit.constant(node.input(2)) if node.input(2) else np.zeros(scale.shape, values.dtype)
    along = _axis(edit.facts, node)
    for axis, source in changes:
        if source is None:
            continue
        if along == axis:
            values = _filled(values, axis, source, np.zeros((), zero.dtype))
            scale, zero = take(scale, 0, source, 1.0), take(zero, 0, source, 0.0)
        elif along is None:
            values = take(values, axis, source, zero.reshape(-1)[0])
        else:
            fill = zero.reshape([-1 if a == along else 1 for a in range(values.ndim)])
            values = _filled(values, axis, source, fill)
    return edit.copy(node, {0: values, 1: scale, **({2: zero} if node.input(2) else {})})[0]


def _filled(values: NDArray[Any], axis: int, source: NDArray[np.int64], fill: NDArray[Any]) -> NDArray[Any]:
    """Like `take`, with pads that differ along other axes."""
    taken = np.take(values, np.maximum(source, 0), axis)
    pads = (source < 0).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return np.where(pads, fill.astype(values.dtype), taken)
