"""What constant, repeated and unused operands of a Concat add to the Conv that follows, computed apart.

    W * [x1, ..., xn] + b  =  sum_i W_i * x_i + b             (W_i: the columns of W for the channels of x_i)

    W_i = 0                        nothing (as long as x_i is finite)
    x_i constant                   a constant map for a known size; the same everywhere and no pads: a bias
    x_i = v, one pixel, repeated   without pads every window is full of v: a 1x1 convolution of v by the sum
                                   of W_i's taps, added to all places

Other operands stay. `onnxtune.operands` says which operand is what.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.linear import fits, map_size
from onnxtune.operands import Share, operand, share
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No

RULE = "split_concat_conv"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        concat = facts.producer(node.input(0)) if node.is_op("Conv") else None
        if concat is not None and concat.is_op("Concat"):
            result = _split(facts, concat, node, settings["map_limit"])
            if result is not None:
                yield Decline(RULE, node.key, str(result)) if isinstance(result, No) else result


def _split(facts: Facts, concat: Node, node: Node, limit: int) -> Proposal | No | None:
    """The proposal, why not, or None: all operands are as they should be."""
    conv, rank = convolution(facts, node), facts.rank(node.input(1))
    found = [operand(facts, name) for name in concat.inputs]
    counts = _channels(facts, concat, conv)
    dead = _dead(conv, counts) if isinstance(conv, Convolution) and counts else [False] * len(found)
    if not any(dead) and not any(found):
        return None
    if isinstance(conv, str):
        return No(conv)
    if conv.group > 1:
        return No("a convolution with groups")
    if concat.attribute("axis") not in (1, 1 - (rank or 0)):
        return No("the Concat joins another axis")
    if seen := facts.why_not_private(concat.outputs[0], {node.key}):
        return No(seen)
    if counts is None or not np.isfinite(conv.weight).all():
        return No("the weights are not finite" if counts else "the numbers of channels are not known")
    ends = np.cumsum([0, *counts])
    columns = [conv.weight[:, a:b] for a, b in itertools.pairwise(ends)]
    size = map_size(facts, concat.outputs[0])
    shares: list[Share | str | None] = [
        Share() if nothing else None if o is None else share(conv, w, o, size, limit)
        for w, o, nothing in zip(columns, found, dead, strict=True)
    ]
    if not any(isinstance(s, Share) for s in shares):
        return No(next(s for s in shares if isinstance(s, str)))
    kept = [i for i, s in enumerate(shares) if not isinstance(s, Share)]
    if not kept:
        return No("all operands are constant or repeated")
    return _proposal(facts, concat, conv, kept, columns, [s for s in shares if isinstance(s, Share)])


def _channels(facts: Facts, concat: Node, conv: Convolution | str) -> list[int] | None:
    """Channels of all operands; one that is not known is what the others leave."""
    known = [facts.channels(name) for name in concat.inputs]
    if isinstance(conv, Convolution) and known.count(None) == 1:
        known[known.index(None)] = conv.in_channels - sum(c for c in known if c is not None)
    counts = [c for c in known if c is not None]
    return counts if len(counts) == len(known) and (isinstance(conv, str) or sum(counts) == conv.in_channels) else None


def _dead(conv: Convolution, counts: Sequence[int]) -> list[bool]:
    ends = np.cumsum([0, *counts])
    return [conv.group == 1 and not conv.weight[:, a:b].any() for a, b in itertools.pairwise(ends)]


def _proposal(
    facts: Facts,
    concat: Node,
    conv: Convolution,
    kept: Sequence[int],
    columns: Sequence[NDArray[np.float64]],
    shares: Sequence[Share],
) -> Proposal | No:
    removed = [o for i, name in enumerate(concat.inputs) if i not in kept and (o := operand(facts, name))]
    makers = {o.node.key: o.node for o in removed if o.node is not None}
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    outputs: dict[str, str] = {}
    for key, maker in makers.items():
        if facts.why_not_private(key, {concat.key}):  # others read it: it stays, for them
            outputs[key] = new.copy(maker.proto, maker.inputs)[0]
    operands = [concat.inputs[i] for i in kept]
    x = operands[0] if len(kept) == 1 else new.copy(concat.proto, operands)[0]
    constants = [s.constant for s in shares if s.constant is not None]
    constant = sum(constants, conv.shift.reshape(1, -1, *(1,) * len(conv.window.kernel)))
    flat = constant.size == conv.out_channels
    bias = constant.ravel() if flat and constant.any() else None
    weight = np.concatenate([columns[i] for i in kept], axis=1)
    if not fits(conv.dtype, weight, constant, *(s.weight for s in shares)):
        return No("the new weights are not finite")
    y = add_conv(new, x, weight, bias, conv.window, conv.dtype)
    for part in shares:
        if part.weight is not None:
            y = str(new.Add(y, new.Conv(part.pixel, part.weight.astype(conv.dtype))))
    if not flat:
        y = str(new.Add(y, constant.astype(conv.dtype)))
    outputs[conv.y] = y
    title = f"Concat of {len(columns)} + Conv -> Conv of {len(kept)} and what the others add"
    return Proposal(RULE, title, frozenset([concat.key, conv.node.key, *makers]), new.finish(outputs))
