"""What an operator does to channel layouts: the interface, and the tools that it is given.

`trace` runs once per node, in order. It gives axes to the outputs, or returns the reason why the
operator is a barrier: then its inputs keep their channels, and so do its outputs.
`pads` says what values the pad channels of the output take, or why they may not be finite.
`edit` writes the node for new channel counts and returns the names of its outputs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.channels.axis import Axis, Integers, take
from onnxtune.channels.ranges import ANY, Range
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.later import Later, is_large

UNKNOWN = "the number of channels is not known"
ELSEWHERE = "the channels lie along another axis"


Change = tuple[int, Integers | None]
"""An axis of a weight, and how it is made from the old one (see Axis.source)."""


class Trace:
    """Collects axes, equalities of channels, and channels that must stay as they are, with the reason.

    `seen`: tensors that nodes before the present one have read.
    `borders`: tensors that something outside (a barrier, a caller) makes or reads, with what that is.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.axes: dict[str, Axis] = {}
        self.equal: list[tuple[Integers, Integers]] = []
        self.tied: list[tuple[Integers, Integers, int]] = []
        self.pinned: list[tuple[Integers, str]] = []
        self.held: list[tuple[Integers, str]] = []
        self.borders: dict[str, str] = {}
        self.barriers: set[str] = set()
        self.seen: set[str] = set()
        self.count = 0
        self._unknown: list[tuple[int, int, str]] = []

    def axis(self, tensor: str) -> Axis | None:
        return self.axes.get(tensor)

    def along(self, tensor: str, dim: int) -> Axis | None:
        """The axis of a tensor if it is this one. Where nothing is known, the first reader may choose it."""
        axis, reason = self.axes.get(tensor), self._why_unknown(tensor)
        if axis is not None and axis.dim != dim and reason and tensor not in self.seen:
            del self.axes[tensor]
            self.unknown(tensor, reason, dim)
            axis = self.axes.get(tensor)
        return axis if axis is not None and axis.dim == dim else None

    def unknown(self, tensor: str, reason: str, dim: int = 1, *, inside: bool = False) -> None:
        """Nothing is known of the channels of a tensor but their number: they must stay.

        `inside`: a known operator makes it, which cannot make more channels.
        """
        size = length(self.facts, tensor, dim)
        if size:
            self.axes[tensor] = self.fresh(size, dim)
            self._unknown.append((self.count - size, self.count, reason))
            if inside:
                self.pin(self.axes[tensor], reason)
            else:
                self.borders.setdefault(tensor, reason)

    def is_unknown(self, tensor: str) -> bool:
        """Has the tensor an axis for whose choice there was no ground?"""
        return bool(self._why_unknown(tensor))

    def _why_unknown(self, tensor: str) -> str:
        axis = self.axes.get(tensor)
        if axis is None or not len(axis.ids):
            return ""
        first = int(axis.ids[0])
        place = bisect_right(self._unknown, first, key=lambda entry: entry[0]) - 1
        return self._unknown[place][2] if place >= 0 and first < self._unknown[place][1] else ""

    def fresh(self, size: int, dim: int = 1) -> Axis:
        """An axis of new channels."""
        self.count += size
        return Axis(np.arange(self.count - size, self.count), np.ones(size, np.int64), dim)

    def unite(self, a: Axis, b: Axis) -> None:
        """The channels of both axes are the same ones, in order. Their blocks must be equal."""
        self.equal.append((a.ids, b.ids))

    def tie(self, big: Axis, small: Axis, before: int, after: int) -> None:
        """The big axis, cut into (before, channels of the small one, after), changes along the middle alone."""
        grid = big.ids.reshape(before, len(small.ids), after)
        middle = np.broadcast_to(small.ids[:, None], grid.shape)
        for part, factor in ((np.s_[..., :-1], 0), (np.s_[..., -1], after)):
            if grid[part].size:
                self.tied.append((middle[part].ravel(), grid[part].ravel(), factor))

    def pin(self, axis: Axis, reason: str) -> None:
        """The channels stay, and no pads come behind them."""
        self.pinned.append((axis.ids, reason))

    def hold(self, axis: Axis, reason: str) -> None:
        """The channels stay, though pads may come behind them."""
        self.held.append((axis.ids, reason))


class Pads:
    """Ranges of the pad channels of the tensors seen so far."""

    def __init__(self, facts: Facts, axes: Mapping[str, Axis]) -> None:
        self.facts, self.axes = facts, axes
        self.ranges: dict[str, Range] = {}

    def of(self, tensor: str) -> Range:
        return self.ranges.get(tensor, ANY)


