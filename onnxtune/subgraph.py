"""A part of a graph as plain values, for drawing: what a rewrite took away and what it put in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnxtune.apply import ApplyError, apply
from onnxtune.facts import Facts, Node
from onnxtune.proposal import Proposal
from onnxtune.region import extract

DRAWN = 40
"""Nodes of a subgraph that are described; the rest is counted."""
TOLD = ("kernel_shape", "strides", "pads", "dilations", "group", "mode", "axis", "axes", "perm", "size", "blocksize")
"""Attributes that say what a layer is."""
LISTED = 8
"""Numbers of an attribute that are kept."""


@dataclass(frozen=True)
class SubgraphNode:
    """`key`: its first output. `inputs` and `outputs`: names of tensors that are not constant. `weights`: shapes of
    the constant ones, None where unknown. `attributes`: those of TOLD that differ from ONNX's default."""

    key: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[tuple[int, ...] | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subgraph:
    """Nodes in topological order; `shapes`: of the tensors between them, at the measured sizes, where known.

    `aliases`: tensors that became another one, which stands in for them (a no-op was taken out). `left_out`: nodes
    beyond DRAWN.
    """

    nodes: tuple[SubgraphNode, ...]
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0


def before_and_after(facts: Facts, proposal: Proposal) -> tuple[Subgraph, Subgraph]:
    """What a proposal removes from this graph, and what it brings. No weight is computed for it."""
    removed = sorted((facts.by_key[key] for key in proposal.removes), key=lambda n: n.index)
    known = _weights(facts, removed)
    fragment = proposal.fragment
    brought = [Node(proto, i) for i, proto in enumerate(fragment.nodes)]
    stored = {w.name: tuple(described.dims) for w in fragment.stored for described in [_described(w)]}
    after = {**_weights(facts, brought), **stored}
    shapes = {**_shapes(facts, removed), **_inner_shapes(facts, proposal), **_shapes(facts, brought)}
    return (
        _subgraph(removed, known, _shapes(facts, removed), {}),
        _subgraph(brought, after, shapes, {k: v for k, v in fragment.aliases.items() if facts.exists(k)}),
    )


def _described(weight: Any) -> onnx.TensorProto:
    return weight if isinstance(weight, onnx.TensorProto) else weight.described()


def _weights(facts: Facts, nodes: Iterable[Node]) -> dict[str, tuple[int, ...] | None]:
    return {i: facts.size(i) for n in nodes for i in n.inputs if i and facts.is_constant(i)}


def _shapes(facts: Facts, nodes: Iterable[Node]) -> dict[str, tuple[int, ...]]:
    tensors = {t for n in nodes for t in (*n.inputs, *n.outputs) if t}
    return {t: size for t in sorted(tensors) if (size := facts.size(t)) is not None}


def _inner_shapes(facts: Facts, proposal: Proposal) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that only the replacement has; none where the region cannot be cut out."""
    region = extract(facts, proposal.removes, proposal.reads)
    if region is None:
        return {}
    try:
        changed = Facts(apply(region, [proposal], described=True))
    except ApplyError:  # it reads what lies outside of the region
        return {}
    return _shapes(changed, changed.nodes)


def _subgraph(
    nodes: list[Node],
    weights: Mapping[str, tuple[int, ...] | None],
    shapes: Mapping[str, tuple[int, ...]],
    aliases: Mapping[str, str],
) -> Subgraph:
    shown = tuple(
        SubgraphNode(
            node.key,
            f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
            tuple(i for i in node.inputs if i and i not in weights),
            tuple(o for o in node.outputs if o),
            tuple(weights[i] for i in node.inputs if i in weights),
            {k: _short(v) for k, v in node.attributes.items() if k in TOLD and not _usual(k, v)},
        )
        for node in nodes[:DRAWN]
    )
    touched = {t for n in shown for t in (*n.inputs, *n.outputs)} | set(aliases) | set(aliases.values())
    between = {t: shapes[t] for t in sorted(touched) if t in shapes}
    return Subgraph(shown, between, dict(aliases), len(nodes) - len(shown))


def _usual(name: str, value: Any) -> bool:
    """Is it what ONNX assumes where the attribute is absent?"""
    if name in ("strides", "dilations"):
        return all(v == 1 for v in value)
    return (name == "pads" and not any(value)) or (name == "group" and value == 1)


def _short(value: Any) -> Any:
    return value[:LISTED] if isinstance(value, list) else value
