"""A 1x1 convolution and a Resize in the order that leaves the convolution fewer pixels.

A Resize of the map takes, in every channel alike, y[i] = sum over j of r[i, j] x[j], and a 1x1 convolution
takes, at every pixel alike, z = W y + b. Sums over channels and over pixels may change places:

    W (sum of r[i, j] x[j]) + b = sum of r[i, j] (W x[j] + b)        where sum over j of r[i, j] = 1

Weights of nearest, linear and cubic interpolation do add up to 1 at every pixel, borders included, as long
as nothing outside of the map is left out or made up. Nearest has one weight of 1, so that activations
between the two, and one after both, change places as well.

Up: Resize, Conv becomes Conv, Resize. Down: Conv, Resize becomes Resize, Conv. Whether the map grows only
decides what is worth a try: measured sizes tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune.convolution import Convolution, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.pointwise import before, fused_after, replay
from onnxtune.proposal import Decline, Proposal
from onnxtune.resizing import Resizing, growth, other_inputs, resizing
from onnxtune.rule import No

RULE = "move_conv_before_resize"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if not node.is_op("Conv", "Resize", "Upsample"):
            continue
        between, source = before(facts, node.inputs[0])
        first = facts.producer(source)
        if first is None or {first.op_type, node.op_type} not in ({"Conv", "Resize"}, {"Conv", "Upsample"}):
            continue
        up = node.is_op("Conv")
        answer = _answer(facts, (first if up else node), (node if up else first), between, up=up)
        if answer is not None:
            yield Decline(RULE, node.key, str(answer)) if isinstance(answer, No) else answer


def _answer(facts: Facts, resize: Node, node: Node, between: Sequence[Node], *, up: bool) -> Proposal | No | None:
    if growth(facts, resize) <= 1 if up else growth(facts, resize) >= 1:
        return None
    kernel = facts.shape(node.input(1))
    if kernel is None or any(k != 1 for k in kernel[2:]):
        return None
    found, conv = resizing(facts, resize), convolution(facts, node)
    if isinstance(found, str) or isinstance(conv, str):
        return No(found if isinstance(found, str) else str(conv))
    inside = [resize, *between, node] if up else [node, *between, resize]
    for maker, reader in itertools.pairwise(inside):
        if seen := facts.why_not_private(maker.outputs[0], {reader.key}):
            return No(seen)
    if not conv.pointwise or any(s != 1 for s in conv.window.strides):
        return No("the Conv has a stride or pads")
    same = facts.channels(found.x) == conv.in_channels if up else found.scales[1] == 1  # up: as the Conv demands
    if not same or (up and found.scales[1] not in (None, 1)):
        return No("the Resize may change channels")
    if not found.plain:
        return No("the Resize has weights that need not add up to 1")
    if between and found.mode != "nearest":
        return No(f"{between[0].op_type} between the Conv and a Resize of mode '{found.mode}'")
    return _proposal(facts, found, conv, inside, up=up)


def _proposal(facts: Facts, found: Resizing, conv: Convolution, inside: list[Node], *, up: bool) -> Proposal:
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    tail = other_inputs(facts, new, found, conv.out_channels if up else conv.in_channels)
    x, after = inside[0].inputs[0], []
    if up:
        last = fused_after(facts, conv.y) if found.mode == "nearest" else None
        after = [last] if last is not None else []
        x = replay(new, x, [*inside[1:], *after])
    y = new.copy(found.node.proto, [x, *tail])[0]
    if not up:
        y = replay(new, y, inside[:-1])
    region = [*inside, *after]
    orders = ["Resize, Conv 1x1", "Conv 1x1, Resize"]
    title = f"{found.mode}: {' -> '.join(orders if up else orders[::-1])}"
    return Proposal(RULE, title, frozenset(n.key for n in region), new.finish({region[-1].outputs[0]: y}))
