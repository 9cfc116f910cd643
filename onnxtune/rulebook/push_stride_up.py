"""What a strided 1x1 convolution does not read is not computed.

A 1x1 window with stride s reads every s-th row and column of its input t. When all readers of t are such
windows, the node that makes t need only make these pixels: the stride moves up through pointwise
operators, sums and Concat of channels, to the convolutions and pools that take it over. A window with stride r
that made n = floor(L / r) + 1 pixels, L = H + pads - d (k - 1) - 1, has to make

    ceil(n / s) = floor((n - 1) / s) + 1 = floor(L / (r s)) + 1

which is what the same kernel, pads and dilation make with stride r s. Two strides that meet are reduced to
what they have in common (`grids.py` follows them through the graph).

Where one operand of a sum cannot be made thinner (another node reads all of it), it is thinned there, by
a 1x1 MaxPool or a Slice: two proposals, and time decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.grids import SEVERAL_MAPS, Grid, asks, grids, maps, regions, thinnable
from onnxtune.proposal import Decline, Proposal
from onnxtune.windows import Window

RULE = "push_stride_up"
LAST = np.iinfo(np.int64).max


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    found = grids(facts)
    for region in regions(facts, found):
        first = _proposal(facts, region, found, "MaxPool")
        yield first
        if facts.opset >= 10 and first.details["inserted"]:  # steps of a Slice
            yield _proposal(facts, region, found, "Slice")
    for node in facts.nodes:
        tensor = node.input(0)
        if node.is_op("Conv") and tensor not in found and asks(facts, node, tensor, found):
            reason = _obstacle(facts, tensor, found)
            if reason:
                yield Decline(RULE, node.key, reason)


def _proposal(facts: Facts, region: Sequence[Node], found: Mapping[str, Grid], form: str) -> Proposal:
    new = Builder(f"{region[0].key}/{RULE}", facts.names, facts.opset)
    made: dict[str, str] = {}
    moved = inserted = 0
    for node in region:
        inputs = [made.get(i, i) for i in node.inputs]
        grid, own = found.get(node.outputs[0]), thinnable(facts, node)
        if isinstance(own, Window):
            moved += grid is not None
            pads = own.pads if any(own.pads) else None
            steps = _steps(own, grid, found.get(node.inputs[0]))
            y = new.copy(node.proto, inputs, strides=steps, pads=pads, auto_pad=None)[0]
        else:
            assert grid, "a pointwise node reads a grid because its result is read on one"
            thick = [i for i in maps(facts, node, grid) or () if _ratio(grid, found.get(node.inputs[i]))]
            inserted += len(thick)
            for i in thick:
                inputs[i] = _thinned(new, inputs[i], _ratio(grid, found.get(node.inputs[i])), form)
            y = new.copy(node.proto, _constants_thinned(facts, node, inputs, grid))[0]
        made[node.outputs[0]] = y
    outputs = {n.outputs[0]: made[n.outputs[0]] for n in region if n.outputs[0] not in found}
    title = f"stride of 1x1 layers -> stride of {moved} layers before" + (f", {inserted} {form}" if inserted else "")
    keys = frozenset(n.key for n in region)
    given = {"thinned by": form} if inserted else {}
    return Proposal(RULE, title, keys, new.finish(outputs), settings=given, details={"inserted": inserted})


def _steps(own: Window, grid: Grid | None, have: Grid | None) -> list[int]:
    """Strides of a window whose result and input are thin by `grid` and `have`."""
    ones = (1,) * len(own.strides)
    return [s * g // h for s, g, h in zip(own.strides, grid or ones, have or ones, strict=True)]


def _ratio(grid: Grid, have: Grid | None) -> list[int]:
    """How much thinner a tensor must become, empty when it is thin enough."""
    steps = [g // h for g, h in zip(grid, have or (1,) * len(grid), strict=True)]
    return steps if any(s > 1 for s in steps) else []


def _constants_thinned(facts: Facts, node: Node, inputs: Sequence[str], grid: Grid) -> list[str | NDArray[Any]]:
    """The inputs with constant maps at the pixels of the grid; their axes align from the last."""
    result: list[str | NDArray[Any]] = list(inputs)
    for i, name in enumerate(node.inputs if node.is_op(*SEVERAL_MAPS, "Concat") else ()):
        values = facts.constant(name)
        if values is not None:
            index: tuple[Any, ...] = (..., *(slice(None, None, s) for s in grid[max(0, len(grid) - values.ndim) :]))
            result[i] = name if values[index].shape == values.shape else values[index]
    return result


def _thinned(new: Builder, x: str, steps: Sequence[int], form: str) -> str:
    if form == "MaxPool":
        return str(new.MaxPool(x, kernel_shape=[1] * len(steps), strides=list(steps)))
    axes = np.arange(2, 2 + len(steps))
    return str(new.Slice(x, np.zeros_like(axes), np.full_like(axes, LAST), axes, np.array(steps, np.int64)))


def _obstacle(facts: Facts, tensor: str, found: Mapping[str, Grid]) -> str:
    """Why nothing could be left out of the input of a strided 1x1 Conv; "" when nothing makes it."""
    node = facts.producer(tensor)
    if node is None:
        return ""
    if facts.is_output(tensor):
        return f"'{tensor}' is a graph output"
    others = [n for n in facts.consumers(tensor) if asks(facts, n, tensor, found) is None]
    if others:
        return f"'{tensor}' has a second consumer ({others[0].op_type}) that reads every pixel"
    problem = thinnable(facts, node)
    return problem if isinstance(problem, str) else "its readers' strides have nothing in common"
