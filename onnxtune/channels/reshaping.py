"""Operators that change a tensor's axes: where the channels lie afterwards.

Transpose, Squeeze, Unsqueeze, Expand    the channels move with their axis
Flatten, Reshape    sizes are compared in row-major order, (..., before, C, after, ...):

    an axis of size C again                 the channels lie there
    before * C * after in one axis          `before` times the list, each channel a block of `after` indices
    C = a n b cut into several axes         the one of size n has the channels: its channel q stands for all (i, q, k),
                                            which change together (`Trace.tie`)

so Reshape, Transpose, Reshape are a channel shuffle, a DepthToSpace or a change to NHWC, whatever the sizes say.
Blocks of maps that are maps again (rank 3 and more) are channels of their own, tied in the same way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxtune.channels.axis import Axis
from onnxtune.channels.operators import UNKNOWN, Edit, Pads, SameLayout, Trace, integers, normalised, rank
from onnxtune.channels.ranges import ANY, Range
from onnxtune.channels.spatial import copied_sizes
from onnxtune.facts import Facts, Node

COMPUTED = "its parameters are computed at run time"
Dim = int | str


class Transpose(SameLayout):
    def refuses(self, node: Node, trace: Trace) -> str | None:
        if trace.is_unknown(node.input(0)) and self.moved(node, trace.axes[node.input(0)], trace.facts) != 1:
            return "Transpose of a tensor whose channels are not known"
        return None

    def moved(self, node: Node, axis: Axis, facts: Facts) -> int:
        order = node.attribute("perm") or list(range(rank(facts, node.input(0)) or 0))[::-1]
        return int(order.index(axis.dim))


class Squeeze(SameLayout):
    """Squeeze and Unsqueeze of other axes than the channels'."""

    def refuses(self, node: Node, trace: Trace) -> str | None:
        axes = self._axes(node, trace.facts)
        if not axes:
            return "its axes are not given"
        squeezed = node.op_type == "Squeeze" and trace.axes[node.input(0)].dim in axes
        return "Squeeze of the channels" if squeezed else None

    def moved(self, node: Node, axis: Axis, facts: Facts) -> int:
        axes, of = self._axes(node, facts) or [], rank(facts, node.input(0)) or 0
        if node.op_type == "Squeeze":
            return axis.dim - sum(a < axis.dim for a in axes)
        return [a for a in range(of + len(axes)) if a not in axes][axis.dim]

    @staticmethod
    def _axes(node: Node, facts: Facts) -> list[int] | None:
        axes, of = integers(facts, node, "axes", 1), rank(facts, node.input(0))
        if not axes or of is None:
            return None
        return normalised(axes, of + len(axes) if node.op_type == "Unsqueeze" else of)


