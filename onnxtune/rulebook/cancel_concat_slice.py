"""Parts of a concatenation that are operands of it.

    c = Concat(t_0, ..., t_k) along axis a, operand i covers [e_i, e_{i+1}),  e_0 = 0
    Slice(c, start = e_i, end = e_j, axis a, step 1) = Concat(t_i, ..., t_{j-1}),  = t_i when j = i + 1

Split is several such slices. The Concat stays when somebody else reads it or it is a graph output. Sizes
along `a` must be known numbers; the other dimensions do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

RULE = "cancel_concat_slice"
NO_MATCH = ""
"""The cut goes along another axis or in steps: nothing of this rule's."""
Cut = Mapping[str, tuple[int, int]]
"""Output tensor -> (start, end) along the axis."""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for concat in facts.nodes:
        if not concat.is_op("Concat"):
            continue
        readers = [n for n in facts.consumers(concat.outputs[0]) if n.is_op("Slice", "Split")]
        readers = [n for n in readers if n.input(0) == concat.outputs[0] and concat.outputs[0] not in n.inputs[1:]]
        if not readers:
            continue
        found = _operands(facts, concat, readers)
        if not isinstance(found, str):
            yield _proposal(facts, concat, found)
        elif found != NO_MATCH:
            yield Decline(RULE, concat.key, found)


def _operands(facts: Facts, concat: Node, readers: Sequence[Node]) -> dict[str, tuple[Node, tuple[int, int]]] | str:
    """Output of a reader -> (the reader, the range of operands that it is); else why there is none."""
    shapes = [facts.shape(i) for i in concat.inputs]
    if any(s is None for s in shapes):
        return "an operand's rank is not known"
    axis = int(concat.attribute("axis", 1)) % len(shapes[0] or (1,))
    sizes = [(s or ())[axis] for s in shapes]
    if not all(isinstance(s, int) for s in sizes):
        return "an operand's size along the axis is not known"
    edges = [0, *(int(e) for e in np.cumsum([s for s in sizes if isinstance(s, int)]))]
    result: dict[str, tuple[Node, tuple[int, int]]] = {}
    reason = NO_MATCH
    for node in readers:
        cut = _cut(facts, node, axis, len(shapes[0] or ()), edges[-1])
        if isinstance(cut, str):
            reason = reason or cut
        elif all(start in edges and end in edges and start < end for start, end in cut.values()):
            ranges = {name: (edges.index(start), edges.index(end)) for name, (start, end) in cut.items()}
            result.update({name: (node, where) for name, where in ranges.items()})
        else:
            reason = "the cut goes through an operand"
    return result or reason


def _cut(facts: Facts, node: Node, axis: int, rank: int, total: int) -> Cut | str:
    if node.op_type == "Split":
        return _split(facts, node, axis, rank, total)
    values = [_integers(facts, node, i, name) for i, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))]
    starts, ends, axes, steps = values
    if starts is None or ends is None or (axes is None and node.input(3)) or (steps is None and node.input(4)):
        return "the cut is not constant"
    axes = axes if axes is not None else list(range(len(starts)))
    if len(axes) != 1 or axes[0] % rank != axis or (steps or [1]) != [1]:
        return NO_MATCH
    start, end = (min(max(v + total if v < 0 else v, 0), total) for v in (starts[0], ends[0]))
    return {node.outputs[0]: (start, end)}


def _split(facts: Facts, node: Node, axis: int, rank: int, total: int) -> Cut | str:
    if node.attribute("axis", 0) % rank != axis:
        return NO_MATCH
    sizes = _integers(facts, node, 1, "split")
    if sizes is None:
        if node.input(1):
            return "the cut is not constant"
        count = len(node.outputs)
        if total % count:
            return "the cut goes through an operand"
        sizes = [total // count] * count
    edges = [0, *(int(e) for e in np.cumsum(sizes))]
    return {name: (edges[i], edges[i + 1]) for i, name in enumerate(node.outputs) if name}


def _integers(facts: Facts, node: Node, position: int, name: str) -> list[int] | None:
    """An operand that used to be an attribute; None when absent or not constant."""
    if name in node.attributes:
        return [int(v) for v in node.attributes[name]]
    value = facts.constant(node.input(position)) if node.input(position) else None
    return None if value is None else [int(v) for v in np.ravel(value)]


def _proposal(facts: Facts, concat: Node, found: Mapping[str, tuple[Node, tuple[int, int]]]) -> Proposal:
    new = Builder(f"{concat.key}/{RULE}", facts.names, facts.opset)
    axis = concat.attribute("axis", 1)
    gone = {node.key for node, _ in found.values()}
    outputs: dict[str, str] = {}
    if facts.why_not_private(concat.outputs[0], gone):
        outputs[concat.outputs[0]] = new.copy(concat.proto, concat.inputs)[0]
    for name, (_, (first, last)) in found.items():
        parts = concat.inputs[first:last]
        outputs[name] = parts[0] if len(parts) == 1 else new.Concat(*parts, axis=axis)
    title = f"{len(found)} parts of a Concat of {len(concat.inputs)} -> its operands"
    return Proposal(RULE, title, frozenset({concat.key, *gone}), new.finish(outputs))
