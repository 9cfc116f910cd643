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
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.operands import Operand, operand
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.stencil import Stencil, applied

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
    if isinstance(conv, str) or not np.isfinite(conv.weight).all():
        return No(conv if isinstance(conv, str) else "the weights are not finite")
    if conv.group > 1:
        return No("a convolution with groups")
    if concat.attribute("axis") not in (1, 1 - (rank or 0)):
        return No("the Concat joins another axis")
    if seen := facts.why_not_private(concat.outputs[0], {node.key}):
        return No(seen)
    if counts is None:
        return No("the numbers of channels are not known")
    ends = np.cumsum([0, *counts])
    columns = [conv.weight[:, a:b] for a, b in itertools.pairwise(ends)]
    size = tuple(facts.shape(concat.outputs[0]) or (None,))[2:]
    shares: list[Share | No | None] = [
        Share() if nothing else None if o is None else _share(conv, w, o, size, limit)
        for w, o, nothing in zip(columns, found, dead, strict=True)
    ]
    if not any(isinstance(s, Share) for s in shares):
        return next(s for s in shares if isinstance(s, No))
    kept = [i for i, s in enumerate(shares) if not isinstance(s, Share)]
    if not kept:
        return No("all operands are constant or repeated")
    return _proposal(facts, concat, conv, kept, columns, [s for s in shares if isinstance(s, Share)])


@dataclass(frozen=True, eq=False)
class Share:
    """What an operand adds to the output: a constant that broadcasts to (N, C_out, ...), or a 1x1 Conv of a pixel."""

    constant: NDArray[np.float64] | None = None
    pixel: str = ""
    weight: NDArray[np.float64] | None = None


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


def _share(conv: Convolution, w: NDArray[np.float64], o: Operand, size: tuple[Any, ...], limit: int) -> Share | No:
    """The operand's share through its columns `w` of the weight; `size` is the map's, as declared."""
    padded, axes = any(conv.window.pads), tuple(range(2, w.ndim))
    if o.value is None:
        if padded:
            return No("the convolution pads a repeated operand: at the border the share differs")
        return Share(pixel=o.pixel, weight=w.sum(axes, keepdims=True))
    shape = (1,) * (w.ndim - o.value.ndim) + o.value.shape
    value = np.broadcast_to(o.value.reshape(shape), (shape[0], w.shape[1], *shape[2:]))
    if not value.any():
        return Share()
    if all(d == 1 for d in shape[2:]) and not padded:
        return Share(constant=np.tensordot(value, w.sum(axes), (1, 1)).reshape(shape[0], -1, *(1,) * len(axes)))
    if not all(isinstance(d, int) for d in size):
        return No("a constant before pads, or one that is not the same everywhere, needs a known size of the map")
    part = Stencil(w, np.zeros(len(w)), conv.window, 1)
    if conv.out_channels * math.prod(size) > limit:
        return No("the constant map would be large")
    return Share(constant=applied(part, np.broadcast_to(value, (*value.shape[:2], *size))))


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
    with np.errstate(over="ignore"):
        y = add_conv(new, x, weight, bias, conv.window, conv.dtype)
        for share in shares:
            if share.weight is not None:
                y = str(new.Add(y, new.Conv(share.pixel, share.weight.astype(conv.dtype))))
        if not flat:
            y = str(new.Add(y, constant.astype(conv.dtype)))
    outputs[conv.y] = y
    fragment = new.finish(outputs)
    if not all(np.isfinite(numpy_helper.to_array(w)).all() for w in fragment.initializers):
        return No("the new weights are not finite")
    title = f"Concat of {len(columns)} + Conv -> Conv of {len(kept)} and what the others add"
    return Proposal(RULE, title, frozenset([concat.key, conv.node.key, *makers]), fragment)