class Expand(SameLayout):
    """Along other axes than the channels': to a constant shape, or to that of a tensor with the same channels."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        problem, like = super().trace(node, trace), _like(trace.facts, node)
        if like is None:
            return problem
        axis, other = trace.axis(node.outputs[0]), trace.axis(like)
        if problem is None and axis is not None and (other is None or not _same_form(axis, other)):
            problem = "the shape is that of a tensor with other channels"
        if other is not None and problem:
            trace.pin(other, f"Expand: {problem}")
        elif axis is not None and other is not None:
            trace.unite(axis, other)
        return problem

    def refuses(self, node: Node, trace: Trace) -> str | None:
        facts = trace.facts
        known = facts.is_constant(node.input(1)) or _like(facts, node) is not None
        return None if known and None not in (rank(facts, node.input(0)), rank(facts, node.outputs[0])) else COMPUTED

    def moved(self, node: Node, axis: Axis, facts: Facts) -> int:
        return axis.dim + (rank(facts, node.outputs[0]) or 0) - (rank(facts, node.input(0)) or 0)

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        if not edit.facts.is_constant(node.input(1)):
            return edit.copy(node)
        target = edit.constant(node.input(1)).astype(np.int64)
        from_end = edit.axis(node.outputs[0]).dim - (rank(edit.facts, node.outputs[0]) or 0)
        if -from_end <= len(target):
            target[from_end] = 1
        return edit.copy(node, {1: target})


def _like(facts: Facts, expand: Node) -> str | None:
    """The tensor whose whole shape an Expand takes."""
    shape = facts.producer(expand.input(1))
    return shape.input(0) if shape is not None and shape.is_op("Shape") and not shape.attributes else None


def _same_form(a: Axis, b: Axis) -> bool:
    return a.dim == b.dim and np.array_equal(a.blocks, b.blocks)


@dataclass(frozen=True)
class Place:
    """Where a Reshape takes the channels: to the axes `first` to `last` of its output (several: it cuts the
    channels); one axis holds them `before` times, with `after` indices for each."""

    first: int
    last: int
    before: int = 1
    after: int = 1


class Reshape(SameLayout):
    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, axis = trace.facts, trace.axis(node.input(0))
        shape, made = _shape(facts, node.input(0)), self.sizes(facts, node)
        if axis is None or shape is None:
            return UNKNOWN
        if isinstance(made, str):
            return made
        place = placed(shape, made, axis.dim)
        if place is None:
            moved = shape[0] != made[0] and axis.dim != 0
            return "Reshape may move maps between batch and channels" if moved else "Reshape mixes channels and maps"
        found = self._merged(trace, axis, place, len(made)) if place.first == place.last else None
        if place.first != place.last:
            found = self._cut(trace, node, axis, place, made)
        if found is None:
            return "Reshape cuts flattened maps"
        trace.axes[node.outputs[0]] = found
        return None

    def sizes(self, facts: Facts, node: Node) -> list[Dim] | str:
        """Sizes of the output, or why they are not known."""
        shape, target = _shape(facts, node.input(0)), integers(facts, node, "shape", 1)
        if shape is None or not target or (0 in target and node.attribute("allowzero", 0)):
            return COMPUTED
        return resolved(shape, target)

    @staticmethod
    def _merged(trace: Trace, axis: Axis, place: Place, of: int) -> Axis | None:
        if place.after > 1 and of > 2:
            if not axis.plain:
                return None
            maps = trace.fresh(axis.size * place.after)
            trace.tie(maps, axis, 1, place.after)
            axis = maps
        else:
            axis = axis.spread(place.after)
        return axis.repeated(place.before).at(place.first)

    @staticmethod
    def _cut(trace: Trace, node: Node, axis: Axis, place: Place, made: list[Dim]) -> Axis | None:
        dim = _growing(trace.facts, node, place, made, axis.dim)
        before, after = (
            math.prod(int(d) for d in made[a:b]) for a, b in ((place.first, dim), (dim + 1, place.last + 1))
        )
        if axis.plain:
            found = trace.fresh(int(made[dim]), dim)
            trace.tie(axis, found, before, after)
            return found
        if before != 1 or (axis.blocks % after).any():
            return None
        return replace(axis, blocks=axis.blocks // after, dim=dim)

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        target = list(integers(edit.facts, node, "shape", 1) or [])
        made, out = self.sizes(edit.facts, node), edit.axis(node.outputs[0]).dim
        for i, size in enumerate(target):
            if i == out and size != -1:
                target[i] = edit.width(node.outputs[0])
            elif size == 0 and i == edit.axis(node.input(0)).dim:
                target[i] = int(made[i])
        return edit.copy(node, {1: np.array(target, np.int64)})


class Flatten(Reshape):
    """(N, ...) -> (N, product of the others), which must be known."""

    def sizes(self, facts: Facts, node: Node) -> list[Dim] | str:
        shape = _shape(facts, node.input(0))
        if shape is None or node.attribute("axis", 1) not in (1, 1 - len(shape)) or _product(shape[1:]) is None:
            return "the size of the flattened maps is not known"
        return resolved(shape, [0, -1])

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        return edit.copy(node)


def _shape(facts: Facts, tensor: str) -> list[Dim] | None:
    """Sizes; those that are not known get a name of their own."""
    shape = facts.shape(tensor)
    return None if shape is None else [f"?{i}" if d is None else d for i, d in enumerate(shape)]


def _product(sizes: Sequence[Dim]) -> int | None:
    return math.prod(int(d) for d in sizes) if all(isinstance(d, int) for d in sizes) else None


def resolved(shape: list[Dim], target: Sequence[int]) -> list[Dim]:
    """The target of a Reshape with its 0 and -1 replaced; "?" for a -1 that cannot be told."""
    made: list[Dim] = [shape[i] if t == 0 and i < len(shape) else t for i, t in enumerate(target)]
    if -1 not in target:
        return made
    left, right = Counter(d for d in shape if isinstance(d, str)), Counter(d for d in made if isinstance(d, str))
    names = list((left - right).elements())
    whole = math.prod(d for d in shape if isinstance(d, int))
    others = math.prod(d for d in made if isinstance(d, int) and d != -1)
    rest: Dim = "?"
    if not right - left and others:
        if not names and whole % others == 0:
            rest = whole // others
        elif len(names) == 1 and whole == others:
            rest = names[0]
    made[target.index(-1)] = rest
    return made


def placed(shape: Sequence[Dim], made: Sequence[Dim], dim: int) -> Place | None:
    """Where axis `dim` of `shape` is in `made`; None when it is mixed with other axes or cannot be told."""
    shorter, front, back = min(len(shape), len(made)), 0, 0
    while front < shorter and shape[front] == made[front]:
        front += 1
    if dim < front:
        return Place(dim, dim)
    while back < shorter - front and shape[-1 - back] == made[-1 - back]:
        back += 1
    if dim >= len(shape) - back:
        moved = dim + len(made) - len(shape)
        return Place(moved, moved)
    inner = made[front : len(made) - back]
    before, after = _product(shape[front:dim]), _product(shape[dim + 1 : len(shape) - back])
    size, total = shape[dim], _product(inner)
    if before is None or after is None or not isinstance(size, int) or total != before * size * after or not total:
        return None
    edges = [math.prod(int(d) for d in inner[:i]) for i in range(len(inner) + 1)]
    for i in range(len(inner)):
        left, right = edges[i], total // edges[i + 1]
        if before % left == 0 and after % right == 0:
            return Place(front + i, front + i, before // left, after // right)
    for i in range(len(inner)):
        for j in range(i, len(inner)):
            if edges[i] == before and total // edges[j + 1] == after:
                return Place(front + i, front + j)
    return None


def _growing(facts: Facts, node: Node, place: Place, made: list[Dim], dim: int) -> int:
    """Which of the axes that the channels are cut into has the channels.

    Looks ahead: the one that a Transpose and a Reshape take to where the channels were (the largest, if
    there are several), or a Transpose to axis 1; else the first.
    """
    candidates = [i for i in range(place.first, place.last + 1) if made[i] != 1] or [place.first]
    reader = next((r for r in facts.consumers(node.outputs[0]) if r.is_op("Transpose")), None)
    if reader is None:
        return candidates[0]
    order = reader.attribute("perm") or list(range(len(made)))[::-1]
    last = next((r for r in facts.consumers(reader.outputs[0]) if r.is_op("Reshape")), None)
    target = integers(facts, last, "shape", 1) if last is not None else None
    if not target:
        return next((i for i in candidates if order.index(i) == 1), candidates[0])
    turned = [made[i] for i in order]
    sizes = resolved(turned, target)
    back = [i for i in candidates if (to := placed(turned, sizes, order.index(i))) and to.first == to.last == dim]
    return max(back or candidates[:1], key=lambda i: int(made[i]))


class Shape:
    """Its output is a list of sizes; harmless as long as nobody looks at the number of channels."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        facts, output = trace.facts, node.outputs[0]
        of, axis = rank(facts, node.input(0)), trace.axis(node.input(0))
        if of is None or facts.is_output(output):
            return "its sizes are used"
        along = 1 if axis is None else axis.dim
        start, end = (normalised([node.attribute(k, d)], of)[0] for k, d in (("start", 0), ("end", of)))
        window = range(of)[max(start, 0) : end]
        for reader in facts.consumers(output) if along in window else ():
            whole = reader.is_op("Expand") and output not in (reader.input(0), *reader.captured)
            whole = whole and _like(facts, reader) is not None
            if not (whole or _avoids(facts, reader, output, window, along) or _copies(facts, node, reader)):
                return "Shape: the number of channels is used"
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return ANY

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        return edit.copy(node)


