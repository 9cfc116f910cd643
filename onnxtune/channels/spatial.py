"""Operators over the other axes than the channels': each map is treated alone, so the layout stays.

Sums over the channels are right as long as pad channels are 0; a mean is over more channels then, and is
multiplied by (new / old number of channels). Removing channels would change both.
"""

from __future__ import annotations

import numpy as np

from onnxtune.channels.axis import Axis
from onnxtune.channels.operators import Edit, Pads, SameLayout, Trace, extra_outputs, integers, normalised, rank
from onnxtune.channels.ranges import ANY, ZERO, Range, hull
from onnxtune.facts import Facts, Node

COMPUTED = "its axes are computed at run time"
NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Abs", "Exp")
"""Their results are at least 0."""


class Pool(SameLayout):
    """Max, average and Lp pools, local and global. Averages may count the zeros around the map."""

    anywhere = False

    def pads(self, node: Node, pads: Pads) -> Range | str:
        inside = pads.of(node.input(0))
        if "Lp" in node.op_type:
            return ZERO if inside == ZERO else ANY
        return hull([inside, ZERO])


class Reduce(SameLayout):
    """ReduceMean, ReduceMax, ReduceMin, ReduceSum, ReduceL1, ReduceL2, ReduceSumSquare."""

    WITH_ZEROS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceMax")
    """Over channels they can stand zero channels beside the others."""

    def trace(self, node: Node, trace: Trace) -> str | None:
        axis, axes = trace.axis(node.input(0)), self._axes(node, trace.facts)
        if axis is None or axes is None or axis.dim not in axes:
            return super().trace(node, trace)
        facts, reason = trace.facts, f"{node.op_type} over channels"
        if node.op_type not in self.WITH_ZEROS or not axis.plain:
            return reason
        if node.op_type == "ReduceMax":
            maker = facts.producer(node.input(0))
            if maker is None or not maker.is_op(*NOT_NEGATIVE):
                return f"{reason} that may all be below 0"
        trace.hold(axis, reason)
        trace.unknown(node.outputs[0], reason, inside=True)
        return extra_outputs(node, facts)

    def refuses(self, node: Node, trace: Trace) -> str | None:
        return COMPUTED if self._axes(node, trace.facts) is None else None

    def moved(self, node: Node, axis: Axis, facts: Facts) -> int:
        axes = self._axes(node, facts) or []
        return axis.dim - (0 if node.attribute("keepdims", 1) else sum(a < axis.dim for a in axes))

    @staticmethod
    def _axes(node: Node, facts: Facts) -> list[int] | None:
        of, axes = rank(facts, node.input(0)), integers(facts, node, "axes", 1)
        if of is None or axes is None:
            return None
        if not axes and not node.attribute("noop_with_empty_axes", 0):
            return list(range(of))
        return normalised(axes, of)

    def pads(self, node: Node, pads: Pads) -> Range | str:
        inside, axis = pads.of(node.input(0)), pads.axes.get(node.input(0))
        if axis is not None and axis.dim in (self._axes(node, pads.facts) or []):
            return ZERO if inside == ZERO else f"{node.op_type} over channels with pads that are not 0"
        return inside if node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin") or inside == ZERO else ANY

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        made = edit.copy(node)
        axis, changed = edit.axis(node.input(0)), edit.source(node.input(0)) is not None
        if node.op_type != "ReduceMean" or not changed or axis.dim not in (self._axes(node, edit.facts) or []):
            return made
        factor = np.array(edit.width(node.input(0)) / axis.size, edit.facts.dtype(node.outputs[0]))
        return (str(edit.new.Mul(made[0], factor)),)


