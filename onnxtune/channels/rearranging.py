"""Operators that rearrange whole channels: the output's axis follows from the inputs' axes.

Concat over axis 1     the lists one after the other
Split, Slice over axis 1    parts of the list; the cuts move with the channels
Flatten, Reshape (N, C, *S) -> (N, C prod S)    each channel becomes a block of prod S columns
Reshape, Squeeze, Unsqueeze that keep axes 0 and 1, Concat, Split and Slice over other axes    same layout
Shape of which only other sizes than axis 1 are used    allowed
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis, joined
from onnxtune.channels.operators import UNKNOWN, Edit, Pads, SameLayout, Trace, integers, normalised, rank
from onnxtune.channels.ranges import ANY, Range, hull
from onnxtune.facts import Facts, Node

CUT = "it cuts a flattened map"
COMPUTED = "its parameters are computed at run time"


class Concat:
    def trace(self, node: Node, trace: Trace) -> str | None:
        facts = trace.facts
        found = [trace.axis(i) for i in node.inputs]
        axes = [a for a in found if a is not None]
        of = rank(facts, node.outputs[0])
        if len(axes) < len(found) or of is None:
            return UNKNOWN
        if node.attribute("axis", 1) in (1, 1 - of):
            trace.axes[node.outputs[0]] = joined(axes)
            return None
        if any(not np.array_equal(a.blocks, axes[0].blocks) for a in axes):
            return "its operands are flattened in different ways"
        for other in axes[1:]:
            trace.unite(axes[0], other)
        trace.axes[node.outputs[0]] = axes[0]
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        known = [pads.ranges[i] for i in node.inputs if i in pads.ranges]
        return hull(known) if known else ANY

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        return edit.copy(node)


class Split:
    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, axis = trace.facts, trace.axis(node.input(0))
        of = rank(facts, node.input(0))
        if axis is None or of is None:
            return UNKNOWN
        if not _is_channels(node, of):
            trace.axes.update((o, axis) for o in node.outputs if o)
            return None
        sizes = [facts.channels(o) for o in node.outputs]
        if node.input(1) and not facts.is_constant(node.input(1)):
            return COMPUTED
        widths = [s for s in sizes if s is not None]
        if len(widths) < len(sizes) or sum(widths) != axis.size:
            return UNKNOWN
        ends = np.cumsum(widths)
        parts = [axis.between(int(end) - width, int(end)) for end, width in zip(ends, widths, strict=True)]
        if any(p is None for p in parts):
            return CUT
        trace.axes.update((o, p) for o, p in zip(node.outputs, parts, strict=True) if p is not None)
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return pads.of(node.input(0))

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        if not _is_channels(node, rank(edit.facts, node.input(0)) or 0):
            return edit.copy(node)
        widths = [edit.width(o) for o in node.outputs]
        if edit.facts.opset < 13:
            return edit.copy(node, attributes={"split": widths})
        return edit.copy(node, {1: np.array(widths, np.int64)}, {"num_outputs": None})


class Slice:
    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, axis = trace.facts, trace.axis(node.input(0))
        if axis is None:
            return UNKNOWN
        axes = _sliced_axes(facts, node)
        if axes is None:
            return COMPUTED
        if 1 not in axes:
            trace.axes[node.outputs[0]] = axis
            return None
        cuts = limits(facts, node, axis.size)
        if cuts is None:
            return COMPUTED
        part = axis.between(*cuts)
        if part is None or not len(part.ids):
            return CUT
        trace.axes[node.outputs[0]] = part
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return pads.of(node.input(0))

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        axes = _sliced_axes(edit.facts, node) or []
        if 1 not in axes:
            return edit.copy(node)
        axis = edit.axis(node.input(0))
        cuts = limits(edit.facts, node, axis.size)
        assert cuts is not None, "trace has read them"
        place = axes.index(1)
        changed: dict[str, list[int]] = {}
        for position, (name, limit) in enumerate(zip(("starts", "ends"), cuts, strict=True), 1):
            values = integers(edit.facts, node, name, position) or []
            values[place] = axis.position(limit, edit.counts)
            changed[name] = values
        if edit.facts.opset < 10:
            return edit.copy(node, attributes=changed)
        inputs: dict[int, str | NDArray[Any]] = {i: np.array(v, np.int64) for i, v in enumerate(changed.values(), 1)}
        for i in (3, 4):  # starts and ends are int64 now, the others must be of the same type
            if node.input(i):
                inputs[i] = edit.constant(node.input(i)).astype(np.int64)
        return edit.copy(node, inputs)


class Flatten:
    """(N, C, *S) -> (N, C prod S) with known S."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        axis, shape = trace.axis(node.input(0)), trace.facts.shape(node.input(0))
        if axis is None or shape is None:
            return UNKNOWN
        area = _area(shape)
        if node.attribute("axis", 1) not in (1, 1 - len(shape)) or area is None:
            return "the size of the flattened maps is not known"
        trace.axes[node.outputs[0]] = axis.spread(area)
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return pads.of(node.input(0))

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        return edit.copy(node)


