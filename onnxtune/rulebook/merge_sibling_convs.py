"""Convolutions of one input with equal windows, as one with all their filters.

    W_i * x + b_i for i = 1..n  =  parts of [W_1; ...; W_n] * x + [b_1; ...; b_n]     (rows: output channels)

Every output channel is computed from the same numbers as before. An activation that all siblings share works
on each element by itself, so that it may stand before the Split, where it is fused with the convolution.
Siblings that follow one another in a Concat of channels are parts in the right order already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

RULE = "merge_sibling_convs"
ACTIVATIONS = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "Elu", "Selu", "Softplus", "Softsign"),
    *("HardSwish", "Mish", "Gelu", "Celu", "ThresholdedRelu"),
)


@dataclass(frozen=True)
class Sibling:
    """A Conv with the activation that alone reads it, None when there is none."""

    conv: Convolution
    activation: Node | None

    @property
    def y(self) -> str:
        return self.activation.outputs[0] if self.activation else self.conv.y

    @property
    def keys(self) -> list[str]:
        return [self.conv.node.key, *([self.activation.key] if self.activation else [])]

    def bare(self) -> Sibling:
        return Sibling(self.conv, None)


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for x in dict.fromkeys(n.input(0) for n in facts.nodes if n.is_op("Conv")):
        readers = [n for n in facts.consumers(x) if n.is_op("Conv") and n.inputs.count(x) == 1 and n.input(0) == x]
        if len(readers) < 2:
            continue
        read = {n.key: convolution(facts, n) for n in readers}
        families: dict[object, list[Sibling]] = {}
        for conv in read.values():
            if isinstance(conv, Convolution) and conv.group == 1:
                families.setdefault((conv.window, conv.dtype), []).append(_sibling(facts, conv))
        merged = [f for f in families.values() if len(f) > 1]
        for family in merged:
            yield from _forms(facts, family)
        if not merged and (reason := _reason(list(read.values()))):
            yield Decline(RULE, readers[0].key, reason)


def _reason(read: Sequence[Convolution | str]) -> str:
    """Why no two of the convolutions are siblings; "" where they do not even look like ones."""
    unread = [c for c in read if isinstance(c, str)]
    plain = [c for c in read if isinstance(c, Convolution) and c.group == 1]
    if len(plain) > 1:
        alike = len({c.window.kernel for c in plain}) < len(plain)
        return "convolutions of one kernel that differ in stride, pads or dilation" if alike else ""
    return unread[0] if unread else "convolutions with groups"


def _sibling(facts: Facts, conv: Convolution) -> Sibling:
    readers = facts.consumers(conv.y)
    alone = len(readers) == 1 and not facts.is_output(conv.y) and readers[0].input(0) == conv.y
    fixed = alone and all(facts.is_constant(i) for i in readers[0].inputs[1:] if i)
    return Sibling(conv, readers[0] if fixed and readers[0].is_op(*ACTIVATIONS) else None)


def _alike(facts: Facts, siblings: Sequence[Sibling]) -> bool:
    """Have all the same activation with the same parameters (or none)?"""
    return len({_identity(facts, s.activation) for s in siblings}) == 1


def _identity(facts: Facts, node: Node | None) -> object:
    if node is None:
        return None
    constants = ((facts.constant(i) if i else None) for i in node.inputs[1:])
    return node.op_type, repr(sorted(node.attributes.items())), *(None if c is None else c.tobytes() for c in constants)


def _forms(facts: Facts, family: Sequence[Sibling]) -> Iterator[Proposal]:
    """One Conv + Split for all, and one Conv for each row of siblings in a Concat."""
    for concat in dict.fromkeys(n for s in family for n in facts.consumers(s.y) if n.is_op("Concat")):
        if concat.attribute("axis") in (1, 1 - len(family[0].conv.window.kernel) - 2):
            yield from (_joined(facts, concat, run) for run in _runs(facts, concat, family))
    members = family if _alike(facts, family) else [s.bare() for s in family]
    new = Builder(f"{members[0].conv.node.key}/{RULE}", facts.names, facts.opset)
    y, sizes = _convolved(new, members), [s.conv.out_channels for s in members]
    if facts.opset >= 13:
        parts = new.Split(y, np.array(sizes, np.int64), axis=1, outputs=len(sizes))
    else:
        parts = new.Split(y, axis=1, split=sizes, outputs=len(sizes))
    fragment = new.finish(dict(zip((s.y for s in members), parts, strict=True)))
    yield Proposal(RULE, f"{len(members)} sibling Convs -> Conv + Split", _keys(members), fragment)


def _runs(facts: Facts, concat: Node, family: Sequence[Sibling]) -> Iterator[list[Sibling]]:
    """Rows of siblings in the Concat that nobody else reads."""
    by_name = {s.y: s for s in family if not facts.why_not_private(s.y, {concat.key})}
    run: list[Sibling] = []
    for name in [*concat.inputs, ""]:
        found = by_name.get(name) if concat.inputs.count(name) == 1 else None
        if run and (found is None or not _alike(facts, [run[0], found])):
            if len(run) > 1:
                yield run
            run = []
        if found is not None:
            run = [*run, found]


def _joined(facts: Facts, concat: Node, run: Sequence[Sibling]) -> Proposal:
    new = Builder(f"{concat.key}/{RULE}", facts.names, facts.opset)
    y, first = _convolved(new, run), concat.inputs.index(run[0].y)
    rest = [*concat.inputs[:first], y, *concat.inputs[first + len(run) :]]
    joined = y if len(rest) == 1 else new.copy(concat.proto, rest)[0]
    fragment = new.finish({concat.outputs[0]: joined})
    title = f"{len(run)} sibling Convs that a Concat joins -> Conv"
    return Proposal(RULE, title, _keys(run) | {concat.key}, fragment)


def _convolved(new: Builder, siblings: Sequence[Sibling]) -> str:
    """One Conv with all filters, and the common activation."""
    convs, activation = [s.conv for s in siblings], siblings[0].activation
    weight = np.concatenate([c.weight for c in convs])
    bias = np.concatenate([c.shift for c in convs]) if any(c.bias is not None for c in convs) else None
    y = add_conv(new, convs[0].x, weight, bias, convs[0].window, convs[0].dtype)
    return y if activation is None else new.copy(activation.proto, [y, *activation.inputs[1:]])[0]


def _keys(siblings: Sequence[Sibling]) -> frozenset[str]:
    return frozenset(k for s in siblings for k in s.keys)