class Pad(SameLayout):
    def refuses(self, node: Node, trace: Trace) -> str | None:
        facts, of = trace.facts, rank(trace.facts, node.input(0))
        pads, axes = integers(facts, node, "pads", 1), integers(facts, node, "axes", 3)
        along = trace.axes[node.input(0)].dim
        if of is None or pads is None or axes is None:
            return COMPUTED
        axes = normalised(axes or list(range(of)), of)
        if any(pads[i] or pads[i + len(axes)] for i, axis in enumerate(axes) if axis == along):
            return "Pad over channels"
        if node.input(2):
            value = facts.constant(node.input(2))
            if value is None or not np.isfinite(value).all():
                return "its padding value is not a finite constant"
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        constant = pads.facts.constant(node.input(2)) if node.input(2) else None
        value = float(node.attribute("value", 0.0) if constant is None else constant.reshape(-1)[0])
        return hull([pads.of(node.input(0)), (value, value)])


class Resize(SameLayout):
    """Resize and Upsample. `scales` has 1 for channels; `sizes` names the number of channels."""

    def refuses(self, node: Node, trace: Trace) -> str | None:
        facts, of = trace.facts, rank(trace.facts, node.input(0))
        along = trace.axes[node.input(0)].dim
        if node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
            return "tf_crop_and_resize"
        axes = node.attribute("axes")
        if axes is not None:
            return None if of is not None and along not in normalised(axes, of) else "Resize over channels"
        if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            return "keep_aspect_ratio_policy without axes"
        if "scales" in node.attributes:
            return None if node.attribute("scales")[along] == 1 else "Resize over channels"
        sizes = self._sizes(node)
        if sizes:
            return None if copied_sizes(facts, node) or self._given(facts, node, sizes, along, of) else COMPUTED
        scales = facts.constant(node.input(2 if facts.opset >= 11 else 1))
        if scales is None:
            return COMPUTED
        return None if len(scales) > along and scales[along] == 1 else "Resize over channels"

    @staticmethod
    def _sizes(node: Node) -> str:
        """Name of the tensor that holds all output sizes; "" when scales are given."""
        return node.input(3) if node.attribute("axes") is None else ""

    @staticmethod
    def _given(facts: Facts, node: Node, sizes: str, along: int, of: int | None) -> bool:
        values, shape = facts.constant(sizes), facts.shape(node.input(0))
        return values is not None and shape is not None and values.shape == (of,) and values[along] == shape[along]

    def pads(self, node: Node, pads: Pads) -> Range | str:
        inside = pads.of(node.input(0))
        return ANY if node.attribute("mode", "nearest") == "cubic" and inside != ZERO else hull([inside, ZERO])

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        sizes = self._sizes(node)
        if not sizes or not edit.facts.is_constant(sizes):
            return edit.copy(node)
        changed = edit.constant(sizes).copy()
        changed[edit.axis(node.outputs[0]).dim] = edit.width(node.outputs[0])
        return edit.copy(node, {3: changed})


def copied_sizes(facts: Facts, resize: Node) -> list[Node]:
    """The nodes of Resize(x, sizes = Concat(Shape(x)[:2], ...)), from Shape to Concat; [] for other sizes.

    As its number of channels is copied from x, it changes with it.
    """
    concat = facts.producer(resize.input(3)) if resize.is_op("Resize") else None
    if concat is None or not concat.is_op("Concat"):
        return []
    chain: list[Node] = []
    node: Node | None = concat
    while node is not None:
        chain.append(node)
        if node.is_op("Shape"):
            bare = not node.attributes and node.input(0) == resize.input(0)
            return chain[::-1] if bare and sum(n.is_op("Slice") for n in chain) == 1 else []
        if len(facts.consumers(node.outputs[0])) != 1 or facts.is_output(node.outputs[0]):
            return []
        if node.is_op("Slice"):
            given = [integers(facts, node, name, i) for name, i in (("starts", 1), ("ends", 2), ("steps", 4))]
            if given[0] != [0] or given[1] != [2] or given[2] not in ([], [1]):
                return []
        elif node is not concat and not node.is_op("Cast"):
            return []
        node = facts.producer(node.input(0))
    return []