class Reshape(Flatten):
    """Forms that keep axis 0, and keep axis 1 or flatten everything after axis 0."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, axis, shape = trace.facts, trace.axis(node.input(0)), trace.facts.shape(node.input(0))
        target = integers(facts, node, "shape", 1)
        if axis is None or shape is None:
            return UNKNOWN
        if not target or len(target) < 2 or (0 in target and node.attribute("allowzero", 0)):
            return COMPUTED
        area, rest = _area(shape), _area(target)
        if area is not None and rest != area and len(target) == 2 and target[1] in (-1, axis.size * area):
            if not _keeps_first(shape, target, target[1] != -1):
                return "Reshape may move maps between batch and channels"
            trace.axes[node.outputs[0]] = axis.spread(area)
            return None
        if target[1] not in (0, -1, axis.size) or (target[1] == -1 and (rest is None or rest != area)):
            return "Reshape mixes channels and maps"
        if not _keeps_first(shape, target, rest is not None and rest == area and target[1] != -1):
            return "Reshape may move maps between batch and channels"
        trace.axes[node.outputs[0]] = axis
        return None

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        target = list(integers(edit.facts, node, "shape", 1) or [])
        if target[1] > 0:
            target[1] = edit.width(node.outputs[0])
        return edit.copy(node, {1: np.array(target, np.int64)})


class Squeeze(SameLayout):
    """Squeeze and Unsqueeze of axes after the channels."""

    def refuses(self, node: Node, trace: Trace) -> str | None:
        axes = integers(trace.facts, node, "axes", 1)
        of = rank(trace.facts, node.outputs[0] if node.op_type == "Unsqueeze" else node.input(0))
        if not axes or of is None:
            return "its axes are not given"
        return None if min(normalised(axes, of)) >= 2 else f"{node.op_type} moves the channels"


class Shape:
    """Its output is a list of sizes; harmless as long as nobody looks at the number of channels."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, output = trace.facts, node.outputs[0]
        of = rank(facts, node.input(0))
        if of is None or facts.is_output(output):
            return "its sizes are used"
        start, end = (normalised([node.attribute(k, d)], of)[0] for k, d in (("start", 0), ("end", of)))
        window = range(of)[max(start, 0) : end]
        if 1 in window and not all(_avoids(facts, reader, output, window) for reader in facts.consumers(output)):
            return "Shape: the number of channels is used"
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ANY

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        return edit.copy(node)


def _avoids(facts: Facts, reader: Node, sizes: str, window: range) -> bool:
    """Does a reader of a list of sizes take only others than that of axis 1?"""
    if reader.inputs.count(sizes) != 1 or reader.input(0) != sizes or reader.captured:
        return False
    if reader.is_op("Gather"):
        chosen = facts.constant(reader.input(1))
        return chosen is not None and all(1 not in window[int(i) :][:1] for i in chosen.ravel())
    if reader.is_op("Slice"):
        limits = [integers(facts, reader, name, i) for name, i in (("starts", 1), ("ends", 2), ("steps", 4))]
        if any(v is None or len(v) > 1 for v in limits) or not limits[0] or not limits[1]:
            return False
        return 1 not in window[slice(limits[0][0], limits[1][0], (limits[2] or [1])[0])]
    return False


def over_channels(facts: Facts, node: Node) -> bool:
    """Does a Concat, Split or Slice work along the channels?"""
    if node.is_op("Slice"):
        return 1 in (_sliced_axes(facts, node) or [])
    return _is_channels(node, rank(facts, node.outputs[0]) or 0)


def parts(facts: Facts, node: Node, axis: Axis) -> list[Axis]:
    """What the outputs of a Split or Slice along the channels hold of the input's axis."""
    if node.is_op("Slice"):
        bounds = [limits(facts, node, axis.size)]
    else:
        ends = np.cumsum([facts.channels(o) or 0 for o in node.outputs]).tolist()
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    cut = [None if b is None else axis.between(*b) for b in bounds]
    assert None not in cut, "trace has found them"
    return [c for c in cut if c is not None]


def _is_channels(node: Node, of: int) -> bool:
    return normalised([node.attribute("axis", 1 if node.is_op("Concat") else 0)], of) == [1]


def _sliced_axes(facts: Facts, node: Node) -> list[int] | None:
    of = rank(facts, node.input(0))
    axes = integers(facts, node, "axes", 3)
    if of is None or axes is None:
        return None
    if not axes:
        starts = facts.shape(node.input(1)) if "starts" not in node.attributes else (len(node.attribute("starts")),)
        if starts is None or len(starts) != 1 or not isinstance(starts[0], int):
            return None
        return list(range(starts[0]))
    return normalised(axes, of)


def limits(facts: Facts, node: Node, size: int) -> tuple[int, int] | None:
    """Start and end on axis 1 as indices in 0 .. size; None when computed or with a step."""
    place = (_sliced_axes(facts, node) or []).index(1)
    starts, ends = integers(facts, node, "starts", 1), integers(facts, node, "ends", 2)
    steps = integers(facts, node, "steps", 4)
    if not starts or not ends or steps is None or (steps and steps[place] != 1):
        return None
    start, end, _ = slice(starts[place], ends[place]).indices(size)
    return start, max(start, end)


def _area(shape: Any) -> int | None:
    """Product of the sizes after axis 1; None when one is not known."""
    rest = shape[2:]
    return math.prod(rest) if all(isinstance(d, int) and d > 0 for d in rest) else None


def _keeps_first(shape: Any, target: list[int], others_known: bool) -> bool:
    """Is axis 0 of the result axis 0 of the input, at every size? `others_known`: the product of the
    other sizes is stated and equal to the input's, so that -1 can only be the same axis 0."""
    first = target[0]
    return first == 0 or (first == -1 and others_known) or (isinstance(shape[0], int) and first == shape[0])
