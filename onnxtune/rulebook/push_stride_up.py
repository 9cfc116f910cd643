"""What a strided 1x1 convolution does not read is not computed.

A 1x1 window with stride s reads every s-th row and column of its input t. When all readers of t are such
windows, the node that makes t need only make these pixels: the stride moves up through pointwise
operators and sums, to the convolutions and pools that take it over as a larger stride of their own. Their
pixel i' = s i stays what it was, with the same kernel, pads and dilations (`grids` has the algebra and the
sizes). Two strides that meet are reduced to what they have in common.

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
from onnxtune.grids import SEVERAL_MAPS, Grid, asks, grids, maps, thinnable
from onnxtune.proposal import Decline, Proposal

RULE = "push_stride_up"
LAST = np.iinfo(np.int64).max


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    found = grids(facts)
    for region in _regions(facts, found):
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


def _regions(facts: Facts, found: Mapping[str, Grid]) -> list[list[Node]]:
    """Nodes that make or read a thinned tensor, connected by these."""
    regions: list[dict[str, Node]] = []
    for tensor in found:
        touching = [facts.producer(tensor), *facts.consumers(tensor)]
        merged = {n.key: n for n in touching if n is not None}
        for region in [r for r in regions if not r.keys().isdisjoint(merged)]:
            merged |= region
            regions.remove(region)
        regions.append(merged)
    return [sorted(r.values(), key=lambda n: n.index) for r in regions]


def _proposal(facts: Facts, region: Sequence[Node], found: Mapping[str, Grid], form: str) -> Proposal:
    new = Builder(f"{region[0].key}/{RULE}", facts.names, facts.opset)
    made: dict[str, str] = {}
    inserted = moved = 0
    for node in region:
        own = thinnable(facts, node)
        grid = found.get(node.outputs[0]) or (1,) * len(next(iter(found.values())))
        inputs: list[str | NDArray[Any]] = [made.get(i, i) for i in node.inputs]
        if isinstance(own, str):
            positions = maps(facts, node, grid)
            assert positions is not None, "every node of the region is a window or pointwise"
            for i, tensor in enumerate(node.inputs):
                values = facts.constant(tensor)
                if i in positions and (step := _ratio(grid, found.get(tensor))):
                    inputs[i] = _thinned(new, made.get(tensor, tensor), step, form)
                    inserted += 1
                elif (
                    values is not None
                    and node.is_op(*SEVERAL_MAPS, "Concat")
                    and _thin(values, grid).size != values.size
                ):
                    inputs[i] = _thin(values, grid)
            made[node.outputs[0]] = new.copy(node.proto, inputs)[0]
        else:
            moved += node.outputs[0] in found
            have = found.get(node.inputs[0]) or (1,) * len(own.strides)
            steps = [s * g // h for s, g, h in zip(own.strides, grid, have, strict=True)]
            pads = own.pads if any(own.pads) else None
            made[node.outputs[0]] = new.copy(node.proto, inputs, strides=steps, pads=pads, auto_pad=None)[0]
    outputs = {n.outputs[0]: made[n.outputs[0]] for n in region if n.outputs[0] not in found}
    title = f"stride of 1x1 layers -> stride of {moved} layers before" + (f", {inserted} {form}" if inserted else "")
    keys = frozenset(n.key for n in region)
    given = {"thinned by": form} if inserted else {}
    return Proposal(RULE, title, keys, new.finish(outputs), settings=given, details={"inserted": inserted})


def _ratio(grid: Grid, have: Grid | None) -> list[int] | None:
    """How much thinner a tensor must become, None when it is thin enough."""
    steps = [g // h for g, h in zip(grid, have or (1,) * len(grid), strict=True)]
    return steps if any(s > 1 for s in steps) else None


def _thin(values: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """A constant operand at the pixels of the grid; its axes align from the last."""
    steps = grid[max(0, len(grid) - values.ndim) :]
    index: tuple[Any, ...] = (..., *(slice(None, None, s) for s in steps))
    return np.asarray(values[index])


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
