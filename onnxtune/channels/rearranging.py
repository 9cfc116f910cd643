"""Operators that rearrange whole channels: the output's axis follows from the inputs' axes.

Concat along the channels     the lists one after the other
Split, Slice, Gather along the channels    parts of the list; the cuts and indices move with the channels
SpaceToDepth    the list b * b times
DepthToSpace    b * b channels become one: they change together (`Trace.tie`)
Concat, Split, Slice and Gather along other axes    same layout
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis, joined
from onnxtune.channels.operators import UNKNOWN, Edit, Pads, SameLayout, Trace, integers, length, normalised, rank
from onnxtune.channels.ranges import ANY, Range, hull
from onnxtune.facts import Facts, Node

CUT = "it cuts a flattened map"
COMPUTED = "its parameters are computed at run time"


class Concat:
    def trace(self, node: Node, trace: Trace) -> str | None:
        facts = trace.facts
        of = rank(facts, node.outputs[0])
        dims = [a.dim for i in node.inputs if (a := trace.axis(i)) is not None and not trace.is_unknown(i)]
        dims = dims or [1]
        found = [trace.along(i, dims[0]) for i in node.inputs]
        axes = [a for a in found if a is not None]
        if len(axes) < len(found) or of is None:
            return UNKNOWN
        if normalised([node.attribute("axis", 1)], of) == dims[:1]:
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
        if not _is_along(node, of, axis):
            trace.axes.update((o, axis) for o in node.outputs if o)
            return None
        sizes = [length(facts, o, axis.dim) for o in node.outputs]
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
        if not _is_along(node, rank(edit.facts, node.input(0)) or 0, edit.axis(node.input(0))):
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
        if axis.dim not in axes:
            trace.axes[node.outputs[0]] = axis
            return None
        cuts = limits(facts, node, axis)
        if cuts is None:
            steps = integers(facts, node, "steps", 4)
            return "a Slice of channels with a step" if steps and steps[axes.index(axis.dim)] != 1 else COMPUTED
        part = axis.between(*cuts)
        if part is None or not len(part.ids):
            return CUT
        trace.axes[node.outputs[0]] = part
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return pads.of(node.input(0))

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        axes, axis = _sliced_axes(edit.facts, node) or [], edit.axis(node.input(0))
        if axis.dim not in axes:
            return edit.copy(node)
        cuts = limits(edit.facts, node, axis)
        assert cuts is not None, "trace has read them"
        place = axes.index(axis.dim)
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


class Gather:
    """Constant indices, in any order, take channels; any indices along another axis leave them alone."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, axis = trace.facts, trace.axis(node.input(0))
        of, indices = rank(facts, node.input(0)), facts.constant(node.input(1))
        if axis is None or of is None:
            return UNKNOWN
        if not _is_along(node, of, axis):
            extra = rank(facts, node.input(1))
            if extra is None:
                return COMPUTED
            before = normalised([node.attribute("axis", 0)], of)[0] < axis.dim
            trace.axes[node.outputs[0]] = axis.at(axis.dim + extra - 1 if before else axis.dim)
            return None
        if indices is None:
            return COMPUTED
        if not axis.plain or indices.ndim != 1 or not indices.size:
            return "Gather of one channel" if axis.plain else CUT
        trace.axes[node.outputs[0]] = axis.chosen(indices)
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return pads.of(node.input(0))

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        axis = edit.axis(node.input(0))
        if not _is_along(node, rank(edit.facts, node.input(0)) or 0, axis):
            return edit.copy(node)
        widths = axis.widths(edit.counts)
        starts = np.cumsum(widths) - widths
        chosen = [np.arange(starts[i], starts[i] + widths[i]) for i in edit.constant(node.input(1)).tolist()]
        return edit.copy(node, {1: np.concatenate(chosen).astype(np.int64)})


class SpaceToDepth(SameLayout):
    """Output channel k C + q is input channel q at place k of its block."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        axis = trace.along(node.input(0), 1)
        if axis is None or not axis.plain:
            return UNKNOWN
        trace.axes[node.outputs[0]] = axis.repeated(node.attribute("blocksize") ** 2)
        return None


class DepthToSpace(SameLayout):
    """DCR: input channel k C + q, CRD: input channel q b b + k, is place k of the block of output channel q."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        axis = trace.along(node.input(0), 1)
        places = node.attribute("blocksize") ** 2
        if axis is None or not axis.plain or axis.size % places:
            return UNKNOWN
        made = trace.fresh(axis.size // places)
        before = node.attribute("mode", "DCR") == "DCR"
        trace.tie(axis, made, places if before else 1, 1 if before else places)
        trace.axes[node.outputs[0]] = made
        return None


def over_channels(facts: Facts, node: Node, axis: Axis) -> bool:
    """Does a Concat, Split, Slice or Gather work along the channels? `axis`: of its first input."""
    if node.is_op("Slice"):
        return axis.dim in (_sliced_axes(facts, node) or [])
    return _is_along(node, rank(facts, node.input(0)) or 0, axis)


def parts(facts: Facts, node: Node, axis: Axis) -> list[Axis]:
    """What the outputs of a Split, Slice or Gather along the channels hold of the input's axis."""
    if node.is_op("Gather"):
        return [axis.chosen(facts.constant(node.input(1)))]
    if node.is_op("Slice"):
        bounds = [limits(facts, node, axis)]
    else:
        ends = np.cumsum([length(facts, o, axis.dim) or 0 for o in node.outputs]).tolist()
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    cut = [None if b is None else axis.between(*b) for b in bounds]
    assert None not in cut, "trace has found them"
    return [c for c in cut if c is not None]


def _is_along(node: Node, of: int, axis: Axis) -> bool:
    return normalised([node.attribute("axis", 1 if node.is_op("Concat") else 0)], of) == [axis.dim]


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


def limits(facts: Facts, node: Node, axis: Axis) -> tuple[int, int] | None:
    """Start and end along the channels as indices in 0 .. size; None when computed or with a step."""
    place = (_sliced_axes(facts, node) or []).index(axis.dim)
    starts, ends = integers(facts, node, "starts", 1), integers(facts, node, "ends", 2)
    steps = integers(facts, node, "steps", 4)
    if not starts or not ends or steps is None or (steps and steps[place] != 1):
        return None
    start, end, _ = slice(starts[place], ends[place]).indices(axis.size)
    return start, max(start, end)
