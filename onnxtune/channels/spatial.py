"""Operators over the spatial axes (2 and up): each map is treated alone, so the layout stays."""

from __future__ import annotations

import numpy as np

from onnxtune.channels.operators import Edit, Pads, SameLayout, Trace, integers, normalised, rank
from onnxtune.channels.ranges import ANY, ZERO, Range, hull
from onnxtune.facts import Node

COMPUTED = "its axes are computed at run time"


class Pool(SameLayout):
    """Max, average and Lp pools, local and global. Averages may count the zeros around the map."""

    def pads(self, node: Node, pads: Pads) -> Range | str:
        inside = pads.of(node.input(0))
        if "Lp" in node.op_type:
            return ZERO if inside == ZERO else ANY
        return hull([inside, ZERO])


class Reduce(SameLayout):
    """ReduceMean, ReduceMax, ReduceMin, ReduceSum over spatial axes."""

    def refuses(self, node: Node, trace: Trace) -> str | None:
        of, axes = rank(trace.facts, node.input(0)), integers(trace.facts, node, "axes", 1)
        if of is None or axes is None:
            return COMPUTED
        if not axes or min(normalised(axes, of)) < 2:
            return f"{node.op_type} over channels"
        return None

    def pads(self, node: Node, pads: Pads) -> Range | str:
        inside = pads.of(node.input(0))
        return inside if node.op_type != "ReduceSum" or inside == ZERO else ANY


class Pad(SameLayout):
    def refuses(self, node: Node, trace: Trace) -> str | None:
        facts, of = trace.facts, rank(trace.facts, node.input(0))
        pads, axes = integers(facts, node, "pads", 1), integers(facts, node, "axes", 3)
        if of is None or pads is None or axes is None:
            return COMPUTED
        axes = normalised(axes or list(range(of)), of)
        if any(pads[i] or pads[i + len(axes)] for i, axis in enumerate(axes) if axis == 1):
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
        if node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
            return "tf_crop_and_resize"
        axes = node.attribute("axes")
        if axes is not None:
            return None if of is not None and min(normalised(axes, of)) > 1 else "Resize over channels"
        if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            return "keep_aspect_ratio_policy without axes"
        if "scales" in node.attributes:
            return None if node.attribute("scales")[1] == 1 else "Resize over channels"
        sizes = self._sizes(node)
        if sizes:
            return None if facts.is_constant(sizes) and facts.shape(sizes) == (of,) else COMPUTED
        scales = facts.constant(node.input(2 if facts.opset >= 11 else 1))
        if scales is None:
            return COMPUTED
        return None if len(scales) > 1 and scales[1] == 1 else "Resize over channels"

    @staticmethod
    def _sizes(node: Node) -> str:
        """Name of the constant that holds all output sizes; "" when scales are given."""
        return node.input(3) if node.attribute("axes") is None else ""

    def pads(self, node: Node, pads: Pads) -> Range | str:
        inside = pads.of(node.input(0))
        return ANY if node.attribute("mode", "nearest") == "cubic" and inside != ZERO else hull([inside, ZERO])

    def edit(self, node: Node, edit: Edit) -> tuple[str, ...]:
        sizes = self._sizes(node)
        if not sizes:
            return edit.copy(node)
        changed = edit.constant(sizes).copy()
        changed[1] = edit.width(node.outputs[0])
        return edit.copy(node, {3: changed})


class Transpose(SameLayout):
    def refuses(self, node: Node, trace: Trace) -> str | None:
        order = node.attribute("perm", [])
        return None if order[:2] == [0, 1] else "Transpose moves the channels"
