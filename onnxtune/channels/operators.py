"""What an operator does to channel layouts: the interface, and the tools that it is given.

`trace` runs once per node, in order. It gives axes to the outputs, or returns the reason why the
operator is a barrier: then its inputs keep their channels, and so do its outputs.
`pads` says what values the pad channels of the output take, or why they may not be finite.
`edit` writes the node for new channel counts and returns the names of its outputs.
"""

from __future__ import annotations

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


class Trace:
    """Collects axes, equalities of channels, and channels that must stay as they are, with the reason.

    `borders`: tensors that something outside (a barrier, a caller) makes or reads, with what that is.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.axes: dict[str, Axis] = {}
        self.equal: list[tuple[Integers, Integers]] = []
        self.pinned: list[tuple[Integers, str]] = []
        self.borders: dict[str, str] = {}
        self.barriers: set[str] = set()
        self.count = 0

    def axis(self, tensor: str) -> Axis | None:
        return self.axes.get(tensor)

    def fresh(self, size: int) -> Axis:
        """An axis of new channels."""
        self.count += size
        return Axis(np.arange(self.count - size, self.count), np.ones(size, np.int64))

    def unite(self, a: Axis, b: Axis) -> None:
        """The channels of both axes are the same ones, in order. Their blocks must be equal."""
        self.equal.append((a.ids, b.ids))

    def pin(self, axis: Axis, reason: str) -> None:
        self.pinned.append((axis.ids, reason))


class Pads:
    """Ranges of the pad channels of the tensors seen so far."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
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
        """How axis 1 of the tensor is made from the old one; None when it does not change."""
        axis = self._axes.get(tensor)
        if axis is None:
            return None
        if id(axis) not in self._sources:
            same = bool((self.counts[axis.ids] == 1).all())
            self._sources[id(axis)] = None if same else axis.source(self.counts)
        return self._sources[id(axis)]

    def width(self, tensor: str) -> int:
        """New length of axis 1."""
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
            return self.new.slice(made, 1, 0, len(places))
        return str(self.new.Gather(made, places, axis=1))

    def inner(self, tensor: str) -> str:
        """A tensor from outside with zeros as pad channels."""
        source, of = self.source(tensor), rank(self.facts, tensor) or 0
        if source is None:
            return tensor
        size = self.axis(tensor).size
        tail = np.array_equal(source[:size], np.arange(size))
        padded = self.new.pad(tensor, [0] * (of + 1) + [len(source) - size if tail else 1] + [0] * (of - 2))
        return padded if tail else str(self.new.Gather(padded, np.where(source < 0, size, source), axis=1))

    def taken(self, tensor: str, *changes: tuple[int, Integers | None], fill: float = 0.0) -> Any:
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

    def refuses(self, node: Node, trace: Trace) -> str | None:
        """Why this node is a barrier after all."""
        return None

    def trace(self, node: Node, trace: Trace) -> str | None:
        axis = trace.axis(node.input(0))
        if axis is None:
            return UNKNOWN
        problem = self.refuses(node, trace) or extra_outputs(node, trace.facts)
        if problem:
            return problem
        if trace.facts.channels(node.outputs[0]) not in (axis.size, None):
            return "its output has another number of channels"
        trace.axes[node.outputs[0]] = axis
        return None

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


def rank(facts: Facts, tensor: str) -> int | None:
    shape = facts.shape(tensor)
    return None if shape is None else len(shape)


def normalised(axes: list[int], of: int) -> list[int]:
    """Axes counted from the front of a tensor of rank `of`."""
    return [a + of if a < 0 else a for a in axes]