def followers(facts: Facts, shape: Node) -> set[str]:
    """Keys of the nodes after a Shape that work on the list of sizes itself."""
    readers = facts.consumers(shape.outputs[0])
    return {r.key for r in readers} | {n.key for r in readers for n in _copies(facts, shape, r)}


def _copies(facts: Facts, shape: Node, reader: Node) -> list[Node]:
    """The nodes from a reader of the sizes to a Concat that gives them back to a Resize of the same tensor."""
    for resize in facts.consumers(shape.input(0)):
        chain = copied_sizes(facts, resize)
        if chain and chain[0].key == shape.key and chain[1].key == reader.key:
            return chain[1:]
    return []


def _avoids(facts: Facts, reader: Node, sizes: str, window: range, along: int) -> bool:
    """Does a reader of a list of sizes take only others than that of one axis?"""
    if reader.inputs.count(sizes) != 1 or reader.input(0) != sizes or reader.captured:
        return False
    if reader.is_op("Gather"):
        chosen = facts.constant(reader.input(1))
        return chosen is not None and all(along not in window[int(i) :][:1] for i in chosen.ravel())
    if reader.is_op("Slice"):
        limits = [integers(facts, reader, name, i) for name, i in (("starts", 1), ("ends", 2), ("steps", 4))]
        if any(v is None or len(v) > 1 for v in limits) or not limits[0] or not limits[1]:
            return False
        return along not in window[slice(limits[0][0], limits[1][0], (limits[2] or [1])[0])]
    return False
