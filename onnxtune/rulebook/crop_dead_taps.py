"""Outer rows and columns of a kernel that contribute nothing are cut off.

Per axis, tap u of a window with stride s, dilation d and leading pad p reads pixel i s + u d - p for output i. A
tap that reads padding alone, for every output, contributes zeros to a Conv. So does one all of whose weights are
exactly 0, whatever the map's size. Cutting off `a` taps at one end takes a d from the pad there (`taps.py`): every
other tap reads what it read, and as many are cut as the pads allow. A 3x3 window with pads 1 on a map of one
pixel is a 1x1 window; atrous convolutions with a dilation of the map's size likewise.

A pool's padding is not zeros. MaxPool ignores it, and so does an AveragePool that does not count it:
every window keeps the pixels that it had. Windows stay larger than their pads, as runtimes demand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.taps import Cut, cropped, outer_cut, trimmed, unread_taps, zero_taps
from onnxtune.windows import Window, window

RULE = "crop_dead_taps"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if node.is_op("Conv", "MaxPool", "AveragePool"):
            result = _cropped(facts, node)
            if isinstance(result, No):
                yield Decline(RULE, node.key, str(result))
            elif result is not None:
                yield result


def _cropped(facts: Facts, node: Node) -> Proposal | No | None:
    """The smaller window, a reason when there is one but it may not be, None when there is none."""
    own = window(facts, node)
    if isinstance(own, str) or all(k == 1 for k in own.kernel):
        return None
    shape = facts.shape(node.input(0)) or ()
    sizes = shape[2:] if len(shape) == len(own.kernel) + 2 else (None,) * len(own.kernel)
    dead = [unread_taps(own, axis, size) for axis, size in enumerate(sizes)]
    weight = facts.constant(node.input(1)) if node.op_type == "Conv" else None
    if weight is not None:
        dead = [a | b for a, b in zip(dead, zero_taps(weight), strict=True)]
    cuts = [outer_cut(own, axis, taps) for axis, taps in enumerate(dead)]
    if not any(map(any, cuts)):
        return None
    conv = convolution(facts, node) if node.op_type == "Conv" else None
    if isinstance(conv, str):
        return No(conv)
    smaller = trimmed(own, cropped(own, cuts), sizes)
    problem = "" if conv else _pool_problem(node, smaller)
    return No(problem) if problem else _proposal(facts, node, conv, own, smaller, cuts)


def _pool_problem(node: Node, smaller: Window) -> str:
    if len(node.outputs) > 1 and node.outputs[1]:
        return "the Indices output is used"
    if node.attribute("ceil_mode", 0):
        return "ceil_mode = 1"
    if node.op_type == "AveragePool" and node.attribute("count_include_pad", 0):
        return "the pool counts its padding"
    reach = zip(smaller.kernel, smaller.begin, smaller.end, strict=True)
    return "" if all(max(b, e) < k for k, b, e in reach) else "the smaller window would not be larger than its pads"


def _proposal(
    facts: Facts, node: Node, conv: Convolution | None, own: Window, smaller: Window, cuts: Sequence[Cut]
) -> Proposal:
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    if conv:
        kept: tuple[Any, ...] = (..., *(slice(a, k - b) for k, (a, b) in zip(own.kernel, cuts, strict=True)))
        y = add_conv(new, conv.x, conv.weight[kept], conv.bias, smaller, conv.dtype, conv.group)
    elif math.prod(smaller.kernel) == math.prod(smaller.strides) == 1 and not any(smaller.pads):
        y = node.inputs[0]  # every window is its own pixel
    else:
        dilations = list(smaller.dilations) if any(d != 1 for d in smaller.dilations) else None
        changed = {"kernel_shape": list(smaller.kernel), "pads": smaller.pads, "dilations": dilations}
        y = new.copy(node.proto, [node.inputs[0]], auto_pad=None, **changed)[0]
    sizes = ["x".join(map(str, w.kernel)) for w in (own, smaller)]
    title = f"{node.op_type} {sizes[0]} -> {sizes[1]}, outer taps read nothing"
    return Proposal(RULE, title, frozenset({node.key}), new.finish({node.outputs[0]: y}))