class Edit:
    """Writes nodes for new channel counts. counts: (identities,), see axis.py."""

    def __init__(self, facts: Facts, axes: Mapping[str, Axis], counts: Integers, new: Builder) -> None:
        self.facts, self.new, self.counts = facts, new, counts
        self._axes = axes
        self._sources: dict[int, Integers | None] = {}
        self.names: dict[str, str] = {}

    def axis(self, tensor: str) -> Axis:
        return self._axes[tensor]

    def source(self, tensor: str) -> Integers | None:
        """How the channel axis of the tensor is made from the old one; None when it does not change."""
        axis = self._axes.get(tensor)
        if axis is None:
            return None
        if id(axis) not in self._sources:
            same = bool((self.counts[axis.ids] == 1).all())
            self._sources[id(axis)] = None if same else axis.source(self.counts)
        return self._sources[id(axis)]

    def width(self, tensor: str) -> int:
        """New length of the channel axis."""
        source = self.source(tensor)
        return self._axes[tensor].size if source is None else len(source)

    def constant(self, tensor: str) -> NDArray[Any]:
        value = self.facts.constant(tensor)
        assert value is not None, f"trace has proved that '{tensor}' is constant"
        return value

    def outer(self, tensor: str, made: str) -> str:
        """`made` is the tensor with pad channels: what those outside read, without them."""
        source = self.source(tensor)
        if source is None:
            return made
        places = np.flatnonzero(source >= 0)
        if np.array_equal(places, np.arange(len(places))):
            return self.new.slice(made, self.axis(tensor).dim, 0, len(places))
        return str(self.new.Gather(made, places, axis=self.axis(tensor).dim))

    def inner(self, tensor: str) -> str:
        """A tensor from outside with zeros as pad channels."""
        source, of = self.source(tensor), rank(self.facts, tensor) or 0
        if source is None:
            return tensor
        size, dim, pads = self.axis(tensor).size, self.axis(tensor).dim, [0] * (2 * of)
        tail = np.array_equal(source[:size], np.arange(size))
        pads[of + dim] = len(source) - size if tail else 1
        padded = self.new.pad(tensor, pads)
        return padded if tail else str(self.new.Gather(padded, np.where(source < 0, size, source), axis=dim))

    def taken(self, tensor: str, *changes: Change, fill: float = 0.0) -> Any:
        """A constant with some axes rearranged: its own name where nothing changes, else an array or a Later."""
        if not tensor or all(source is None for _, source in changes):
            return tensor
        values = self.constant(tensor)
        if not is_large(values):
            return _rearranged(values, changes, fill)
        shape = list(values.shape)
        for axis, source in changes:
            shape[axis] = shape[axis] if source is None else len(source)
        facts = self.facts

        def make() -> NDArray[Any]:
            whole = facts.constant(tensor)
            assert whole is not None, "it was constant before"
            return _rearranged(whole, changes, fill)

        return Later(tuple(shape), values.dtype, make)

    def copy(
        self,
        node: Node,
        inputs: Mapping[int, str | NDArray[Any]] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[str, ...]:
        """The node on the new tensors, with some inputs (by position) and attributes replaced (None: dropped)."""
        proto = node.proto
        if attributes:
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            kept = [a for a in proto.attribute if a.name not in attributes]
            made = [onnx.helper.make_attribute(k, v) for k, v in attributes.items() if v is not None]
            del proto.attribute[:]
            proto.attribute.extend([*kept, *made])
        replaced = dict(inputs or {})
        count = max([len(node.inputs), *(p + 1 for p in replaced)])
        sources = [replaced.get(i, self.names.get(node.input(i), node.input(i))) for i in range(count)]
        return self.new.copy(proto, sources)


def _rearranged(values: NDArray[Any], changes: Sequence[tuple[int, Integers | None]], fill: float) -> NDArray[Any]:
    for axis, source in changes:
        values = take(values, axis, source, fill)
    return values


class Operator(Protocol):
    def trace(self, node: Node, trace: Trace) -> str | None: ...

    def pads(self, node: Node, pads: Pads) -> Range | str: ...

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]: ...


class SameLayout:
    """Each output channel is made from the same input channel alone: the output has the input's axis."""

    anywhere = True
    """False: the operator takes axis 1 for the channels."""

    def refuses(self, node: Node, trace: Trace) -> str | None:
        """Why this node is a barrier after all."""
        return None

    def trace(self, node: Node, trace: Trace) -> str | None:
        axis = trace.axis(node.input(0)) if self.anywhere else trace.along(node.input(0), 1)
        if axis is None:
            return UNKNOWN if trace.axis(node.input(0)) is None else ELSEWHERE
        problem = self.refuses(node, trace) or extra_outputs(node, trace.facts)
        if problem:
            return problem
        dim = self.moved(node, axis, trace.facts)
        if length(trace.facts, node.outputs[0], dim) not in (axis.size, None):
            return "its output has another number of channels"
        trace.axes[node.outputs[0]] = axis.at(dim)
        return None

    def moved(self, node: Node, axis: Axis, facts: Facts) -> int:
        """Which axis of the output holds the channels."""
        return axis.dim

    def pads(self, node: Node, pads: Pads) -> Range | str:
        return pads.of(node.input(0))

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        return edit.copy(node)


def extra_outputs(node: Node, facts: Facts) -> str | None:
    """Says so when an output after the first is in use."""
    used = any(o and (facts.is_output(o) or facts.consumers(o)) for o in node.outputs[1:])
    return f"the second output of {node.op_type} is in use" if used else None


def integers(facts: Facts, node: Node, attribute: str, position: int) -> list[int] | None:
    """A list that is an attribute in old opsets and an input in new ones: [] when absent, None when computed."""
    if attribute in node.attributes:
        value = node.attribute(attribute)
        return list(value) if isinstance(value, list) else [value]
    if not node.input(position):
        return []
    constant = facts.constant(node.input(position))
    return None if constant is None else [int(v) for v in constant.ravel()]


def length(facts: Facts, tensor: str, dim: int) -> int | None:
    """Size of an axis when it is a known number."""
    shape = facts.shape(tensor)
    size = shape[dim] if shape is not None and 0 <= dim < len(shape) else None
    return size if isinstance(size, int) else None


def rank(facts: Facts, tensor: str) -> int | None:
    shape = facts.shape(tensor)
    return None if shape is None else len(shape)


def normalised(axes: list[int], of: int) -> list[int]:
    """Axes counted from the front of a tensor of rank `of`."""
    return [a + of if a < 0 else a for a in axes]
