"""A convolution of joined channels as a sum, so that upsampled parts are convolved before they grow.

    W [x; R(z)] + b = (W1 x + b) + W2 R(z)          W = [W1 W2], split along its input channels

and W2 R(z) is made on the small map: R(W2 z) for a 1x1 kernel, a transposed convolution or its phases of z
for a larger one after nearest upsampling (see the rules `move_conv_before_resize`, `upsample_conv_to_phases`
for why). The bias stays with the part that is not upsampled; without such a part the first one has it.
Border and interpolation are each part's own, so that nothing else changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.phases import add_enlarging, square, upsampled
from onnxtune.pointwise import before, replay
from onnxtune.proposal import Decline, Proposal
from onnxtune.resizing import Resizing, factors, growth, other_inputs, resizing
from onnxtune.rule import No

RULE = "split_conv_of_concat"


@dataclass(frozen=True, eq=False)
class Part:
    """One operand of the Concat: its columns of the weight; `chain` makes it from resize.x (empty: stays as it is)."""

    tensor: str
    columns: slice
    chain: tuple[Node, ...] = ()
    resize: Resizing | None = None


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        joined = facts.producer(node.inputs[0]) if node.is_op("Conv") else None
        if joined is None or not joined.is_op("Concat"):
            continue
        rank = facts.rank(joined.outputs[0]) or 0
        if joined.attribute("axis") not in (1, 1 - rank) or not any(_chain(facts, name) for name in joined.inputs):
            continue
        found = _read(facts, joined, node)
        if isinstance(found, No):
            yield Decline(RULE, node.key, str(found))
            continue
        conv, parts = found
        grown = [p.resize for p in parts if p.resize is not None]
        even = all(isinstance(by := factors(r), tuple) and square(by) for r in grown)
        for form in ("resize",) if conv.pointwise else ("transposed", "phases") if even else ("transposed",):
            yield _proposal(facts, joined, conv, parts, form)


def _chain(facts: Facts, tensor: str) -> tuple[Node, ...]:
    """The Resize that makes the tensor and the pointwise nodes behind it, if it enlarges at the measured sizes."""
    between, source = before(facts, tensor)
    resize = facts.producer(source)
    if resize is None or not resize.is_op("Resize", "Upsample") or growth(facts, resize) <= 1:
        return ()
    return (resize, *between)


def _read(facts: Facts, joined: Node, node: Node) -> tuple[Convolution, list[Part]] | No:
    conv = convolution(facts, node)
    if isinstance(conv, str):
        return No(conv)
    if seen := facts.why_not_private(joined.outputs[0], {node.key}):
        return No(seen)
    if conv.group > 1 or any(s != 1 for s in conv.window.strides):
        return No("the Conv has a stride or groups")
    counts = [facts.channels(name) for name in joined.inputs]
    if None in counts:
        return No("the channels of a joined map are not known")
    ends = list(itertools.accumulate(int(c or 0) for c in counts))
    parts, problems = [], []
    for name, end, count in zip(joined.inputs, ends, counts, strict=True):
        part = Part(name, slice(end - int(count or 0), end))
        if chain := _chain(facts, name):
            found = _grown(facts, [*chain, joined], conv)
            if isinstance(found, str):
                problems.append(found)
            else:
                part = replace(part, chain=chain, resize=found)
        parts.append(part)
    return (conv, parts) if any(p.chain for p in parts) else No(problems[0])


def _grown(facts: Facts, nodes: list[Node], conv: Convolution) -> Resizing | str:
    """The Resize if the Conv can work before it, else in words why it cannot."""
    for maker, reader in itertools.pairwise(nodes):
        if seen := facts.why_not_private(maker.outputs[0], {reader.key}):
            return seen
    found = resizing(facts, nodes[0])
    if isinstance(found, str):
        return found
    if not conv.pointwise:
        by = factors(found)
        return by if isinstance(by, str) else found
    if not found.plain or found.scales[1] not in (None, 1) or facts.channels(found.x) != facts.channels(found.y):
        return "the Resize has weights that need not add up to 1, or changes channels"
    if len(nodes) > 2 and found.mode != "nearest":
        return f"{nodes[1].op_type} behind a Resize of mode '{found.mode}'"
    return found


def _proposal(facts: Facts, joined: Node, conv: Convolution, parts: list[Part], form: str) -> Proposal:
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    stay = [p for p in parts if p.resize is None]
    terms: list[str] = []
    if stay:
        x = stay[0].tensor if len(stay) == 1 else new.Concat(*(p.tensor for p in stay), axis=1)
        weight = np.concatenate([conv.weight[:, p.columns] for p in stay], axis=1)
        terms.append(add_conv(new, x, weight, conv.bias, conv.window, conv.dtype))
    for part in parts:
        if part.resize is not None:
            own = replace(conv, weight=conv.weight[:, part.columns], bias=None if terms else conv.bias)
            terms.append(_term(facts, new, part.resize, part, own, form))
    y = terms[0]
    for term in terms[1:]:
        y = new.Add(y, term)
    inside = dict.fromkeys([joined, conv.node, *(n for p in parts for n in p.chain)])
    kernel = "x".join(map(str, conv.window.kernel))
    title = f"Conv {kernel} of {len(parts)} joined maps -> sum of {len(terms)} ({form})"
    keys = frozenset(n.key for n in inside)
    return Proposal(RULE, title, keys, new.finish({conv.y: y}), settings={"form": form})


def _term(facts: Facts, new: Builder, found: Resizing, part: Part, conv: Convolution, form: str) -> str:
    x = replay(new, found.x, part.chain[1:])
    if form == "resize":
        y = add_conv(new, x, conv.weight, conv.bias, conv.window, conv.dtype)
        return new.copy(found.node.proto, [y, *other_inputs(facts, new, found, conv.out_channels)])[0]
    by = factors(found)
    assert not isinstance(by, str), "_grown has asked"
    return add_enlarging(new, x, upsampled(conv.weight, by, conv.window), conv, form)
